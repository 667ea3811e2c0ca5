"""SIGKILL at seeded random moments: whatever dies, a rerun ends with the same bytes as an undisturbed run.

What dies is a worker, the raylet, the job's own process or all of them; 28 seeds are each of these in every stage.
`make test` takes one seed, `make faults` all.
"""

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import psutil
import pytest

from mmcsal_core.storage import Store
from tests.integration.job_process import FOLDERS, call_json, make_config, read_results, run_json, write_config
from tests.integration.losses import Moment, disturb_job, draw_moments, kill, put_on_workers
from tests.ray_processes import list_children, name_process, works_for

NUM_SEEDS = int(os.environ.get("MMCSAL_FAULTS", "1"))


def _find_worker(job: psutil.Process, stage: str, draw: Random) -> list[psutil.Process]:
    workers = [each for each in list_children(job, recursive=True) if works_for(each, stage)]
    return draw.sample(workers, min(1, len(workers)))


def _find_raylet(job: psutil.Process, stage: str, draw: Random) -> list[psutil.Process]:
    """Find it where the stage has workers: where the driver works alone, nothing of the job is lost with it."""
    processes = list_children(job, recursive=True)
    raylets = [each for each in processes if "raylet/raylet" in name_process(each)]
    return raylets if any(works_for(each, stage) for each in processes) else []


TARGETS: dict[str, Callable[[psutil.Process, str, Random], list[psutil.Process]]] = {
    "a worker": _find_worker,
    "the raylet": _find_raylet,
    "the job's own process": lambda job, stage, draw: [job],
    "everything": lambda job, stage, draw: [job, *list_children(job, recursive=True)],
}


@pytest.mark.parametrize("seed", range(NUM_SEEDS))
def test_a_rerun_after_a_sigkill_ends_in_the_same_bytes(
    finished: dict[str, Any],
    dirty_corpus: Path,
    tmp_path: Path,
    seed: int,
    record_property: Callable[[str, object], None],
) -> None:
    reference = Path(finished["output"]) / "run_id=t"
    target, draw = list(TARGETS)[seed % len(TARGETS)], Random(seed)

    def prepare(moment: Moment) -> tuple[Path, Store]:
        output = tmp_path / moment.stage
        resources = {"rows_per_shard": 256, **put_on_workers(moment.stage)}
        config = write_config(tmp_path / "job.yaml", make_config(dirty_corpus, output, resources=resources))
        return config, Store(str(output / "run_id=t"))

    def lose(job: "subprocess.Popen[str]", stage: str) -> bool:
        return kill(TARGETS[target](psutil.Process(job.pid), stage, draw))

    job = disturb_job(draw_moments(draw, seed + 1, reference), prepare, lose)
    lost = f"{target} in {job.stage}"
    record_property("lost", lost)
    assert "Traceback" not in job.told or job.returncode < 0, (lost, job.told)
    # without its raylet Ray ends the process by itself, with 1, after seconds in which a job near its end may be done
    codes = {"a worker": (0, 6), "the raylet": (0, 1, 6)}
    assert job.returncode in codes.get(target, (-signal.SIGKILL,)), (lost, job.told)
    executed = run_json("run", job.config)["executed"]
    assert executed == [] or job.returncode != 0, (lost, executed)  # one that ends with 0 has left nothing to do
    assert call_json("run", job.config)["executed"] == []
    assert call_json("validate", job.run.url)["ok"] is True
    for name in FOLDERS.values():
        assert read_results(Path(job.run.url) / name) == read_results(reference / name), (lost, name)
