"""Every option of the coreset stage on stored artifacts: what is published, read back by DuckDB and by `validate`."""

import itertools
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from mmcsal_core.artifacts import Artifact, Manifest
from mmcsal_core.errors import ConfigError, DataError, GateError
from mmcsal_core.neighbors import KernelConfig, NeighborConfig
from mmcsal_core.schema import PAIR_ID
from mmcsal_core.selection import select_coreset
from mmcsal_core.selection.stored_pool import MIN_BATCH_EDGES, read_pool, restrict_neighbors
from mmcsal_core.storage import Store
from mmcsal_core.validation import validate_run
from mmcsal_core.validation_selection import find_selection_problems
from pipelines.coreset import CoresetConfig
from tests.pipelines.pair_artifacts import (
    MODALITIES,
    PairArtifacts,
    publish,
    publish_neighbors,
    rank_made,
    write_pair_artifacts,
)

NUM_PAIRS, BUDGET = 300, 24
KERNEL = KernelConfig(bandwidth_neighbor=20)
KINDS = np.random.default_rng(0).choice(["cat", "dog", "owl", None], NUM_PAIRS, p=[0.6, 0.25, 0.1, 0.05])  # type: ignore[arg-type]
PRICES = np.random.default_rng(1).integers(1, 7, NUM_PAIRS) / 2


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> PairArtifacts:
    """Artifacts of pairs with a kind (some NULL) and a price, and their neighbours in several small shards."""
    made = write_pair_artifacts(Store(str(tmp_path_factory.mktemp("run"))), NUM_PAIRS)
    table = made.pairs.read_table()
    rows = [made.ids.index(name) for name in table[PAIR_ID].to_pylist()]
    table = table.append_column("kind", pa.array(KINDS[rows].tolist(), pa.string()))
    publish(made.pairs, table.append_column("price", pa.array(PRICES[rows], pa.float32())))
    publish_neighbors(made, 24, rows_per_shard=1)
    return made


def rank(made: PairArtifacts, folder: Path, **fields: Any) -> tuple[Artifact, Manifest]:
    config = CoresetConfig.model_validate({"kernel": KERNEL, "search": NeighborConfig(num_neighbors=24), **fields})
    out, manifest = rank_made(made, folder, config)
    pool = manifest.properties["pool"]
    assert find_selection_problems(out.read_table(), pool) == []
    assert pool + manifest.properties["left_out"] == manifest.pairs_out == NUM_PAIRS
    return out, manifest


def query(out: Artifact, words: str) -> list[tuple[Any, ...]]:
    return duckdb.execute(f"SELECT {words.replace('SELECTION', repr(out.store.url + '/data/*.parquet'))}").fetchall()


def read_ids(out: Artifact) -> list[str]:
    ids: list[str] = out.read_table()[PAIR_ID].to_pylist()
    return ids


def test_labelled_pairs_count_as_picked_and_are_not_returned(made: PairArtifacts, tmp_path: Path) -> None:
    first = read_ids(rank(made, tmp_path / "a", budget=40, refine="none")[0])
    (tmp_path / "done.txt").write_text("\n".join(first[:15]))
    out, manifest = rank(made, tmp_path / "b", budget=25, refine="none", labelled=str(tmp_path / "done.txt"))
    assert read_ids(out) == first[15:]
    assert (manifest.properties["labelled"], manifest.properties["left_out"]) == (15, 0)
    earlier = str(tmp_path / "a" / "selection" / "data" / "*.parquet")
    out, _ = rank(made, tmp_path / "c", budget=10, labelled=earlier)
    assert not set(read_ids(out)) & set(first)


def test_excluded_and_filtered_pairs_are_neither_picked_nor_represented(made: PairArtifacts, tmp_path: Path) -> None:
    excluded = made.ids[:50]
    out, manifest = rank(made, tmp_path, budget=BUDGET, exclude=tuple(excluded), where="kind = 'cat' AND price < 3")
    kept = [row for row in range(50, NUM_PAIRS) if KINDS[row] == "cat" and PRICES[row] < 3]
    assert manifest.properties["pool"] == len(kept) == query(out, "sum(cluster_weight) FROM SELECTION")[0][0]
    assert set(read_ids(out)) <= {made.ids[row] for row in kept}


def test_a_restricted_pool_selects_like_a_pool_of_these_pairs_alone(made: PairArtifacts, tmp_path: Path) -> None:
    rows = np.array([row for row in range(NUM_PAIRS) if KINDS[row] == "dog"])
    for strategy in ("k_center", "coverage", "random"):
        out, _ = rank(made, tmp_path / strategy, budget=12, where="kind = 'dog'", strategy=strategy)
        config = CoresetConfig(budget=12, kernel=KERNEL, search=NeighborConfig(num_neighbors=24))
        embeddings = {name: x[rows] for name, x in made.pool.embeddings.items()}
        alone = select_coreset(embeddings, 12, strategy=strategy, seed=7, config=config)
        assert read_ids(out) == [made.ids[row] for row in rows[alone.indices]]


def test_labelled_pairs_stay_whatever_where_and_exclude_say(made: PairArtifacts, tmp_path: Path) -> None:
    labelled = tuple(made.ids[row] for row in range(NUM_PAIRS) if KINDS[row] == "owl")
    out, manifest = rank(
        made, tmp_path, budget=10, where="kind = 'dog'", labelled=labelled, exclude=labelled[:3], strategy="k_center"
    )
    assert manifest.properties["pool"] == sum(kind in ("dog", "owl") for kind in KINDS)
    assert {KINDS[made.ids.index(name)] for name in read_ids(out)} == {"dog"}


@pytest.mark.parametrize("strategy", ["mmcsal", "k_center", "random", "kmeans", "typiclust"])
def test_quotas_are_kept_to_the_pair(made: PairArtifacts, tmp_path: Path, strategy: str) -> None:
    quotas = {"column": "kind", "exact": {"owl": 7, "null": 2}, "minimum": {"dog": 6}, "maximum": {"cat": 10}}
    out, _ = rank(made, tmp_path, budget=BUDGET, quotas=quotas, strategy=strategy)
    counts = dict(query(out, "coalesce(kind, 'null'), count(*) FROM SELECTION GROUP BY 1"))
    assert (counts["owl"], counts["null"], counts["cat"] <= 10, counts["dog"] >= 6) == (7, 2, True, True)
    assert sum(counts.values()) == BUDGET
    assert query(out, "count(*) FROM SELECTION WHERE stratum IS DISTINCT FROM kind")[0][0] == 0


def test_balance_gives_every_group_the_same_as_far_as_it_goes(made: PairArtifacts, tmp_path: Path) -> None:
    quotas = {"column": "kind", "balance": "equal"}
    out, _ = rank(made, tmp_path, budget=80, quotas=quotas, strategy="k_center")
    counts = dict(query(out, "coalesce(kind, 'null'), count(*) FROM SELECTION GROUP BY 1"))
    there = Counter("null" if kind is None else kind for kind in KINDS)
    assert counts["null"] == min(20, there["null"])
    assert max(counts.values()) - min(counts[name] for name in counts if counts[name] < there[name]) <= 1


def test_a_cost_budget_is_spent_and_never_passed(made: PairArtifacts, tmp_path: Path) -> None:
    out, manifest = rank(made, tmp_path / "a", cost_budget=40, cost_column="price", refine="none")
    spent = query(out, "sum(price) FROM SELECTION")[0][0]
    assert 40 - 0.5 < spent <= 40  # the cheapest pair costs 0.5
    assert manifest.properties["cost"] == pytest.approx(spent)
    assert manifest.properties["ended_by"] == "constraints"
    assert out.read_table().schema.metadata[b"cost_column"] == b"price"
    phases = query(out, "phase, gain / price FROM SELECTION ORDER BY rank")
    assert all(a[1] >= b[1] - 1e-6 for a, b in itertools.pairwise(phases) if a[0] == b[0])
    plain, _ = rank(made, tmp_path / "b", cost_budget=40, cost_column="price", cost_rule="gain")
    assert b"cost_column" not in plain.read_table().schema.metadata
    assert query(plain, "sum(price) FROM SELECTION")[0][0] <= 40
    assert plain.read_table().num_rows < out.read_table().num_rows


def test_gain_by_cost_is_what_validate_checks(made: PairArtifacts, tmp_path: Path) -> None:
    out, _ = rank(made, tmp_path, cost_budget=40, cost_column="price", refine="none")
    table = out.read_table()
    other = table.replace_schema_metadata({**table.schema.metadata, b"cost_column": b"source_row"})
    assert find_selection_problems(other, None) == [
        "schema metadata names the cost column source_row, which is not there"
    ]
    plain = {key: value for key, value in table.schema.metadata.items() if key != b"cost_column"}
    assert any(
        "gain rises" in problem for problem in find_selection_problems(table.replace_schema_metadata(plain), None)
    )


def test_the_first_limit_that_is_reached_ends_the_selection(made: PairArtifacts, tmp_path: Path) -> None:
    far, about = rank(made, tmp_path / "a", min_distance=0.7)
    assert query(far, "min(nearest_selected_distance) FROM SELECTION")[0][0] >= 0.7
    assert (about.properties["ended_by"], about.properties["budget"]) == ("constraints", NUM_PAIRS)
    num_far = far.read_table().num_rows
    assert 5 < num_far < 200
    few, about = rank(made, tmp_path / "b", min_distance=0.7, budget=5)
    assert (few.read_table().num_rows, about.properties["ended_by"]) == (5, "budget")
    assert read_ids(few) == read_ids(far)[:5]
    gains = rank(made, tmp_path / "c", budget=50, strategy="coverage")[0].read_table()["gain"].to_pylist()
    ended, about = rank(made, tmp_path / "d", min_gain=(gains[10] + gains[11]) / 2, strategy="coverage")
    assert (ended.read_table().num_rows, about.properties["ended_by"]) == (11, "min_gain")


def test_near_duplicates_are_reported_and_only_their_leader_is_picked(made: PairArtifacts, tmp_path: Path) -> None:
    out, manifest = rank(made, tmp_path, budget=40, near_duplicates={"threshold": 0.9})
    url = f"{out.store.url}/near_duplicates.parquet"
    groups: dict[str, list[str]] = {}
    for name, leader in duckdb.execute(f"SELECT pair_id, near_duplicate_group FROM '{url}'").fetchall():
        groups.setdefault(leader, []).append(name)
    assert manifest.properties["near_duplicates"] == {"groups": len(groups), "pairs": sum(map(len, groups.values()))}
    assert len(groups) > 5
    assert all(leader in members for leader, members in groups.items())
    joint = np.hstack([made.pool.embeddings[name] for name in MODALITIES]) / np.sqrt(2)
    for leader, members in groups.items():
        rows = [made.ids.index(name) for name in members]
        assert (joint[rows] @ joint[made.ids.index(leader)]).min() >= 0.9 - 1e-5
    followers = {name for leader, members in groups.items() for name in members if name != leader}
    for name, count in query(out, "pair_id, near_duplicate_count FROM SELECTION"):
        assert name not in followers
        assert count == len(groups.get(name, [name]))
    assert query(out, "sum(cluster_weight) FROM SELECTION")[0][0] == NUM_PAIRS
    assert [record.name for record in manifest.files] == ["near_duplicates.parquet"]


def test_weights_of_modalities_change_what_is_near(made: PairArtifacts, tmp_path: Path) -> None:
    plain = read_ids(rank(made, tmp_path / "a", budget=BUDGET)[0])
    out, _ = rank(made, tmp_path / "b", budget=BUDGET, modality_weights={"image": 1, "text": 0})
    assert read_ids(out) != plain
    for name, nearest, distance in query(
        out, "pair_id, nearest_selected_id, nearest_selected_distance FROM SELECTION WHERE rank > 0"
    ):
        one, other = (made.pool.embeddings["image"][made.ids.index(pair)] for pair in (name, nearest))
        assert distance == pytest.approx(np.linalg.norm(one - other), rel=1e-4)


@pytest.mark.parametrize(
    ("fields", "error", "words"),
    [
        ({"labelled": ("pair-00001", "nobody")}, DataError, "but 1 of 2 ids are not in it, first 'nobody'"),
        ({"exclude": "absent.csv"}, DataError, "cannot be read at"),
        ({"where": "colour = 'red'"}, ConfigError, "the columns are pair_id, alignment, .*kind, price"),
        ({"where": "kind = 'emu'"}, GateError, "none of 300 pairs may be picked after .*where .*emu"),
        ({"where": "kind = 'owl'", "budget": 200}, GateError, "200 pairs are asked for and"),
        ({"quotas": {"column": "colour", "maximum": {"red": 2}}}, ConfigError, "quotas.column .*got 'colour'"),
        ({"quotas": {"column": "kind", "maximum": {"emu": 2}}}, ConfigError, "got 'emu'; .*cat, dog, null, owl"),
        (
            {"where": "kind = 'cat'", "quotas": {"column": "kind", "minimum": {"owl": 4}}},
            GateError,
            "kind 'owl' needs 4 pairs and has 0: 4 too many; .* where",
        ),
        ({"quotas": {"column": "kind", "exact": {"null": 24}}}, GateError, "kind 'null' needs 24 pairs and has"),
        ({"cost_column": "text", "cost_budget": 3}, ConfigError, "cost_column must hold numbers, 'text' holds string"),
        ({"cost_column": "price", "cost_budget": 0.1}, GateError, "nothing could be picked"),
        (
            {"cost_column": "price", "cost_budget": 6, "quotas": {"column": "kind", "minimum": {"owl": 9, "dog": 9}}},
            GateError,
            "the quotas on kind cost at least .* and cost_budget is 6: .*'owl' .* for 9 pairs",
        ),
        ({"min_distance": 1.2, "quotas": {"column": "kind", "minimum": {"owl": 9}}}, GateError, "before another limit"),
        ({"where": "random() < 0.5"}, ConfigError, "the same answer at every call"),
    ],
)
def test_what_cannot_be_done_is_refused_and_nothing_is_published(
    made: PairArtifacts, tmp_path: Path, fields: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        rank(made, tmp_path, **{"budget": BUDGET, **fields})
    assert not (tmp_path / "selection").exists()


def test_validate_holds_for_a_selection_under_constraints(made: PairArtifacts) -> None:
    fields = {"where": "price > 0.5", "near_duplicates": {"threshold": 0.9}, "labelled": tuple(made.ids[:9])}
    rank(made, Path(made.run.url), budget=BUDGET, **fields)
    checks = {check.name: check for check in validate_run(made.run).checks if check.name.startswith("selection")}
    assert [check for check in checks.values() if not check.ok] == []
    assert set(checks) >= {"selection: files", "selection: counts", "selection: input", "selection: contract"}


def test_edges_to_pairs_outside_are_dropped_and_searched_again_where_most_are(made: PairArtifacts) -> None:
    config = CoresetConfig(budget=5, kernel=KERNEL)
    stored = read_pool(made.locate(), MODALITIES, config)
    lists = stored.pool.neighbors
    assert lists is not None
    assert NUM_PAIRS * 24 * len(lists) < MIN_BATCH_EDGES
    most, few = np.arange(0, 290), np.arange(0, 60)
    kept = restrict_neighbors(lists, most)
    assert kept is not None
    for name, found in kept.items():
        expected = np.where(lists[name][most] < 290, lists[name][most], -1)
        np.testing.assert_array_equal(found, expected)
    assert restrict_neighbors(lists, few) is None
    assert stored.restrict(few).pool.neighbors is None
    assert stored.restrict(few).facts[PAIR_ID].to_pylist() == made.ids[:60]


def test_ids_of_edges_are_looked_up_over_several_batches(made: PairArtifacts, monkeypatch: pytest.MonkeyPatch) -> None:
    config = CoresetConfig(budget=5, kernel=KERNEL)
    together = read_pool(made.locate(), MODALITIES, config).pool.neighbors
    monkeypatch.setattr("mmcsal_core.selection.stored_pool.MIN_BATCH_EDGES", 1)
    apart = read_pool(made.locate(), MODALITIES, config).pool.neighbors
    assert together is not None
    assert apart is not None
    assert together.keys() == apart.keys()
    edges = made.locate().neighbors.read_table().filter(pc.field("relation") == "image->text").to_pylist()
    for name, found in together.items():
        np.testing.assert_array_equal(found, apart[name])
    for edge in edges:
        row = made.ids.index(edge["pair_id"])
        assert made.ids[together["image->text"][row, edge["neighbor_rank"]]] == edge["neighbor_id"]


def test_what_is_labelled_needs_no_cost(made: PairArtifacts, tmp_path: Path) -> None:
    unpriced = Artifact(Store(str(tmp_path / "run")), "pairs", "pairs")
    table = made.pairs.read_table().sort_by(PAIR_ID)
    prices = [None if number < 2 else price for number, price in enumerate(table["price"].to_pylist())]
    place = table.column_names.index("price")
    publish(unpriced, table.set_column(place, "price", pa.array(prices, pa.float32())))
    changed, first = replace(made, pairs=unpriced), table[PAIR_ID].to_pylist()[:2]
    out, manifest = rank(changed, tmp_path, cost_budget=10, cost_column="price", labelled=tuple(first))
    assert not set(read_ids(out)) & set(first)
    assert 9 < manifest.properties["cost"] <= 10
    with pytest.raises(DataError, match="price"):
        rank(changed, tmp_path / "b", cost_budget=10, cost_column="price", labelled=(first[0],))


def test_minimums_are_met_from_a_cost_budget_that_greed_would_have_spent(made: PairArtifacts, tmp_path: Path) -> None:
    there = {kind: np.sort(PRICES[kind == KINDS]) for kind in ("owl", "dog")}
    least = float(there["owl"][:12].sum() + there["dog"][:12].sum())
    fields = {"cost_column": "price", "cost_rule": "gain", "refine": "none", "cost_budget": least + 1}
    plain, _ = rank(made, tmp_path / "a", budget=BUDGET + 9, **fields)
    counts = dict(query(plain, "kind, count(*) FROM SELECTION GROUP BY 1"))
    assert counts.get("owl", 0) < 12
    quotas = {"column": "kind", "minimum": {"owl": 12, "dog": 12}}
    out, manifest = rank(made, tmp_path / "b", budget=BUDGET + 9, quotas=quotas, **fields)
    counts = dict(query(out, "kind, count(*) FROM SELECTION GROUP BY 1"))
    assert counts["owl"] >= 12
    assert counts["dog"] >= 12
    assert manifest.properties["cost"] <= least + 1
