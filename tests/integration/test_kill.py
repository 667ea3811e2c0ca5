"""SIGKILL in each stage: the next run resumes, and the selection ends with the same bytes as an undisturbed run's."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from jobs.config import parse_config
from jobs.progress import JsonReporter
from jobs.run import run_job
from tests.integration.job_process import make_config, read_files, run_json, run_mmcsal, start_mmcsal, write_config

STAGE_OF = {
    "pairs": "ingest",
    "features": "features",
    "encoder": "train",
    "embeddings": "embed",
    "neighbors": "neighbors",
    "selection": "coreset",
    "report": "report",
}
FOLDERS = tuple(STAGE_OF)


def read_results(artifact: Path) -> dict[str, bytes]:
    """Return the files of an artifact that hold no time of day."""
    return {name: data for name, data in read_files(artifact).items() if name != "_manifest.json"}


def is_under_way(run: Path, folder: str) -> bool:
    """Say whether a stage has begun: has a shard or an epoch done where it has several, else says so in the status."""
    done = {"features": "_shards", "embeddings": "_shards", "neighbors": "_shards", "encoder": "checkpoints"}
    if folder in done:
        return any((run / folder / done[folder]).glob("[!.]*"))
    status = run / "run_status.json"
    return status.exists() and json.loads(status.read_text())["stage"] == STAGE_OF[folder]


def kill_within(process: subprocess.Popen[str], run: Path, folder: str, timeout_s: float = 120.0) -> bool:
    """Kill `process` while a stage is under way and not finished; say whether that was met.

    Its Ray workers are left to notice by themselves, which takes them some seconds: the next run meets them.
    """
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline and process.poll() is None:
        if is_under_way(run, folder):
            os.kill(process.pid, signal.SIGSTOP)
            unfinished = not (run / folder / "_SUCCESS").exists()
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            return unfinished
        time.sleep(0.001)
    out, err = process.communicate()
    raise AssertionError(f"the run ended before {folder} was under way: {out}\n{err}")


def test_killed_in_each_stage_it_resumes_to_the_same_bytes(
    finished: dict[str, Any], dirty_corpus: Path, tmp_path: Path
) -> None:
    reference = Path(finished["output"]) / "run_id=t"
    disturbed = write_config(tmp_path / "job.yaml", make_config(dirty_corpus, tmp_path / "out"))
    run = tmp_path / "out" / "run_id=t"
    met = []
    for folder in FOLDERS:
        with start_mmcsal("run", disturbed) as process:
            met.append(kill_within(process, run, folder))
        done = FOLDERS[: FOLDERS.index(folder)]
        assert all((run / name / "_SUCCESS").exists() for name in done)
    run_job(parse_config(finished), JsonReporter())  # whatever another test has made of it since
    assert met == [True] * len(FOLDERS)
    assert json.loads((run / "run_status.json").read_text())["state"] == "running"
    assert run_json("status", run)["is_alive"] is False
    assert run_json("run", disturbed)["executed"] == ["report"]
    assert run_json("validate", run)["ok"] is True
    for folder in FOLDERS:
        assert read_results(run / folder) == read_results(reference / folder), folder


@pytest.mark.parametrize(
    ("number", "code", "state"), [(signal.SIGTERM, 143, "interrupted"), (signal.SIGINT, 130, "interrupted")]
)
def test_a_signal_ends_the_run_with_its_code_and_frees_the_lock(
    dirty_corpus: Path, tmp_path: Path, number: signal.Signals, code: int, state: str
) -> None:
    config = write_config(tmp_path / "job.yaml", make_config(dirty_corpus, tmp_path / "out"))
    run = tmp_path / "out" / "run_id=t"
    with start_mmcsal("run", config) as process:
        while not (run / "pairs" / "_SUCCESS").exists():
            assert process.poll() is None
            time.sleep(0.01)
        assert run_mmcsal("run", config, expect=5).startswith("mmcsal: another run holds")
        process.send_signal(number)
        process.communicate(timeout=60)
    assert process.returncode == code
    status = json.loads((run / "run_status.json").read_text())
    assert (status["state"], status["exit_code"]) == (state, code)
    assert not (run / "_lock.json").exists()
