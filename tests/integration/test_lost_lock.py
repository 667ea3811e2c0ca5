"""A run whose lock another machine has taken over ends at its next check, and what is published stays as it was."""

import json
from pathlib import Path
from typing import Any

import pytest

from jobs.config import parse_config
from jobs.exit_codes import ExitCode, classify_error
from jobs.lock import LOCK
from jobs.progress import JsonReporter
from jobs.run import run_job
from jobs.run_status import RUN_STATUS
from mmcsal_core.errors import LockError
from mmcsal_core.validation import validate_run
from pipelines.stage_run import StageProgress
from tests.integration.job_process import read_files

OTHERS = {
    LOCK: json.dumps({"token": "t", "host": "elsewhere", "pid": 1, "started": 0.0, "heartbeat": 0.0}).encode(),
    RUN_STATUS: b"{}",
}
"""What the other run writes when it takes over."""


@pytest.mark.parametrize(
    ("moment", "override", "untouched", "left"),
    [
        ("neighbors: shards", "neighbors.num_neighbors=12", "selection", ("neighbors", "coreset", "report")),
        ("coreset: picks", "selection.budget=9", "selection", ("coreset", "report")),
        ("coreset: done", "selection.budget=9", "report", ("report",)),
    ],
    ids=["after it was cleared", "before it is cleared", "before it starts"],
)
def test_a_run_that_has_lost_its_lock_neither_clears_nor_publishes(
    copied: dict[str, Any], moment: str, override: str, untouched: str, left: tuple[str, ...]
) -> None:
    config = parse_config(copied, [override])
    run, folder = config.run_store, Path(copied["output"]) / "run_id=t"

    class Thief(JsonReporter):
        """The other machine, at that moment."""

        def update(self, progress: StageProgress) -> None:
            self.reach(f"{progress.stage}: {progress.unit}")

        def announce(self, event: str, **details: object) -> None:
            self.reach(f"{details['stage']}: done")

        def reach(self, now: str) -> None:
            if now == moment:
                for name, data in OTHERS.items():
                    run.write_bytes(name, data)

    before = read_files(folder / untouched)
    with pytest.raises(LockError, match="process 1 on elsewhere holds it now") as caught:
        run_job(config, Thief())
    assert classify_error(caught.value) == ExitCode.LOCKED
    assert read_files(folder / untouched) == before
    assert {name: run.read_bytes(name) for name in OTHERS} == OTHERS
    run.remove(LOCK)
    assert run_job(config, JsonReporter()).executed == left
    assert validate_run(run).ok
