"""Progress: JSON lines where nobody looks at bars, and bars on a terminal."""

import io
import json

import pytest
from rich.console import Console
from rich.progress import Progress, TextColumn

from jobs.progress import BarReporter, JsonReporter, open_reporter
from pipelines.stage_run import StageProgress


def test_json_lines_come_now_and_then_and_always_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    reporter = JsonReporter()
    for done in range(1, 101):
        reporter.update(StageProgress("features", done, 100))
    reporter.announce("stage_done", stage="features", pairs=100)
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [line.get("done") for line in lines] == [1, 100, None]
    assert (lines[-1]["event"], lines[-1]["pairs"]) == ("stage_done", 100)


def test_json_lines_hold_the_throughput_and_the_time_left_where_a_stage_measures_them(
    capsys: pytest.CaptureFixture[str],
) -> None:
    told = StageProgress("train", 3, 30, "epochs", pairs_per_second=1234.5, eta_s=90.1)
    JsonReporter().update(told)
    JsonReporter().update(StageProgress("embed", 1, 1))
    measured, plain = (json.loads(line) for line in capsys.readouterr().err.splitlines())
    assert (measured["pairs_per_second"], measured["eta_s"]) == (1234.5, 90.1)
    assert not {"pairs_per_second", "eta_s"} & set(plain)


def test_each_reporter_writes_to_the_stderr_of_its_time(capsys: pytest.CaptureFixture[str]) -> None:
    with open_reporter() as first:
        first.announce("one")
    assert "one" in capsys.readouterr().err
    JsonReporter().announce("two")
    assert "two" in capsys.readouterr().err


def test_bars_move_and_show_the_detail() -> None:
    screen = io.StringIO()
    columns = (TextColumn("{task.description} {task.completed}/{task.total} {task.fields[detail]}"),)
    with Progress(*columns, console=Console(file=screen, force_terminal=True, width=80)) as bars:
        reporter = BarReporter(bars)
        reporter.update(StageProgress("train", 1, 30, "epochs"))
        reporter.update(StageProgress("train", 29, 30, "epochs", pairs_per_second=1234.5, eta_s=65.0))
        bars.refresh()
        reporter.update(StageProgress("train", 30, 30, "epochs", "loss 1.2"))
        reporter.announce("stage_done", stage="train", pairs=5)
        assert [task.completed for task in bars.tasks] == [30]
    assert "29/30 epochs, 1,234 pairs/s" in screen.getvalue()
    assert "30/30 loss 1.2" in screen.getvalue()
    assert "stage train  pairs 5" in screen.getvalue()
