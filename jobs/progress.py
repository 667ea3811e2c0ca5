"""Tell people how far a run is: bars on a terminal, else one JSON line every few seconds, always on stderr."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import structlog
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from pipelines.stage_run import StageProgress

INTERVAL_S = 5.0

_PROCESSORS = (
    structlog.processors.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.processors.JSONRenderer(),
)


class Reporter(Protocol):
    """What a run tells its progress to."""

    def update(self, progress: StageProgress) -> None:
        """Tell how far a stage is."""

    def announce(self, event: str, **details: object) -> None:
        """Tell that something happened, e.g. that a stage was finished."""


class JsonReporter:
    """Writes JSON lines through structlog: every event, and progress at most every `INTERVAL_S` seconds."""

    def __init__(self) -> None:
        self._log = structlog.wrap_logger(structlog.PrintLogger(sys.stderr), processors=_PROCESSORS)
        self._last = 0.0

    def update(self, progress: StageProgress) -> None:
        """Write a line if the last one is old enough or the stage is through."""
        now = time.monotonic()
        if progress.done < progress.total and now - self._last < INTERVAL_S:
            return
        self._last = now
        self._log.info(
            "progress",
            stage=progress.stage,
            done=progress.done,
            total=progress.total,
            unit=progress.unit,
            **describe_pace(progress),
            **({"detail": progress.detail} if progress.detail else {}),
        )

    def announce(self, event: str, **details: object) -> None:
        """Write a line."""
        self._log.info(event, **details)


def describe_pace(progress: StageProgress) -> dict[str, float]:
    """Return the throughput and the time that is left, where the stage measures them."""
    measured = {"pairs_per_second": progress.pairs_per_second, "eta_s": progress.eta_s}
    return {name: value for name, value in measured.items() if value is not None}


class BarReporter:
    """Draws one bar a stage."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._tasks = {task.description: task.id for task in bars.tasks}

    def update(self, progress: StageProgress) -> None:
        """Move the stage's bar."""
        if progress.stage not in self._tasks:
            self._tasks[progress.stage] = self._bars.add_task(progress.stage, total=progress.total, detail="")
        detail = progress.detail or progress.unit
        if progress.pairs_per_second is not None:  # the time left has a column of its own
            detail += f", {progress.pairs_per_second:,.0f} pairs/s"
        self._bars.update(self._tasks[progress.stage], completed=progress.done, total=progress.total, detail=detail)

    def announce(self, event: str, **details: object) -> None:
        """Print a line above the bars."""
        words = "  ".join(f"{key} {value}" for key, value in details.items())
        self._bars.console.print(f"[bold]{event.replace('_', ' ')}[/bold]  {words}", highlight=False)


@contextmanager
def open_reporter() -> Iterator[Reporter]:
    """Yield the reporter that fits stderr."""
    if not sys.stderr.isatty():
        yield JsonReporter()
        return
    columns = (
        TextColumn("{task.description:<10}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[detail]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bars:
        yield BarReporter(bars)
