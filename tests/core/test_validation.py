"""Validation: a good run passes, and every way of damaging it fails the check that speaks of it."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from mmcsal_core.artifacts import MANIFEST, SUCCESS, Artifact, Manifest, ShardRecord
from mmcsal_core.schema import SUSPICION_FILE
from mmcsal_core.storage import Store
from mmcsal_core.validation import STAGES, validate_run
from tests.finished_run import make_run


@pytest.fixture(scope="module")
def good_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("good")
    make_run(root)
    return root / "run"


@pytest.fixture
def run(good_run: Path, tmp_path: Path) -> Store:
    shutil.copytree(good_run, tmp_path / "run")
    return Store(str(tmp_path / "run"))


def list_failed(run: Store) -> dict[str, str]:
    return {check.name: check.detail for check in validate_run(run).failed}


def rewrite_shard(run: Store, name: str, change: Callable[[pa.Table], pa.Table]) -> None:
    """Change the first shard of an artifact and its manifest alike, as a defective stage would."""
    artifact = Artifact(run, name, STAGES[name])
    manifest = artifact.read_manifest()
    shard = manifest.shards[0]
    record = artifact.store.write_table(shard.data.name, change(artifact.store.read_table(shard.data.name)))
    rewrite_manifest(run, name, shards=(shard.model_copy(update={"data": record}), *manifest.shards[1:]))


def rewrite_manifest(run: Store, name: str, **update: object) -> None:
    artifact = Artifact(run, name, STAGES[name])
    changed = artifact.read_manifest().model_copy(update=update)
    artifact.store.write_bytes(MANIFEST, changed.model_dump_json().encode())


def replace_column(table: pa.Table, name: str, values: Sequence[object]) -> pa.Table:
    place = table.schema.get_field_index(name)
    field = table.schema.field(name)
    return table.set_column(place, field, pa.array(values, field.type))


def first_shard(run: Store, name: str) -> ShardRecord:
    return Artifact(run, name, STAGES[name]).read_manifest().shards[0]


def test_a_good_run_passes(run: Store) -> None:
    report = validate_run(run)
    assert report.ok, report.failed
    assert "pairs: counts" in [check.name for check in report.checks]
    assert "303 in = 300 out + 3 rejected" in [check.detail for check in report.checks]


def test_validation_changes_nothing(run: Store) -> None:
    before = {name: run.read_bytes(name) for name in run.list_files()}
    validate_run(run)
    assert before == {name: run.read_bytes(name) for name in run.list_files()}


def test_a_run_stopped_early_is_valid_as_far_as_it_goes(run: Store) -> None:
    for name in ("selection", "neighbors", "embeddings", "encoder"):
        run.remove(name)
    report = validate_run(run)
    assert report.ok
    assert {check.name.split(":")[0] for check in report.checks} == {"pairs", "features"}


def test_no_run_at_all_fails(tmp_path: Path) -> None:
    assert "no artifact" in list_failed(Store(str(tmp_path / "none")))["run: started"]


def test_an_unfinished_stage_fails(run: Store) -> None:
    run.remove(f"neighbors/{SUCCESS}")
    assert "not finished" in list_failed(run)["neighbors: finished"]


def test_a_broken_manifest_fails(run: Store) -> None:
    run.write_bytes(f"neighbors/{MANIFEST}", b'{"stage": 5}')
    assert "manifest" in list_failed(run)["neighbors: finished"]


def test_a_missing_input_fails(run: Store) -> None:
    run.remove("features")
    assert "features/ is absent" in list_failed(run)["embeddings: input"]


def test_a_changed_byte_fails(run: Store) -> None:
    name = f"embeddings/{first_shard(run, 'embeddings').data.name}"
    data = bytearray(run.read_bytes(name))
    data[100] ^= 1
    run.write_bytes(name, bytes(data))
    assert "another sha256" in list_failed(run)["embeddings: files"]


def test_a_cut_file_and_a_missing_file_fail(run: Store) -> None:
    name = f"pairs/{first_shard(run, 'pairs').data.name}"
    run.write_bytes(name, run.read_bytes(name)[:-5])
    run.remove("encoder/metrics.json")
    failed = list_failed(run)
    assert "bytes" in failed["pairs: files"]
    assert "missing" in failed["encoder: files"]


def test_a_file_that_readers_would_read_besides_fails(run: Store) -> None:
    run.write_bytes("pairs/data/part-old.parquet", b"PAR1")
    assert "part-old.parquet" in list_failed(run)["pairs: files"]


def test_rows_other_than_recorded_fail(run: Store) -> None:
    rewrite_shard(run, "features", lambda table: table.slice(1))
    assert "holds 255 rows, 256 are recorded" in list_failed(run)["features: files"]


def test_pairs_that_do_not_add_up_fail(run: Store) -> None:
    rewrite_manifest(run, "features", pairs_out=299)
    failed = list_failed(run)
    assert "300 in != 299 out" in failed["features: counts"]
    assert "300 pairs came in, but features/ put out 299" in failed["embeddings: input"]


def test_rejects_other_than_counted_fail(run: Store) -> None:
    rejects = run.read_table("rejects/data/ingest.parquet")
    run.write_table("rejects/data/ingest.parquet", rejects.slice(1))
    assert "manifest says {'unreadable_image': 3}" in list_failed(run)["pairs: rejects"]


def test_vectors_off_the_sphere_fail(run: Store) -> None:
    def stretch(table: pa.Table) -> pa.Table:
        return replace_column(table, "text_embedding", (np.ones((256, 8)) * 0.5).tolist())

    rewrite_shard(run, "embeddings", stretch)
    assert "text_embedding holds vectors that are not of unit length" in list_failed(run)["embeddings: vectors"]


def add_hidden(values: float, kind: pa.DataType) -> Callable[[pa.Table], pa.Table]:
    def change(table: pa.Table) -> pa.Table:
        rows = pa.array([[values] * 3] * table.num_rows, pa.list_(kind, 3))
        return table.append_column("image_hidden", rows)

    return change


def test_features_that_are_not_finite_or_of_another_precision_fail(run: Store) -> None:
    rewrite_shard(run, "features", add_hidden(0.5, pa.float16()))
    assert list_failed(run) == {}
    name = first_shard(run, "features").data.name
    wrong = run.child("features").read_table(name)["image_feature"].to_pylist()
    wrong[1] = [np.inf] * len(wrong[0])
    rewrite_shard(run, "features", lambda table: replace_column(table, "image_feature", wrong))
    assert list_failed(run) == {"features: vectors": "image_feature holds values that are not finite"}


@pytest.mark.parametrize(
    ("values", "kind", "problem"),
    [
        (np.inf, pa.float16(), "image_hidden holds values that are not finite"),
        (0.5, pa.float32(), "image_hidden is fixed_size_list<element: float>[3], not a fixed-size list of halffloat"),
    ],
)
def test_wrong_hidden_rows_fail(run: Store, values: float, kind: pa.DataType, problem: str) -> None:
    rewrite_shard(run, "features", add_hidden(values, kind))
    assert list_failed(run)["features: vectors"] == problem


def test_vectors_that_are_not_finite_fail(run: Store) -> None:
    def spoil(table: pa.Table) -> pa.Table:
        return replace_column(table, "image_embedding", np.full((256, 8), np.nan).tolist())

    rewrite_shard(run, "embeddings", spoil)
    assert "image_embedding holds values that are not finite" in list_failed(run)["embeddings: vectors"]


def test_vectors_of_another_type_fail(run: Store) -> None:
    def loosen(table: pa.Table) -> pa.Table:
        place = table.schema.get_field_index("image_embedding")
        values = table["image_embedding"].cast(pa.list_(pa.float32()))
        return table.set_column(place, "image_embedding", values)

    rewrite_shard(run, "embeddings", loosen)
    assert "not a fixed-size list" in list_failed(run)["embeddings: vectors"]


def test_ids_that_repeat_fail(run: Store) -> None:
    rewrite_shard(run, "embeddings", lambda table: replace_column(table, "pair_id", ["same"] * 256))
    failed = list_failed(run)
    assert "not unique" in failed["embeddings: vectors"]


SELECTION_DAMAGE: list[tuple[str, list[object] | None, str]] = [
    ("rank", [*range(1, 25)], "rank does not count"),
    ("gain", [1.0] * 24, "gain is not the sum"),
    ("cluster_weight", [1] * 24, "adds up to 24, the pool has 300"),
    ("nearest_selected_id", [None, *["pair-9999"] * 23], "not an earlier pick at rank 1"),
    ("nearest_selected_id", ["pair-0000"] * 24, "rank 0 has no earlier pick"),
    ("nearest_selected_distance", [None, *[3.0] * 23], "not in 0 to 2 at rank 1"),
    ("suspicion", [1.5] * 24, "suspicion holds values that are not in 0 to 1"),
    ("out_of_fold_alignment", [None, *[-2.0] * 23], "out_of_fold_alignment holds values that are not in -1 to 1"),
]

SUSPICION_DAMAGE: list[tuple[Callable[[pa.Table], pa.Table], str]] = [
    (lambda table: table.slice(1), "speaks of 299 pairs, not of 300"),
    (lambda table: table.take(pa.array([1, 0, *range(2, 300)])), "not sorted by pair_id"),
    (lambda table: table.drop_columns(["consistency"]), "columns of suspicion.parquet are"),
    (lambda table: replace_column(table, "suspicion", [float("nan")] * 300), "suspicion holds values"),
    (lambda table: replace_column(table, "consistency", [-0.1] * 300), "consistency holds values"),
]


@pytest.mark.parametrize(("change", "message"), SUSPICION_DAMAGE)
def test_damaged_suspicion_fails(run: Store, change: Callable[[pa.Table], pa.Table], message: str) -> None:
    store = run.child("neighbors")
    record = store.write_table(SUSPICION_FILE, change(store.read_table(SUSPICION_FILE)))
    rewrite_manifest(run, "neighbors", files=(record,))
    assert message in list_failed(run)["neighbors: suspicion"]


def test_suspicion_that_is_not_there_fails(run: Store) -> None:
    rewrite_manifest(run, "neighbors", files=())
    assert "not in the manifest; run the stage 'neighbors' again" in list_failed(run)["neighbors: suspicion"]


@pytest.mark.parametrize(("column", "values", "message"), SELECTION_DAMAGE)
def test_a_damaged_selection_fails(run: Store, column: str, values: list[object], message: str) -> None:
    rewrite_shard(run, "selection", lambda table: replace_column(table, column, values))
    assert message in list_failed(run)["selection: contract"]


def test_a_gain_that_rises_fails(run: Store) -> None:
    def reverse(table: pa.Table) -> pa.Table:
        for name in ("gain", "coverage_term"):
            table = replace_column(table, name, table[name].to_pylist()[::-1])
        return table

    rewrite_shard(run, "selection", reverse)
    assert "gain rises within a phase" in list_failed(run)["selection: contract"]


def test_a_pick_from_outside_the_pool_fails(run: Store) -> None:
    def rename(table: pa.Table) -> pa.Table:
        ids = ["stranger", *table["pair_id"].to_pylist()[1:]]
        nearest = [None, *["stranger"] * (table.num_rows - 1)]
        return replace_column(replace_column(table, "pair_id", ids), "nearest_selected_id", nearest)

    rewrite_shard(run, "selection", rename)
    assert "1 of the selected pairs are not in embeddings/" in list_failed(run)["selection: contract"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.drop_columns(["phase"]), "columns are"),
        (lambda table: table.replace_schema_metadata({"run_id": "x"}), "schema metadata lacks seed"),
        (lambda table: table.set_column(1, "rank", table["rank"].cast(pa.int64())), "column rank is int64, not int32"),
        (lambda table: table.set_column(1, "rank", table["rank"]), "column rank carries no comment"),
        (
            lambda table: table.set_column(
                table.schema.get_field_index("group"), "group", pa.array(range(table.num_rows))
            ),
            "column group is int64, but string in pairs/",
        ),
    ],
)
def test_a_selection_of_another_schema_fails(run: Store, change: Callable[[pa.Table], pa.Table], message: str) -> None:
    rewrite_shard(run, "selection", change)
    assert message in list_failed(run)["selection: contract"]


def test_details_name_a_few_problems_and_count_the_rest(run: Store) -> None:
    for part in range(5):
        run.write_bytes(f"pairs/data/stray-{part}.parquet", b"x")
    assert "and 2 more" in list_failed(run)["pairs: files"]


def test_report_is_json(run: Store) -> None:
    assert Manifest.model_validate_json(run.read_bytes(f"pairs/{MANIFEST}"))
    assert '"ok":true' in validate_run(run).model_dump_json()
