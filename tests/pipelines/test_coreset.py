from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset
import pytest

from mmcsal_core.artifacts import Artifact, Manifest
from mmcsal_core.errors import ArtifactError, ConfigError, DataError, GateError
from mmcsal_core.neighbors import KernelConfig
from mmcsal_core.schema import PAIR_ID, selection_schema
from mmcsal_core.selection import measure_suspicion, select_coreset
from mmcsal_core.selection.stored_pool import PoolArtifacts
from mmcsal_core.storage import Store
from pipelines.coreset import STAGE, CoresetConfig, rank_pairs
from pipelines.coreset_demands import hash_pair_lists, read_pair_lists
from pipelines.stage_run import StageRun
from tests.pipelines.pair_artifacts import (
    MODALITIES,
    ORIGIN,
    RESOLVED,
    PairArtifacts,
    publish,
    publish_neighbors,
    rank_made,
    write_pair_artifacts,
)

NUM_PAIRS, BUDGET = 400, 30
KERNEL = KernelConfig(bandwidth_neighbor=20)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> PairArtifacts:
    made = write_pair_artifacts(Store(str(tmp_path_factory.mktemp("run"))), NUM_PAIRS)
    publish_neighbors(made, 64, rows_per_shard=256)
    return made


@pytest.fixture(scope="module")
def selection(made: PairArtifacts, tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, Manifest]:
    return rank(made, tmp_path_factory.mktemp("selection"), stratum_column="category")


def rank(made: PairArtifacts, folder: Path, **fields: Any) -> tuple[Artifact, Manifest]:
    given = {"kernel": KERNEL, **fields}
    if "budget_fraction" not in given:
        given.setdefault("budget", BUDGET)
    return rank_made(made, folder, CoresetConfig.model_validate(given))


def test_the_selection_keeps_its_contract(selection: tuple[Artifact, Manifest], made: PairArtifacts) -> None:
    out, manifest = selection
    assert [record.data.name for record in manifest.shards] == ["data/part-00000-of-00001.parquet"]
    table = out.read_table()
    names = [*selection_schema(MODALITIES, []).names[:-2], "source", "image_uri", "text", "category", "license"]
    assert table.column_names == [*names, "stratum", "run_id"]
    assert table["rank"].to_pylist() == list(range(BUDGET))
    assert pc.count_distinct(table[PAIR_ID]).as_py() == BUDGET
    assert pc.sum(table["cluster_weight"]).as_py() == NUM_PAIRS
    assert set(table["run_id"].to_pylist()) == {"run-1"}
    for name in selection_schema(MODALITIES, []).names:
        field = table.schema.field(name)
        assert field.metadata[b"comment"]
        assert field.nullable or table[name].null_count == 0
    assert table.schema.field("license").metadata == {b"comment": b"of the drawing"}
    assert table.schema.field("license").type == pa.dictionary(pa.int32(), pa.string())


def test_every_row_says_what_the_artifacts_say_of_its_pair(
    selection: tuple[Artifact, Manifest], made: PairArtifacts
) -> None:
    z, x = made.pool.embeddings, made.pool.features
    suspicion = measure_suspicion(z, features=x, out_of_fold_alignment=made.unseen)
    for pick in selection[0].read_table().to_pylist():
        name, row = pick["pair_id"], made.ids.index(pick["pair_id"])
        assert pick["text"] == f"a picture of {name}"
        assert pick["image_uri"] == f"file:///{name}.png"
        assert pick["prototype_image"] == pick["category"] == made.pool.clusters[row]
        assert pick["stratum"] == str(pick["category"])
        cosine = made.pool.embeddings["image"][row] @ made.pool.embeddings["text"][row]
        assert pick["alignment"] == pytest.approx(cosine, abs=1e-6)
        assert pick["out_of_fold_alignment"] == made.unseen[row]
        assert pick["suspicion"] == suspicion[row]
        terms = pick["coverage_term"] + pick["diversity_term"] + pick["alignment_term"]
        assert pick["gain"] == pytest.approx(terms, abs=1e-6)


def test_the_nearest_selected_pair_is_the_nearest_of_lower_rank(
    selection: tuple[Artifact, Manifest], made: PairArtifacts
) -> None:
    picks = selection[0].read_table().to_pylist()
    rows = [made.ids.index(pick["pair_id"]) for pick in picks]
    z = made.pool.embeddings
    assert picks[0]["nearest_selected_id"] is None
    assert picks[0]["nearest_selected_distance"] is None
    for rank in range(1, BUDGET):
        squared = np.mean([((x[rows[:rank]] - x[rows[rank]]) ** 2).sum(axis=1) for x in z.values()], axis=0)
        assert picks[rank]["nearest_selected_id"] == picks[int(squared.argmin())]["pair_id"]
        assert picks[rank]["nearest_selected_distance"] == pytest.approx(np.sqrt(squared.min()), rel=1e-4)


def test_the_stage_picks_what_the_in_process_door_picks(
    selection: tuple[Artifact, Manifest], made: PairArtifacts
) -> None:
    config = CoresetConfig(budget=BUDGET, kernel=KERNEL)
    z, x = made.pool.embeddings, made.pool.features
    suspicion = measure_suspicion(z, features=x, out_of_fold_alignment=made.unseen)
    coreset = select_coreset(z, BUDGET, features=x, suspicion=suspicion, seed=7, config=config)
    table = selection[0].read_table()
    assert table[PAIR_ID].to_pylist() == [made.ids[row] for row in coreset.indices]
    np.testing.assert_allclose(table["gain"].to_numpy(), coreset.gains, rtol=1e-4, atol=1e-8)
    assert selection[1].properties == {
        "pool": NUM_PAIRS,
        "left_out": 0,
        "labelled": 0,
        "budget": BUDGET,
        "cost": None,
        "ended_by": "budget",
        "exhausted_at": None,
        "near_duplicates": None,
        "lists": {},
        "strategy": "mmcsal",
        "covering_radius": pytest.approx(coreset.covering_radius),
    }


def test_the_schema_metadata_names_the_run(selection: tuple[Artifact, Manifest]) -> None:
    metadata = selection[0].read_table().schema.metadata
    assert set(metadata) == {
        b"run_id",
        b"seed",
        b"encoder_sha256",
        b"config_sha256",
        b"code_version",
        b"schema_version",
    }
    assert (metadata[b"run_id"], metadata[b"seed"]) == (b"run-1", b"7")


def test_equal_runs_give_equal_bytes(selection: tuple[Artifact, Manifest], made: PairArtifacts, tmp_path: Path) -> None:
    again = rank(made, tmp_path, stratum_column="category")[1]
    assert again.shards == selection[1].shards


def test_pandas_arrow_duckdb_and_polars_read_the_same_rows(selection: tuple[Artifact, Manifest]) -> None:
    folder = f"{selection[0].store.url}/data"
    expected = selection[0].read_table()[PAIR_ID].to_pylist()
    assert pd.read_parquet(folder)["pair_id"].tolist() == expected
    dataset = pyarrow.dataset.dataset(folder).to_table()
    assert dataset.column_names == selection[0].read_table().column_names
    query = f"SELECT pair_id, nearest_selected_distance FROM '{folder}/*.parquet' ORDER BY rank"
    rows = duckdb.connect().execute(query).fetchall()
    assert [row[0] for row in rows] == expected
    assert rows[0][1] is None
    frame = pl.read_parquet(folder)
    assert frame["pair_id"].to_list() == expected
    assert frame.schema["gain"] == pl.Float32
    assert frame.schema["cluster_weight"] == pl.Int64


@pytest.mark.parametrize("strategy", ["random", "kmeans", "k_center", "maxherding"])
def test_every_baseline_is_one_word_away(made: PairArtifacts, tmp_path: Path, strategy: str) -> None:
    out, manifest = rank(made, tmp_path, strategy=strategy, budget_fraction=0.05)
    assert manifest.properties["strategy"] == strategy
    assert manifest.properties["budget"] == out.read_table().num_rows == 20
    assert out.read_table()["stratum"].null_count == 20


def test_a_budget_beyond_the_pool_is_refused(made: PairArtifacts, tmp_path: Path) -> None:
    with pytest.raises(GateError, match=f"401 pairs are asked for and {NUM_PAIRS} are usable"):
        rank(made, tmp_path, budget=401)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "a selection needs an end, got none; give at least one of budget,"),
        ({"budget": 3, "budget_fraction": 0.1}, "budget and budget_fraction exclude each other, got 3 and 0.1"),
        ({"cost_budget": 3.0}, "a cost_budget needs a cost_column"),
        ({"cost_budget": 3.0, "cost_column": "c", "quotas": {"column": "a", "exact": {"x": 1}}}, "got no budget"),
        (
            {"budget": 100, "quotas": {"column": "a", "exact": {"x": 70}, "minimum": {"y": 50}}},
            "minimums sum to 120 and the budget is 100: 20 too many",
        ),
        ({"budget": 9, "quotas": {"column": "a", "exact": {"x": 1}, "maximum": {"x": 2}}}, "takes no other, got x"),
        ({"budget": 9, "quotas": {"column": "a", "minimum": {"x": 3}, "maximum": {"x": 2}}}, "got 3 and 2 for 'x'"),
        ({"budget": 9, "quotas": {"column": "a", "minimum": {"x": -3}}}, "a quota is 0 or more"),
        ({"budget": 9, "quotas": {"column": "a"}}, "quotas are a column and at least one of"),
        ({"budget": 9, "quotas": {"balance": "equal"}}, "quotas are a column and at least one of"),
    ],
)
def test_what_cannot_be_kept_is_refused_by_the_configuration(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        CoresetConfig.model_validate(fields)


def test_a_share_of_a_small_pool_is_one_pair_at_least() -> None:
    assert CoresetConfig(budget_fraction=0.001).count_picks(10) == 1
    assert CoresetConfig(budget_fraction=1.0).count_picks(10) == 10


def test_a_missing_stratum_column_is_refused(made: PairArtifacts, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="got 'colour'; choose one of source, image_uri, text, category, license"):
        rank(made, tmp_path, strategy="random", stratum_column="colour")


def test_a_pair_that_an_artifact_lacks_is_named(made: PairArtifacts, tmp_path: Path) -> None:
    lacking = Artifact(Store(str(tmp_path)), "pairs", "pairs")
    table = made.pairs.read_table()
    publish(lacking, table.filter(pc.not_equal(table[PAIR_ID], "pair-00123")))
    inputs = PoolArtifacts(**{**made.locate().__dict__, "pairs": lacking})
    out = Artifact(Store(str(tmp_path)), "selection", STAGE)
    config = CoresetConfig(budget=NUM_PAIRS, kernel=KERNEL)
    with pytest.raises(ArtifactError, match="'pair-00123'; run the stage 'pairs' again"):
        rank_pairs(
            inputs=inputs,
            source_options={},
            modalities=RESOLVED,
            origin=ORIGIN,
            config=config,
            run=StageRun(out, "f"),
        )


def test_metadata_may_not_be_named_like_a_column_of_the_selection(made: PairArtifacts, tmp_path: Path) -> None:
    table = made.pairs.read_table().rename_columns({"category": "rank"})
    pairs = Artifact(Store(str(tmp_path)), "pairs", "pairs")
    publish(pairs, table)
    with pytest.raises(DataError, match="got rank; rename the column"):
        rank_made(replace(made, pairs=pairs), tmp_path, CoresetConfig(budget=3, strategy="random"))


def test_lists_that_were_read_already_are_not_read_again(made: PairArtifacts, tmp_path: Path) -> None:
    listed = tmp_path / "done.txt"
    listed.write_text("\n".join(made.ids[:4]))
    config = CoresetConfig(budget=9, strategy="random", labelled=str(listed))
    lists = read_pair_lists(config, {})
    listed.unlink()
    out, manifest = rank_made(made, tmp_path, config, lists)
    assert not set(out.read_table()[PAIR_ID].to_pylist()) & set(made.ids[:4])
    assert manifest.properties["lists"] == hash_pair_lists(lists)


def test_a_stratum_column_of_lists_is_refused_before_pairs_are_picked(made: PairArtifacts, tmp_path: Path) -> None:
    table = made.pairs.read_table()
    pairs = Artifact(Store(str(tmp_path)), "pairs", "pairs")
    publish(pairs, table.append_column("tags", pa.array([["a", "b"]] * table.num_rows)))
    with pytest.raises(ConfigError, match=r"stratum_column must hold .* 'tags' holds list<"):
        rank(replace(made, pairs=pairs), tmp_path, strategy="random", stratum_column="tags")
    assert not (tmp_path / "selection").exists()
