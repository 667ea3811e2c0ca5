"""The evaluate stage: what it publishes, that it resumes split by split, and what it refuses."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import roc_auc_score

from mmcsal_core.artifacts import MANIFEST, PLAN, SUCCESS, Artifact, Manifest
from mmcsal_core.errors import ConfigError, DataError, GateError
from mmcsal_core.evaluation import EvaluateConfig, LabelledPool, make_contestants, run_contest, summarise
from mmcsal_core.evaluation.stored_labels import read_labelled_pool
from mmcsal_core.neighbors.backbone_space import reduce_features
from mmcsal_core.neighbors.sorted_tables import read_sorted
from mmcsal_core.neighbors.stored_suspicion import read_suspicion
from mmcsal_core.schema import PAIR_ID, SUSPICION, SUSPICION_FILE
from mmcsal_core.schema_evaluation import contest_schema, label_saving_schema, summary_schema
from mmcsal_core.selection import SelectionConfig
from mmcsal_core.storage import Store
from mmcsal_core.validation import validate_run
from pipelines.evaluate import STAGE, evaluate_selections
from pipelines.stage_run import Resources, StageProgress, StageRun
from tests.integration.job_process import read_files
from tests.pipelines.pair_artifacts import MODALITIES, PairArtifacts, publish, publish_neighbors, write_pair_artifacts

NUM_PAIRS, SEED = 300, 5
SELECTION = SelectionConfig.model_validate({"lambda_align": 0.25, "continuous": {"num_steps": 2}})
QUICK: dict[str, Any] = {
    "label_column": "category",
    "mispaired_column": "is_mispaired",
    "budgets": (12,),
    "budgets_per_class": (1,),
    "num_splits": 2,
    "num_seeds": 2,
    "strategies": ("mmcsal", "random", "kmeans"),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> PairArtifacts:
    made = write_pair_artifacts(Store(str(tmp_path_factory.mktemp("run"))), NUM_PAIRS)
    publish_neighbors(made, 8, rows_per_shard=256)
    pairs = made.pairs.read_table()
    numbers = np.array([int(name[-5:]) for name in pairs[PAIR_ID].to_pylist()])
    pairs = pairs.append_column("is_mispaired", pa.array(numbers % 9 == 0))
    labels = [f"c{code}" for code in pairs["category"].to_pylist()]
    pairs = pairs.append_column("some", pa.array(labels, mask=numbers % 10 == 3))
    pairs = pairs.append_column("none", pa.nulls(NUM_PAIRS, pa.string()))
    pairs = pairs.append_column("one", pa.array(["a"] * NUM_PAIRS))
    pairs = pairs.append_column("own", pairs[PAIR_ID])
    pairs = pairs.append_column("list", pa.array([[1]] * NUM_PAIRS))
    pairs = pairs.append_column("maybe", pa.array([None, *[True] * (NUM_PAIRS - 1)]))
    made.pairs.store.remove()
    publish(made.pairs, pairs)
    return made


def evaluate(
    made: PairArtifacts,
    folder: Path,
    resources: Resources | None = None,
    told: list[StageProgress] | None = None,
    **changes: Any,
) -> tuple[Artifact, Manifest]:
    told = [] if told is None else told
    out = Artifact(Store(str(folder)), "evaluation", STAGE)
    run = StageRun(out, "f", resources or Resources(), on_progress=told.append)
    manifest = evaluate_selections(
        inputs=made.locate(),
        modalities=MODALITIES,
        selection=SELECTION,
        seed=SEED,
        config=EvaluateConfig(**{**QUICK, **changes}),
        run=run,
    )
    return out, manifest


@pytest.fixture(scope="module")
def evaluated(made: PairArtifacts, tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, Manifest]:
    return evaluate(made, tmp_path_factory.mktemp("evaluated"))


def read_about(out: Artifact) -> dict[str, Any]:
    about: dict[str, Any] = out.store.read_json("evaluation.json")
    return about


def test_the_rows_are_those_of_the_contest_in_process(
    evaluated: tuple[Artifact, Manifest], made: PairArtifacts
) -> None:
    out, manifest = evaluated
    ids = read_sorted(made.embeddings, [])["pair_id"]
    pool = LabelledPool(
        made.pool.embeddings,
        made.pool.features,
        made.pool.clusters,
        mispaired=np.arange(NUM_PAIRS) % 9 == 0,
        suspicion=read_suspicion(made.locate().neighbors, ids)["suspicion"].to_numpy(),
        spaces={name: reduce_features(x, 128) for name, x in made.pool.features.items()},
    )
    config = EvaluateConfig(**QUICK)
    expected = run_contest(pool, make_contestants(config, SELECTION), config, SEED)
    found = out.read_table()
    assert found.schema.equals(contest_schema(), check_metadata=True)
    assert found.equals(expected.combine_chunks())
    assert out.store.read_table("summary.parquet").equals(summarise(expected).combine_chunks())
    assert [shard.pairs_in for shard in manifest.shards] == [NUM_PAIRS, NUM_PAIRS]


def test_every_file_is_there_and_says_what_it_is(evaluated: tuple[Artifact, Manifest], made: PairArtifacts) -> None:
    out, manifest = evaluated
    names = ["summary.parquet", "label_saving.parquet", "evaluation.json", "summary.md"]
    names += [f"curves_{probe}.svg" for probe in ("features", "linear", "knn")]
    assert [record.name for record in manifest.files] == names
    assert out.store.read_table("summary.parquet").schema.equals(summary_schema(), check_metadata=True)
    assert out.store.read_table("label_saving.parquet").schema.equals(label_saving_schema(), check_metadata=True)
    assert out.store.read_bytes("curves_knn.svg").startswith(b"<?xml")
    assert manifest.properties == {
        "embeddings": made.embeddings.read_manifest().fingerprint,
        "label_column": "category",
    }
    about = read_about(out)
    assert about["contestants"]["mmcsal"]["lambda_align"] == 0.25
    assert (about["num_pairs"], about["num_unlabelled"]) == (NUM_PAIRS, 0)
    assert (about["num_pool"] + about["num_test"], sum(about["classes"].values())) == (NUM_PAIRS, NUM_PAIRS)
    assert about["num_mispaired"] == len(range(0, NUM_PAIRS, 9))
    assert manifest.created_at[:7] not in json.dumps(about) + out.store.read_bytes("summary.md").decode()


def test_suspicion_is_judged_by_the_truth_over_all_pairs(
    evaluated: tuple[Artifact, Manifest], made: PairArtifacts
) -> None:
    out, _ = evaluated
    stored = made.locate().neighbors.store.read_table(SUSPICION_FILE)
    numbers = np.array([int(name[-5:]) for name in stored[PAIR_ID].to_pylist()])
    expected = roc_auc_score(numbers % 9 == 0, stored[SUSPICION].to_numpy())
    assert read_about(out)["suspicion_auc"] == pytest.approx(expected, abs=1e-12)
    assert f"AUC {expected:.3f}: so often one of the 34 mispaired pairs" in out.store.read_bytes("summary.md").decode()


def test_the_page_shows_the_summary(evaluated: tuple[Artifact, Manifest]) -> None:
    out, _ = evaluated
    page = out.store.read_bytes("summary.md").decode()
    summary = out.store.read_table("summary.parquet").to_pandas()
    is_shown = (summary["measure"] == "balanced_accuracy") & (summary["probe"] == "knn")
    table = page.split("## Balanced accuracy, probe `knn`")[1].split("##")[0]
    for row in summary[is_shown].to_dict("records"):
        half = (row["mean_high"] - row["mean_low"]) / 2
        assert f"{row['mean']:.3f} ± {half:.3f}" in table
    means = summary[is_shown & summary["budget"].isna()].sort_values("mean", ascending=False, kind="stable")
    rows = [line.split(" | ")[0].removeprefix("| ") for line in table.splitlines() if line.startswith("| ")]
    assert rows[2:] == means["contestant"].tolist()
    assert "over kmeans" in table or "over random" in table
    assert "## Mispaired pairs" in page
    assert "## Labels that random needs" in page


def test_equal_runs_publish_equal_bytes_and_a_killed_one_goes_on_at_the_missing_split(
    evaluated: tuple[Artifact, Manifest], made: PairArtifacts, tmp_path: Path
) -> None:
    expected = {
        name: data for name, data in read_files(Path(evaluated[0].store.url)).items() if name != "_manifest.json"
    }
    out, _ = evaluate(made, tmp_path)
    folder = Path(out.store.url)
    assert {name: data for name, data in read_files(folder).items() if name != "_manifest.json"} == expected
    first = "part-00000-of-00002"
    before = (folder / "data" / f"{first}.parquet").stat().st_mtime_ns
    for name in (SUCCESS, "_manifest.json", "summary.md", f"_shards/{first.replace('00000', '00001', 1)}.json"):
        out.store.remove(name)
    told: list[StageProgress] = []
    evaluate(made, tmp_path, told=told)
    assert [(each.done, each.total) for each in told] == [(1, 3), (2, 3), (3, 3)]
    assert told[-1].detail == "split 2 of 2: kmeans"
    assert (folder / "data" / f"{first}.parquet").stat().st_mtime_ns == before
    assert {name: data for name, data in read_files(folder).items() if name != "_manifest.json"} == expected


def test_actors_publish_the_same_bytes(
    ray_session: None, evaluated: tuple[Artifact, Manifest], made: PairArtifacts, tmp_path: Path
) -> None:
    out, manifest = evaluate(made, tmp_path, Resources(num_actors=2, cpus_per_actor=0.5))
    assert (manifest.shards, manifest.files) == (evaluated[1].shards, evaluated[1].files)
    assert out.store.exists(SUCCESS)


def test_pairs_without_a_label_stay_in_the_pool_and_are_never_tested_on(made: PairArtifacts, tmp_path: Path) -> None:
    out, _ = evaluate(made, tmp_path, label_column="some", mispaired_column=None, probes=("knn",))
    about, rows = read_about(out), out.read_table().to_pandas()
    assert (about["num_unlabelled"], about["num_mispaired"], about["suspicion_auc"]) == (30, None, None)
    assert about["num_pool"] + about["num_test"] == NUM_PAIRS
    assert about["num_pool"] - 30 + about["num_test"] == sum(about["classes"].values())
    assert (rows["num_labels"] < rows["num_picks"]).any()
    assert rows["mispaired_share"].isna().all()
    page = out.store.read_bytes("summary.md").decode()
    assert ("Mispaired" in page, "AUC" in page) == (False, False)


def test_labels_are_read_in_the_order_of_pair_id(made: PairArtifacts) -> None:
    stored = read_labelled_pool(made.locate(), MODALITIES, EvaluateConfig(label_column="category"))
    np.testing.assert_array_equal([int(stored.classes[code]) for code in stored.pool.labels], made.pool.clusters)
    np.testing.assert_array_equal(stored.pool.features["text"], made.pool.features["text"])


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"label_column": "categories"}, ConfigError, "label_column must be a column of pairs/, got 'categories'"),
        ({"label_column": "list"}, ConfigError, "must hold text, numbers, booleans or dates, 'list' holds list"),
        ({"label_column": None}, ConfigError, "got no label_column; set evaluate.label_column"),
        ({"label_column": "none"}, GateError, "'none' is null in all 300 pairs; name another"),
        ({"label_column": "one"}, GateError, "two classes or more, got 1 in 300 pairs"),
        ({"label_column": "own"}, GateError, "a class with two pairs"),
        ({"budgets": (500,)}, GateError, "500 pairs are asked for"),
        ({"mispaired_column": "some"}, ConfigError, "must hold booleans, 'some' holds string"),
        ({"mispaired_column": "maybe"}, DataError, "'maybe' is null in 1 of 300; fill it in"),
        ({"strategies": ({"strategy": "alignment", "space": "text"},)}, ConfigError, "alignment"),
        ({"strategies": ({"strategy": "k_center", "space": "sound"},)}, ConfigError, "got 'sound'"),
    ],
)
def test_what_cannot_be_evaluated_is_refused_and_what_was_published_stays(
    evaluated: tuple[Artifact, Manifest],
    made: PairArtifacts,
    changes: dict[str, Any],
    error: type[Exception],
    words: str,
) -> None:
    folder = Path(evaluated[0].run.url)
    before = read_files(folder)
    with pytest.raises(error, match=words):
        evaluate(made, folder, **changes)
    assert read_files(folder) == before
    assert f"evaluation/{PLAN}" in before


@pytest.fixture(scope="module")
def whole(made: PairArtifacts, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with an evaluation in it."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    shutil.copytree(made.run.url, folder)
    evaluate(made, folder, probes=("knn",))
    return folder


def list_failed(folder: Path) -> dict[str, str]:
    failed = validate_run(Store(str(folder))).failed
    return {check.name: check.detail for check in failed if check.name.startswith("evaluation")}


def change_rows(folder: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    """Change the first split and the manifest alike, as a defective stage would."""
    artifact = Artifact(Store(str(folder)), "evaluation", STAGE)
    manifest = artifact.read_manifest()
    first = manifest.shards[0]
    record = artifact.store.write_table(first.data.name, change(artifact.store.read_table(first.data.name)))
    shards = (first.model_copy(update={"data": record}), *manifest.shards[1:])
    changed = manifest.model_copy(update={"shards": shards})
    artifact.store.write_bytes(MANIFEST, changed.model_dump_json().encode())


def test_a_good_evaluation_is_valid(whole: Path) -> None:
    checks = [check for check in validate_run(Store(str(whole))).checks if check.name.startswith("evaluation")]
    names = ["finished", "files", "counts", "rejects", "scores", "input"]
    assert [check.name for check in checks] == [f"evaluation: {name}" for name in names]
    assert all(check.ok for check in checks), checks


def set_column(name: str, value: float) -> Callable[[pa.Table], pa.Table]:
    def change(table: pa.Table) -> pa.Table:
        place = table.schema.get_field_index(name)
        field = table.schema.field(name)
        return table.set_column(place, field, pa.array([value] * table.num_rows, field.type))

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (set_column("accuracy", 1.5), "accuracy is not in 0 to 1 in split 0"),
        (set_column("split", 1), "split is not 0 in every row of shard 0"),
        (set_column("num_labels", 99), "labels, picks and budget do not rise in every row of split 0"),
        (lambda table: table.drop_columns(["probe"]), "split 0 has the columns"),
    ],
)
def test_rows_that_break_the_contract_are_found(
    whole: Path, tmp_path: Path, change: Callable[[pa.Table], pa.Table], words: str
) -> None:
    shutil.copytree(whole, tmp_path / "run")
    change_rows(tmp_path / "run", change)
    assert words in list_failed(tmp_path / "run")["evaluation: scores"]


def test_a_changed_summary_and_embeddings_made_anew_are_found(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "run")
    (tmp_path / "run" / "evaluation" / "summary.md").write_text("ours is best")
    assert "summary.md has" in list_failed(tmp_path / "run")["evaluation: files"]
    embeddings = Artifact(Store(str(tmp_path / "run")), "embeddings", "embed")
    changed = embeddings.read_manifest().model_copy(update={"fingerprint": "other"})
    embeddings.store.write_bytes(MANIFEST, changed.model_dump_json().encode())
    assert "was made anew since; run the stage 'evaluate'" in list_failed(tmp_path / "run")["evaluation: input"]
