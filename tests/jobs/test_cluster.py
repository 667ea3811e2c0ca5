import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.cluster import _init_arguments, check_address
from jobs.config import RayConfig
from jobs.exit_codes import ExitCode, classify_error
from pipelines.stage_run import Resources


def test_a_ray_of_our_own_has_no_dashboard_unless_asked_for_and_then_on_loopback() -> None:
    assert _init_arguments(RayConfig(), Resources())["include_dashboard"] is False
    for config in (RayConfig(), RayConfig(include_dashboard=True)):
        assert _init_arguments(config, Resources())["dashboard_host"] == "127.0.0.1"


def test_a_cluster_that_is_joined_is_left_as_it_is() -> None:
    joined = _init_arguments(RayConfig(address="auto"), Resources())
    assert joined["address"] == "auto"
    assert not {"include_dashboard", "num_cpus", "num_gpus"} & set(joined)


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_a_cluster_that_does_not_answer_is_named_at_once(scheme: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        address = f"{scheme}127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ConnectionError, match=f"a Ray cluster that answers, got '{address}' .*refused") as caught:
            check_address(address)
        taken.listen()
        check_address(address)
    assert classify_error(caught.value) == ExitCode.INFRASTRUCTURE
    check_address("auto")


def test_a_ray_of_our_own_spills_to_its_folder_and_answers_and_tells_no_stranger(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.jobs.spilling_ray", str(tmp_path)]
    ours = ("RAY_USAGE_STATS_ENABLED", "RAY_AUTH_MODE")
    environment = {name: value for name, value in os.environ.items() if name not in ours}
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
        cwd=Path(__file__).parents[2],
        env=environment,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["values"] == [[number] for number in range(8)]
    assert found["on_disk"] >= 4 * 20 * 2**20
    assert found["memory"] < 0.09 * 2**30
    assert found["tells"] is False
    assert found["answers"] == [True, False, False]
