"""`mmcsal select` under constraints: from stored embeddings, with nothing else recomputed and no Ray."""

import json
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
import pytest
import ray
from typer.testing import CliRunner, Result

from jobs.cli import app
from tests.integration.job_process import read_files, write_config


@pytest.fixture
def job(copied: dict[str, Any], tmp_path: Path) -> Path:
    """A configuration beside a copy of the finished run."""
    return write_config(tmp_path / "job.yaml", copied)


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def select(job: Path, *arguments: str | Path) -> list[str]:
    """Select again and return the stages that ran."""
    result = call("select", job, *arguments, "--json")
    assert result.exit_code == 0, result.stderr
    stages: list[str] = json.loads(result.stdout)["executed"]
    return stages


def run_folder(job: Path) -> Path:
    return job.parent / "copied" / "run_id=t"


def read_picks(job: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = ds.dataset(run_folder(job) / "selection" / "data").to_table().to_pylist()
    return rows


def test_the_short_options_choose_and_validate_agrees(job: Path, tmp_path: Path) -> None:
    started = ray.is_initialized()
    first = [pick["pair_id"] for pick in read_picks(job)]
    (tmp_path / "done.txt").write_text("\n".join(first[:8]))
    (tmp_path / "bad.csv").write_text("pair_id,why\n" + "".join(f"{name},blurred\n" for name in first[8:12]))
    untouched = {name: read_files(run_folder(job) / name) for name in ("embeddings", "neighbors", "pairs")}
    options: list[str | Path] = ["--budget", "9", "--labelled", tmp_path / "done.txt"]
    options += ["--exclude", tmp_path / "bad.csv"]
    assert select(job, *options, "--where", "shape <> 'circle'", "--strategy", "k_center") == ["coreset", "report"]
    picks = read_picks(job)
    assert len(picks) == 9
    assert not {pick["pair_id"] for pick in picks} & set(first[:12])
    assert {pick["phase"] for pick in picks} == {"k_center"}
    assert "circle" not in {pick["shape"] for pick in picks}
    assert json.loads(call("validate", run_folder(job), "--json").stdout)["ok"] is True
    assert {name: read_files(run_folder(job) / name) for name in untouched} == untouched
    assert ray.is_initialized() == started


def test_a_list_that_has_changed_is_noticed_and_one_that_is_gone_is_missed_only_by_select(
    job: Path, tmp_path: Path
) -> None:
    names, listed = [pick["pair_id"] for pick in read_picks(job)], tmp_path / "done.txt"
    listed.write_text("\n".join(names[:5]))
    assert select(job, "--labelled", listed) == ["coreset", "report"]
    listed.write_text("\n".join(reversed(names[:5])) + "\n")
    assert select(job, "--labelled", listed) == []
    listed.write_text("\n".join(names[:6]))
    assert select(job, "--labelled", listed) == ["coreset", "report"]
    listed.unlink()
    assert json.loads(call("validate", run_folder(job), "--json").stdout)["ok"] is True
    assert call("report", run_folder(job)).exit_code == 0
    missed = call("select", job, "--labelled", listed)
    assert (missed.exit_code, str(listed) in missed.stderr) == (3, True)


def test_quotas_of_any_key_are_set_and_those_that_cannot_be_kept_publish_nothing(job: Path) -> None:
    before = read_files(run_folder(job) / "selection")
    quotas = "selection.quotas={column: shape, minimum: {circle: 5000}}"
    refused = call("select", job, "--set", quotas, "--budget", "6000")
    assert (refused.exit_code, "6000 pairs are asked for" in refused.stderr) == (4, True)
    refused = call("select", job, "--set", "selection.quotas={column: shape, exact: {circle: 30}}", "--budget", "20")
    assert (refused.exit_code, "minimums sum to 30 and the budget is 20: 10 too many" in refused.stderr) == (2, True)
    refused = call("select", job, "--set", "selection.quotas={column: shap, balance: equal}")
    assert (refused.exit_code, "quotas.column must be a column of pairs/, got 'shap'" in refused.stderr) == (2, True)
    assert read_files(run_folder(job) / "selection") == before
    assert select(job, "--set", "selection.quotas.column=shape", "--set", "selection.quotas.balance=equal")
    counts = [pick["shape"] for pick in read_picks(job)]
    assert max(map(counts.count, counts)) - min(map(counts.count, counts)) <= 1
    assert {pick["stratum"] for pick in read_picks(job)} == set(counts)
