"""SIGKILL in each stage: the next run resumes, and the selection ends with the same bytes as an undisturbed run's."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.integration.job_process import (
    FOLDERS,
    call_json,
    make_config,
    read_files,
    read_results,
    run_json,
    run_mmcsal,
    start_mmcsal,
    write_config,
)
from tests.integration.losses import hold_still
from tests.ray_processes import list_children, name_process

ARTIFACTS = tuple(FOLDERS.values())
ON_RAY = {"resources": {"rows_per_shard": 256, "num_actors": 2}}
"""With one actor the driver would do all of it itself."""


def is_under_way(run: Path, folder: str) -> bool:
    """Say whether a stage has begun: has a shard or an epoch done where it has several, else says so in the status."""
    done = dict.fromkeys(("features", "embeddings", "neighbors"), "_shards/[!.]*")
    done["encoder"] = "checkpoints/*/[!.]*.safetensors"
    if folder in done:
        return any((run / folder).glob(done[folder]))
    status = run / "run_status.json"
    return status.exists() and FOLDERS.get(json.loads(status.read_text())["stage"]) == folder


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
        time.sleep(0.005)
    out, err = process.communicate()
    raise AssertionError(f"the run ended before {folder} was under way: {out}\n{err}")


def test_killed_in_each_stage_it_resumes_to_the_same_bytes(
    finished: dict[str, Any], dirty_corpus: Path, tmp_path: Path
) -> None:
    reference = Path(finished["output"]) / "run_id=t"
    disturbed = write_config(tmp_path / "job.yaml", make_config(dirty_corpus, tmp_path / "out"))
    on_ray = write_config(tmp_path / "ray.yaml", make_config(dirty_corpus, tmp_path / "out", **ON_RAY))
    run = tmp_path / "out" / "run_id=t"
    met = []
    for folder in ARTIFACTS:
        with start_mmcsal("run", on_ray if folder == "features" else disturbed) as process:
            met.append(kill_within(process, run, folder))
        done = ARTIFACTS[: ARTIFACTS.index(folder)]
        assert all((run / name / "_SUCCESS").exists() for name in done)
    assert met == [True] * len(ARTIFACTS)
    assert json.loads((run / "run_status.json").read_text())["state"] == "running"
    assert call_json("status", run)["is_alive"] is False
    assert run_json("run", disturbed)["executed"] == ["report"]
    assert call_json("validate", run)["ok"] is True
    for folder in ARTIFACTS:
        assert read_results(run / folder) == read_results(reference / folder), folder


def count_logged(run: Path) -> dict[str, int]:
    """Return the picks in the run's pick log, by its parts."""
    counts: dict[str, int] = {}
    for path in (run / "_pick_log").glob("*/*/[!.]*.json"):
        counts[path.parent.name] = counts.get(path.parent.name, 0) + len(json.loads(path.read_bytes())["rows"])
    return counts


def kill_when_logged(process: subprocess.Popen[str], run: Path, part: str) -> None:
    """Kill `process` when its pick log holds a round of a part."""
    while part not in count_logged(run):
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


def test_killed_while_it_picks_it_goes_on_from_its_log(finished: dict[str, Any], tmp_path: Path) -> None:
    folder = "run_id=t"
    selections = []
    for name in ("undisturbed", "killed"):
        shutil.copytree(Path(finished["output"]) / folder, tmp_path / name / folder)
        selection = finished["selection"] | {"budget": 1000, "diversity_threshold": 50.0}
        resources = finished["resources"] | {"selection_actors": 2 if name == "killed" else 0}
        values = finished | {"output": str(tmp_path / name), "selection": selection, "resources": resources}
        selections.append(write_config(tmp_path / f"{name}.yaml", values))
    assert run_json("select", selections[0])["executed"] == ["coreset", "report"]
    run = tmp_path / "killed" / folder
    before = read_files(run / "selection")
    with start_mmcsal("select", selections[1]) as process:
        kill_when_logged(process, run, "diversity")
    logged = count_logged(run)
    assert sorted(logged) == ["coverage", "diversity"]
    assert sum(logged.values()) < 1000
    assert read_files(run / "selection") == before  # what was published before stays
    with start_mmcsal("select", selections[1]) as process:
        _, told = process.communicate(timeout=120)
    assert process.returncode == 0, told
    progress = [json.loads(line) for line in told.splitlines() if '"from the pick log"' in line]
    assert [(line["done"], line["total"]) for line in progress[:1]] == [(logged["coverage"], 1000)]
    assert not (run / "_pick_log").exists()
    assert call_json("validate", run)["ok"] is True
    assert read_results(run / "selection") == read_results(tmp_path / "undisturbed" / folder / "selection")


def read_settled(run: Path) -> dict[str, bytes]:
    """Return the files of a run that its workers leave alone: what it says of itself, and the pairs."""
    said = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
    assert {"_lock.json", "run_status.json", "config.json"} <= said.keys()
    return said | read_files(run / "pairs")


def is_ray_starting(process: subprocess.Popen[str]) -> bool:
    """Say whether the job has started the first of Ray's processes."""
    children = list_children(psutil.Process(process.pid), recursive=True)
    return any("gcs_server" in name_process(child) for child in children)


MOMENTS: dict[str, tuple[signal.Signals, int, dict[str, Any], Callable[[subprocess.Popen[str], Path], bool]]] = {
    "SIGINT": (signal.SIGINT, 130, {}, lambda process, run: (run / "pairs" / "_SUCCESS").exists()),
    "SIGTERM": (signal.SIGTERM, 143, {}, lambda process, run: (run / "pairs" / "_SUCCESS").exists()),
    "SIGTERM while Ray starts": (signal.SIGTERM, 143, ON_RAY, lambda process, run: is_ray_starting(process)),
    "SIGTERM on Ray": (signal.SIGTERM, 143, ON_RAY, lambda process, run: is_under_way(run, "features")),
}
"""The signal, the exit code, what is changed of the configuration, and when the signal is sent."""


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_signal_ends_the_run_with_its_code_and_frees_the_lock(
    finished: dict[str, Any], dirty_corpus: Path, tmp_path: Path, moment: str
) -> None:
    number, code, changes, is_due = MOMENTS[moment]
    reference = Path(finished["output"]) / "run_id=t"
    values = make_config(dirty_corpus, tmp_path / "out")
    config, alone = (write_config(tmp_path / f"{i}.yaml", values | each) for i, each in enumerate((changes, {})))
    run = tmp_path / "out" / "run_id=t"
    with start_mmcsal("run", config) as process:
        while not is_due(process, run):
            assert process.poll() is None, process.communicate()
            time.sleep(0.01)
        if moment != "SIGTERM while Ray starts":
            with hold_still(process):
                before = read_settled(run)
                assert run_mmcsal("run", config, expect=5).startswith("mmcsal: another run holds")
                assert read_settled(run) == before
        assert read_results(run / "pairs") == read_results(reference / "pairs")
        process.send_signal(number)
        _, told = process.communicate(timeout=60)
    assert process.returncode == code, told
    assert "Traceback" not in told
    status = json.loads((run / "run_status.json").read_text())
    assert (status["state"], status["exit_code"]) == ("interrupted", code)
    assert not (run / "_lock.json").exists()
    if number == signal.SIGTERM:
        assert "ingest" not in run_json("run", alone)["executed"]
        assert call_json("validate", run)["ok"] is True
        for folder in ARTIFACTS:
            assert read_results(run / folder) == read_results(reference / folder), folder
