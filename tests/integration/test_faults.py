"""SIGKILL at seeded random moments: whatever dies, a rerun ends with the same bytes as an undisturbed run.

What dies is a worker, the raylet, the job's own process or all of them; when, hangs on how many files the run has
written, so that all stages are met however fast the machine is. `make test` takes one seed, `make faults` all.
"""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import psutil
import pytest

from tests.integration.job_process import call_json, make_config, read_results, run_json, start_mmcsal, write_config
from tests.ray_processes import is_busy_worker, list_children, name_process

NUM_SEEDS = int(os.environ.get("MMCSAL_FAULTS", "1"))
ARTIFACTS = ("pairs", "features", "encoder", "embeddings", "neighbors", "selection", "report")
TIMEOUT_S = 300.0


def _find_workers(job: psutil.Process) -> list[psutil.Process]:
    return [each for each in list_children(job, recursive=True) if is_busy_worker(each)]


def _find_raylet(job: psutil.Process) -> list[psutil.Process]:
    return [each for each in list_children(job, recursive=True) if "raylet/raylet" in name_process(each)]


TARGETS: dict[str, Callable[[psutil.Process], list[psutil.Process]]] = {
    "a worker": lambda job: _find_workers(job)[:1],
    "the raylet": _find_raylet,
    "the job's own process": lambda job: [job],
    "everything": lambda job: [job, *list_children(job, recursive=True)],
}


def _count_files(run: Path) -> int:
    return sum(len(names) for _, _, names in os.walk(run))


def _kill_at(process: "subprocess.Popen[str]", run: Path, num_files: int, target: str) -> bool:
    """Kill what `target` names once the run has written `num_files` files; say whether there was anything to kill."""
    job, deadline = psutil.Process(process.pid), time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        if _count_files(run) >= num_files:
            victims = TARGETS[target](job)
            for victim in victims:
                try:
                    victim.send_signal(signal.SIGKILL)
                except psutil.NoSuchProcess:
                    continue
            if victims:
                return True
        time.sleep(0.002)
    return False


@pytest.mark.parametrize("seed", range(NUM_SEEDS))
def test_a_rerun_after_a_sigkill_ends_in_the_same_bytes(
    finished: dict[str, Any], dirty_corpus: Path, tmp_path: Path, seed: int
) -> None:
    reference = Path(finished["output"]) / "run_id=t"
    draw, run = Random(seed), tmp_path / "out" / "run_id=t"
    target, num_files = list(TARGETS)[seed % len(TARGETS)], draw.randrange(1, _count_files(reference) - 8)
    resources = {"rows_per_shard": 256, "num_actors": 2}  # with one, the driver would do what workers can die of
    config = write_config(tmp_path / "job.yaml", make_config(dirty_corpus, tmp_path / "out", resources=resources))
    with start_mmcsal("run", config) as process:
        was_killed = _kill_at(process, run, num_files, target)
        _, told = process.communicate(timeout=TIMEOUT_S)
    assert "Traceback" not in told or process.returncode < 0, told
    codes = {"a worker": (0, 6), "the raylet": (1, 6)}  # without its raylet Ray ends the process by itself, with 1
    assert process.returncode in codes.get(target, (-signal.SIGKILL,)), told
    assert was_killed or target == "a worker", "the run ended before it had written that many files"
    run_json("run", config)
    assert call_json("run", config)["executed"] == []
    assert call_json("validate", run)["ok"] is True
    for name in ARTIFACTS:
        assert read_results(run / name) == read_results(reference / name), name
