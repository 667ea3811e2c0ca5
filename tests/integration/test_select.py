"""`mmcsal select` under constraints: from stored embeddings, with nothing else recomputed and no Ray."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import ray
from typer.testing import CliRunner, Result

from jobs.cli import app
from jobs.config import parse_config
from jobs.progress import JsonReporter
from jobs.run import run_job
from pipelines.stage_names import STAGES
from pipelines.stage_run import StageProgress
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


def write_list(path: Path, names: Sequence[str]) -> None:
    if path.suffix == ".parquet":
        pq.write_table(pa.table({"pair_id": names}), path)
    else:
        path.write_text("\n".join(names) + "\n")


@pytest.mark.parametrize("option", ["--labelled", "--exclude"])
@pytest.mark.parametrize("name", ["done.txt", "done.parquet"])
def test_a_list_that_has_changed_is_noticed_and_one_that_is_gone_is_missed_only_by_select(
    job: Path, tmp_path: Path, name: str, option: str
) -> None:
    names, listed = [pick["pair_id"] for pick in read_picks(job)], tmp_path / name
    write_list(listed, names[:5])
    assert select(job, option, listed) == ["coreset", "report"]
    write_list(listed, names[4::-1])
    assert select(job, option, listed) == []
    write_list(listed, names[:6])
    assert select(job, option, listed) == ["coreset", "report"]
    assert not {pick["pair_id"] for pick in read_picks(job)} & set(names[:6])
    assert call("run", job, "--set", f"selection.{option[2:]}={listed}", "--json").exit_code == 0
    write_list(listed, names[:7])
    result = call("run", job, "--set", f"selection.{option[2:]}={listed}", "--json")
    assert json.loads(result.stdout)["executed"] == ["coreset", "report"]
    assert not {pick["pair_id"] for pick in read_picks(job)} & set(names[:7])
    listed.unlink()
    assert json.loads(call("validate", run_folder(job), "--json").stdout)["ok"] is True
    assert call("report", run_folder(job)).exit_code == 0
    missed = call("select", job, option, listed)
    assert (missed.exit_code, str(listed) in missed.stderr) == (3, True)


def test_quotas_of_any_key_are_set_and_those_that_cannot_be_kept_publish_nothing(job: Path) -> None:
    before = read_files(run_folder(job) / "selection")
    refused = call("select", job, "--set", "selection.quotas={column: shape, minimum: {cross: 900}}", "--budget", "950")
    assert (refused.exit_code, "shape 'cross' needs 900 pairs and has" in refused.stderr) == (4, True)
    refused = call("select", job, "--set", "selection.quotas={column: shape, exact: {circle: 30}}", "--budget", "20")
    assert (refused.exit_code, "minimums sum to 30 and the budget is 20: 10 too many" in refused.stderr) == (2, True)
    refused = call("select", job, "--set", "selection.quotas={column: shap, balance: equal}")
    assert (refused.exit_code, "quotas.column must be a column of pairs/, got 'shap'" in refused.stderr) == (2, True)
    assert read_files(run_folder(job) / "selection") == before
    assert select(job, "--set", "selection.quotas={column: shape, balance: equal}")
    counts = [pick["shape"] for pick in read_picks(job)]
    assert max(map(counts.count, counts)) - min(map(counts.count, counts)) <= 1
    assert {pick["stratum"] for pick in read_picks(job)} == set(counts)


def read_status(job: Path) -> dict[str, Any]:
    status: dict[str, Any] = json.loads((run_folder(job) / "run_status.json").read_text())
    return status


@pytest.mark.parametrize(
    ("overrides", "code", "words"),
    [
        (["selection.budget=5000"], 4, "5000 pairs are asked for"),
        (["selection.quotas={column: shape, minimum: {cross: 900}}", "selection.budget=950"], 4, "'cross' needs 900"),
        (["selection.where=shapee = 'circle'"], 2, "shapee"),
        (["selection.labelled=[nobody]"], 3, "'nobody'"),
    ],
)
def test_a_selection_that_fails_leaves_the_published_one_valid(
    job: Path, overrides: list[str], code: int, words: str
) -> None:
    before = read_files(run_folder(job) / "selection")
    refused = call("select", job, *(part for override in overrides for part in ("--set", override)))
    assert (refused.exit_code, words in refused.stderr) == (code, True)
    assert (read_status(job)["state"], read_status(job)["exit_code"]) == ("failed", code)
    checked = call("validate", run_folder(job))
    assert (checked.exit_code, "FAILED" in checked.stdout) == (0, False), checked.stdout
    assert call("report", run_folder(job)).exit_code == 0
    assert read_files(run_folder(job) / "selection") == before
    assert select(job) == []


def test_the_stored_configuration_is_that_of_the_selection_from_when_it_is_published(copied: dict[str, Any]) -> None:
    class Witness(JsonReporter):
        """Reads the stored configuration's budget at every event."""

        def __init__(self, folder: Path) -> None:
            super().__init__()
            self.folder, self.budgets = folder, list[tuple[object, int]]()

        def announce(self, event: str, **details: object) -> None:
            stored = json.loads((self.folder / "config.json").read_text())
            self.budgets.append((details["stage"], stored["selection"]["budget"]))

        def update(self, progress: StageProgress) -> None:
            self.announce("progress", stage=f"in {progress.stage}")

    witness = Witness(Path(copied["output"]) / "run_id=t")
    run_job(parse_config(copied, ["selection.budget=9"]), witness)
    assert set(witness.budgets) == {("in coreset", 20), ("coreset", 9), ("report", 9)}


def test_nothing_is_published_under_a_configuration_that_could_not_be_stored(copied: dict[str, Any]) -> None:
    class Saboteur(JsonReporter):
        """Puts a folder where the configuration is stored, once the selection has begun."""

        def update(self, progress: StageProgress) -> None:
            if stored.is_file():
                stored.unlink()
                stored.mkdir()

    folder = Path(copied["output"]) / "run_id=t"
    config, stored = parse_config(copied, ["selection.budget=9"]), folder / "config.json"
    with pytest.raises(IsADirectoryError):
        run_job(config, Saboteur())
    assert not (folder / "selection" / "_SUCCESS").exists()
    stored.rmdir()
    assert run_job(config, JsonReporter()).executed == ("coreset", "report")
    assert call("validate", folder).exit_code == 0


def test_a_list_that_changes_while_earlier_stages_run_counts_as_it_was_when_the_run_began(
    copied: dict[str, Any], tmp_path: Path
) -> None:
    listed = tmp_path / "done.txt"

    class Editor(JsonReporter):
        """Somebody who goes on labelling meanwhile."""

        def announce(self, event: str, **details: object) -> None:
            if details.get("stage") == "neighbors":
                listed.write_text("\n".join(later))

    job = write_config(tmp_path / "job.yaml", copied)
    names = [pick["pair_id"] for pick in read_picks(job)]
    first, later = names[:5], names[5:12]
    listed.write_text("\n".join(first))
    config = parse_config(copied, [f"selection.labelled={listed}", "neighbors.num_neighbors=12"])
    assert run_job(config, Editor()).executed == ("neighbors", "coreset", "report")
    manifest = json.loads((run_folder(job) / "selection" / "_manifest.json").read_text())
    assert manifest["properties"]["labelled"] == 5
    assert call("validate", run_folder(job)).exit_code == 0
    assert run_job(config, JsonReporter()).executed == ("coreset", "report")
    assert not {pick["pair_id"] for pick in read_picks(job)} & set(later)


def test_the_selection_of_the_run_itself_must_be_copied_before_it_is_a_list(job: Path, tmp_path: Path) -> None:
    before = read_files(run_folder(job) / "selection")
    [own] = (run_folder(job) / "selection" / "data").iterdir()
    for listed in (own, f"{own.parent}/*.parquet"):
        refused = call("select", job, "--labelled", listed)
        assert (refused.exit_code, str(own) in refused.stderr, "copy it" in refused.stderr) == (2, True, True)
    assert read_files(run_folder(job) / "selection") == before
    pq.write_table(pq.read_table(own), tmp_path / "copy.parquet")
    assert select(job, "--labelled", tmp_path / "copy.parquet") == ["coreset", "report"]


def test_an_early_failure_stands_in_the_status_beside_what_is_published_still(job: Path, tmp_path: Path) -> None:
    gone = tmp_path / "gone.txt"
    assert call("select", job, "--labelled", gone).exit_code == 3
    status = read_status(job)
    assert (status["state"], status["exit_code"], status["stage"]) == ("failed", 3, None)
    assert (status["error"]["kind"], str(gone) in status["error"]["message"]) == ("DataError", True)
    assert status["stages"] == {stage: {"state": "published"} for stage in STAGES}
    assert call("select", job, "--set", "encoder.epochs=5").exit_code == 2
    assert (read_status(job)["exit_code"], read_status(job)["error"]["kind"]) == (2, "ConfigError")
    assert call("report", run_folder(job), "--set", "selection.budget=3").exit_code == 2
    assert "has no finished selection" in read_status(job)["error"]["message"]
    assert call("run", job, "--set", "selection.stratum_column=shapee").exit_code == 2
    assert "shapee" in read_status(job)["error"]["message"]
    assert call("validate", run_folder(job)).exit_code == 0
    assert select(job) == []
    assert (read_status(job)["state"], read_status(job)["exit_code"], read_status(job)["error"]) == ("done", 0, None)
