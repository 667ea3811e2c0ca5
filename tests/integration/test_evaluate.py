"""`mmcsal evaluate`, and that labels reach no other stage."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner, Result

from jobs.cli import app
from jobs.config import parse_config
from jobs.progress import JsonReporter
from jobs.run import run_job
from jobs.steps import list_steps
from mmcsal_core.errors import ConfigError
from pipelines.stage_names import EVALUATE, STAGES
from tests.corpora import make_image_text_table
from tests.integration.job_process import make_config, read_files, write_config

CONTEST = {
    "label_column": "shape",
    "budgets_per_class": [1, 2],
    "baseline_budgets_per_class": [4],
    "num_splits": 2,
    "num_seeds": 1,
    "strategies": ["mmcsal", "random"],
    "probes": ["knn"],
}


@pytest.fixture
def job(copied: dict[str, Any], tmp_path: Path) -> Path:
    """A configuration with a contest beside a copy of the finished run."""
    return write_config(tmp_path / "job.yaml", {**copied, "resources": {"rows_per_shard": 256}, "evaluate": CONTEST})


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def list_executed(result: Result) -> list[str]:
    assert result.exit_code == 0, result.stderr
    executed: list[str] = json.loads(result.stdout)["executed"]
    return executed


def run_folder(job: Path) -> Path:
    return job.parent / "copied" / "run_id=t"


def test_evaluate_evaluates_stored_embeddings_and_leaves_the_rest_alone(job: Path) -> None:
    folder = run_folder(job)
    before = {name: read_files(folder / name) for name in ("embeddings", "selection", "report")}
    assert list_executed(call("evaluate", job, "--json")) == [EVALUATE]
    assert {name: read_files(folder / name) for name in before} == before
    assert list_executed(call("evaluate", job, "--json")) == []
    shown = call("evaluate", job)
    assert "nothing to do: evaluate are up to date" in shown.stdout
    assert (folder / "evaluation" / "summary.md").read_text() in shown.stdout
    assert list_executed(call("run", job, "--json")) == []
    assert list_executed(call("run", job, "--set", "evaluate.knn_neighbors=3", "--json")) == [EVALUATE]
    rows = ds.dataset(folder / "evaluation" / "data").to_table()
    assert set(rows["contestant"].to_pylist()) == {"mmcsal", "random"}
    assert set(rows["num_picks"].to_pylist()) == {4, 8, 16}
    assert json.loads(call("validate", folder, "--json").stdout)["ok"] is True
    assert json.loads((folder / "run_status.json").read_text())["stages"][EVALUATE]["state"] == "done"


def test_selection_and_evaluation_leave_each_other_valid(job: Path) -> None:
    again = ("select", job, "--budget", "9", "--set", "selection.lambda_align=0.2", "--json")
    assert list_executed(call(*again)) == ["coreset", "report"]
    assert list_executed(call("evaluate", job, "--json")) == [EVALUATE]
    assert json.loads(call("validate", run_folder(job), "--json").stdout)["ok"] is True
    stored = json.loads((run_folder(job) / "config.json").read_text())
    assert (stored["selection"]["budget"], stored["evaluate"]["label_column"]) == (9, "shape")
    before = read_files(run_folder(job) / "evaluation")
    assert list_executed(call(*again, "--set", "selection.lambda_div=0.2")) == ["coreset", "report"]
    assert read_files(run_folder(job) / "evaluation") == before
    assert json.loads(call("validate", run_folder(job), "--json").stdout)["ok"] is True
    assert list_executed(call("report", run_folder(job), "--json")) == ["report"]


@pytest.mark.parametrize("command", ["evaluate", "run", "plan"])
@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("evaluate.label_column=shapes", "evaluate.label_column must be a column of pairs/, got 'shapes'"),
        ("evaluate.strategies=[kmean]", "evaluate: a strategy is one of mmcsal, "),
        ("evaluate.strategies=[{strategy: kmeans, space: sound}]", "got 'sound'"),
        ("evaluate.mispaired_column=shape", "must hold booleans, 'shape' holds string"),
    ],
)
def test_what_cannot_be_evaluated_is_refused_before_anything_is_done(
    job: Path, command: str, override: str, words: str
) -> None:
    before = read_files(run_folder(job) / "pairs")
    refused = call(command, job, "--set", override)
    assert (refused.exit_code, words in refused.stderr) == (2, True), refused.stderr
    assert read_files(run_folder(job) / "pairs") == before
    assert not (run_folder(job) / "evaluation").exists()


def test_evaluate_needs_a_label_column_and_embeddings_of_this_configuration(job: Path) -> None:
    bare = call("evaluate", job, "--set", "evaluate.label_column=null")
    assert (bare.exit_code, "--set evaluate.label_column=category" in bare.stderr) == (2, True)
    stale = call("evaluate", job, "--set", "encoder.epochs=5")
    assert (stale.exit_code, "evaluating needs embeddings of this very configuration" in stale.stderr) == (2, True)
    large = call("evaluate", job, "--set", "evaluate.budgets=[5000]")
    assert (large.exit_code, "5000 pairs are asked for" in large.stderr) == (4, True)


def test_until_names_the_stage_only_where_there_are_labels(job: Path, copied: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"'evaluate'; the stages are ingest, .*, report$"):
        run_job(parse_config(copied), JsonReporter(), until=EVALUATE)
    assert list_executed(call("run", job, "--until", "report", "--json")) == []
    assert list_executed(call("run", job, "--until", EVALUATE, "--json")) == [EVALUATE]


def test_no_fingerprint_but_its_own_hangs_on_the_evaluation(copied: dict[str, Any]) -> None:
    plain, labelled, other = (
        {step.name: step.fingerprint for step in list_steps(parse_config({**copied, "evaluate": contest}), "p", {})}
        for contest in ({}, CONTEST, {**CONTEST, "num_splits": 3})
    )
    assert tuple(plain) == STAGES
    assert tuple(labelled) == (*STAGES, EVALUATE)
    assert {name: labelled[name] for name in STAGES} == plain
    assert {name for name in labelled if labelled[name] != other[name]} == {EVALUATE}
    changed = parse_config({**copied, "evaluate": CONTEST}, ["selection.budget=9", "selection.strategy=k_center"])
    assert list_steps(changed, "p", {})[-1].fingerprint == labelled[EVALUATE]


BEFORE_THE_PICKS = {
    "features": {"data"},
    "encoder": {"encoder.safetensors", "encoder.json", "metrics.json", "out_of_fold.parquet"},
    "embeddings": {"data"},
    "indexes": {"image.faiss", "text.faiss", "pair_ids.parquet"},
    "neighbors": {"data", "suspicion.parquet"},
}
"""Folders of a run and what lies in them at least: all that comes before the picks, without pairs/ itself."""


def shuffle_labels(table: pa.Table) -> pa.Table:
    order = np.random.default_rng(1).permutation(table.num_rows)
    return table.set_column(table.schema.get_field_index("shape"), "shape", table["shape"].take(pa.array(order)))


def test_a_run_with_shuffled_labels_picks_the_same_pairs(ray_session: None, tmp_path: Path) -> None:
    folders, table, corpus = [], make_image_text_table(90), tmp_path / "pairs.parquet"
    for name, content in (("as they are", table), ("shuffled", shuffle_labels(table))):
        pq.write_table(content, corpus)
        config = parse_config(make_config(corpus, tmp_path / name, evaluate=CONTEST))
        assert run_job(config, JsonReporter()).executed == (*STAGES, EVALUATE)
        folders.append(config.run_store)
    for name, least in BEFORE_THE_PICKS.items():
        one, other = (read_published(Path(store.url) / name) for store in folders)
        assert (set(one), {file for file in one if one[file] != other[file]}) == (set(other), set()), name
        assert least <= {file.partition("/")[0] for file in one}, name
    picks, others = (ds.dataset(f"{store.url}/selection/data").to_table() for store in folders)
    assert picks["shape"] != others["shape"]
    assert picks.drop_columns(["shape"]).equals(others.drop_columns(["shape"]))
    scores, other_scores = (ds.dataset(f"{store.url}/evaluation/data").to_table() for store in folders)
    assert scores["accuracy"] != other_scores["accuracy"]


def read_published(path: Path) -> dict[str, bytes]:
    """Return the bytes of the files of a folder that carry no time and no fingerprint."""
    return {name: data for name, data in read_files(path).items() if not name.startswith("_")}
