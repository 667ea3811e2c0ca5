"""`run_status.json`: what a run is doing, and what it ended with, for people and schedulers that only see the store."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime, timezone
from typing import Any

from jobs.exit_codes import ExitCode, classify_error, find_cause
from mmcsal_core.credentials import mask_credentials
from mmcsal_core.storage import Store

RUN_STATUS = "run_status.json"


class RunStatus:
    """Keeps `run_status.json` of one run folder up to date."""

    def __init__(self, run: Store, run_id: str, config_sha256: str) -> None:
        self._run = run
        self._values: dict[str, Any] = {
            "run_id": run_id,
            "config_sha256": config_sha256,
            "state": "running",
            "exit_code": None,
            "error": None,
            "stage": None,
            "stages": {},
            "started_at": _now(),
        }

    def note_skipped(self, stage: str) -> None:
        """Note that a stage was finished by an earlier run."""
        self._values["stages"][stage] = {"state": "up to date"}

    def note_published(self, stage: str) -> None:
        """Note that a stage's artifact is there, under whatever configuration it was made."""
        self._values["stages"][stage] = {"state": "published"}

    @contextmanager
    def record_stage(self, stage: str) -> Iterator[None]:
        """Note that a stage runs, and for how long it did."""
        started = time.monotonic()
        self._values["stage"] = stage
        self._values["stages"][stage] = {"state": "running"}
        self.write()
        yield
        self._values["stages"][stage] = {"state": "done", "seconds": round(time.monotonic() - started, 2)}

    @contextmanager
    def record_run(self, is_ours: Callable[[], bool]) -> Iterator[None]:
        """Write the state of the run at its start and at its end, however it ends, if the folder is still ours then."""
        self.write()
        with ExitStack() as stack:
            stack.push(lambda *error: self._close(*error) if is_ours() else None)
            yield

    def record_nothing_to_do(self) -> None:
        """Write that all was done already, where the status says otherwise, as after a failure."""
        if not self._run.exists(RUN_STATUS) or self._run.read_json(RUN_STATUS)["exit_code"] != ExitCode.DONE:
            self._close(None, None, None)

    def record_failure(self, error: BaseException) -> None:
        """Write that the run failed before its first stage."""
        self._close(type(error), error, None)

    def _close(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        code = ExitCode.DONE if error is None else classify_error(error)
        stopped = code in (ExitCode.INTERRUPTED, ExitCode.TERMINATED)
        self._values["state"] = "done" if code == ExitCode.DONE else "interrupted" if stopped else "failed"
        self._values["exit_code"] = int(code)
        for stage in self._values["stages"].values():
            stage["state"] = self._values["state"] if stage["state"] == "running" else stage["state"]
        self._values["stage"] = self._values["stage"] if error else None
        if error is not None and not stopped:
            cause = find_cause(error)
            self._values["error"] = {"kind": type(cause).__name__, "message": mask_credentials(str(cause))}
        self.write()

    def write(self) -> None:
        """Write the file."""
        self._run.write_json(RUN_STATUS, {**self._values, "updated_at": _now()})


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
