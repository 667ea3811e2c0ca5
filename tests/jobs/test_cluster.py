import json
import subprocess
import sys
from pathlib import Path

from jobs.cluster import _init_arguments
from jobs.config import RayConfig
from pipelines.stage_run import Resources


def test_a_ray_of_our_own_has_no_dashboard_unless_asked_for_and_then_on_loopback() -> None:
    assert _init_arguments(RayConfig(), Resources())["include_dashboard"] is False
    for config in (RayConfig(), RayConfig(include_dashboard=True)):
        assert _init_arguments(config, Resources())["dashboard_host"] == "127.0.0.1"


def test_a_cluster_that_is_joined_is_left_as_it_is() -> None:
    joined = _init_arguments(RayConfig(address="auto"), Resources())
    assert joined["address"] == "auto"
    assert not {"include_dashboard", "num_cpus", "num_gpus"} & set(joined)


def test_what_has_no_room_in_memory_lies_in_the_spill_folder(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.jobs.spilling_ray", str(tmp_path)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=120, cwd=Path(__file__).parents[2]
    )
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["values"] == [[number] for number in range(8)]
    assert found["on_disk"] >= 4 * 20 * 2**20
    assert found["memory"] < 0.09 * 2**30
