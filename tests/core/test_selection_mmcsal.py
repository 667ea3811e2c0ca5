import itertools
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from scipy import sparse

from mmcsal_core.artifacts import Artifact
from mmcsal_core.neighbors import KernelConfig, NeighborConfig, relations
from mmcsal_core.neighbors.relations import Relation, measure_bandwidth
from mmcsal_core.neighbors.vectors import Floats
from mmcsal_core.neighbors.whole_kernel import UNIT, Whole, round_graph
from mmcsal_core.selection import SelectionConfig, select_coreset
from mmcsal_core.selection.coreset import Request
from mmcsal_core.selection.covering import cover_greedily, search_cover
from mmcsal_core.selection.engine.cover_objective import Cover
from mmcsal_core.selection.engine.eligibility import NO_ROWS, Constraints, Eligibility
from mmcsal_core.selection.engine.engines import LocalEngine
from mmcsal_core.selection.engine.lazy_blocks import Limits
from mmcsal_core.selection.horizon import find_horizon
from mmcsal_core.selection.mmcsal import cover_graph, find_outliers
from mmcsal_core.selection.pair_graph import PairGraph, build_pair_graph
from mmcsal_core.selection.pool import make_pool
from mmcsal_core.selection.refine import Swaps, find_cells
from mmcsal_core.selection.stored_pool import collect_edges
from mmcsal_core.storage import Store
from tests.core.pair_pools import make_clustered_pool, make_mispaired_pool
from tests.core.plain_greedy import CoverState, greedy_cover

CONFIG = SelectionConfig(
    refine="none", diversity_threshold=0, kernel=KernelConfig(bandwidth_neighbor=10, max_dense_pairs=0)
)


def build_graph(
    num_pairs: int, num_neighbors: int = 12, seed: int = 0, kernel: KernelConfig = CONFIG.kernel
) -> PairGraph:
    pool = make_clustered_pool(num_pairs, seed=seed)
    config = CONFIG.model_copy(update={"search": NeighborConfig(num_neighbors=num_neighbors), "kernel": kernel})
    return build_pair_graph(make_pool(pool.embeddings, pool.features), config, seed=0)


def to_dense(graph: PairGraph) -> Floats:
    dense: Floats = graph.kernel.toarray() / UNIT
    return dense


def measure_coverage(kernel: Floats, trust: Floats, picks: Sequence[int], floor: Floats | float = 0.0) -> float:
    return float(np.maximum((kernel[:, picks] * trust[picks]).max(axis=1) - floor, 0).mean()) if picks else 0.0


def pick_by_brute_force(graph: PairGraph, budget: int, config: SelectionConfig) -> tuple[list[int], list[float]]:
    """Evaluate the whole objective for every candidate of every round, on a dense kernel."""
    kernel, trust, floor = to_dense(graph), 1 - config.lambda_align * graph.suspicion, graph.floor / UNIT
    picks: list[int] = []
    gains: list[float] = []
    for _ in range(budget):
        values = np.full(len(kernel), -np.inf)
        for row in set(range(len(kernel))) - set(picks):
            rise = measure_coverage(kernel, trust, [*picks, row], floor) - measure_coverage(kernel, trust, picks, floor)
            repulsion = max((kernel[row, pick] for pick in picks), default=0.0)
            values[row] = rise - config.lambda_div / len(kernel) * repulsion
        picks.append(int(values.argmax()))
        gains.append(float(values.max()))
    return picks, gains


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(("lambda_div", "lambda_align"), [(0.0, 0.0), (0.5, 0.5), (2.0, 1.0)])
def test_lazy_greedy_picks_what_brute_force_picks(seed: int, lambda_div: float, lambda_align: float) -> None:
    graph = build_graph(80, seed=seed)
    config = CONFIG.model_copy(update={"lambda_div": lambda_div, "lambda_align": lambda_align})
    picks = cover_graph(graph, Request(25, NO_ROWS, 0, config))
    expected, gains = pick_by_brute_force(graph, 25, config)
    assert picks.indices.tolist() == expected
    np.testing.assert_allclose(picks.terms.sum(axis=1), gains, atol=1e-8)


def test_greedy_coverage_is_within_its_bound_of_the_optimum() -> None:
    graph = build_graph(16, num_neighbors=15)
    dense, trust = to_dense(graph), np.ones(16)
    best = max(measure_coverage(dense, trust, picks) for picks in map(list, itertools.combinations(range(16), 3)))
    picks = cover_greedily(graph.kernel, Request(3, NO_ROWS, 0, CONFIG), "coverage")
    reached = measure_coverage(dense, trust, picks.indices.tolist())
    assert reached >= (1 - 1 / np.e) * best
    assert reached >= 0.95 * best


def test_coverage_on_neighbours_is_near_that_on_the_dense_kernel() -> None:
    dense, near = build_graph(300, num_neighbors=299), build_graph(300, num_neighbors=40)

    def cover(graph: PairGraph) -> list[int]:
        picks: list[int] = cover_greedily(graph.kernel, Request(30, NO_ROWS, 0, CONFIG), "coverage").indices.tolist()
        return picks

    values = [measure_coverage(to_dense(dense), np.ones(300), cover(graph)) for graph in (near, dense)]
    assert values[0] >= 0.98 * values[1]


def test_the_engine_picks_what_the_plain_lazy_heap_picks() -> None:
    graph = build_graph(2500)
    kernel, trust = graph.kernel / UNIT, 1 - 0.5 * graph.suspicion
    expected = greedy_cover(CoverState(kernel, trust, 0.3, graph.floor / UNIT), np.arange(2500), 400)
    config = CONFIG.model_copy(update={"lambda_div": 0.3})
    picks = cover_graph(graph, Request(400, NO_ROWS, 0, config))
    np.testing.assert_array_equal(picks.indices, expected.indices)
    np.testing.assert_allclose(picks.terms, expected.terms, atol=1e-8)


def test_ties_go_to_the_lowest_row() -> None:
    kernel = round_graph(sparse.eye_array(5, format="csr"))
    request = Request(3, NO_ROWS, 0, CONFIG, constraints=Constraints(np.array([0, 1])))
    assert cover_greedily(kernel, request, "coverage").indices.tolist() == [2, 3, 4]


def test_greedy_stops_before_a_rise_below_the_minimum() -> None:
    kernel, objective = round_graph(sparse.csr_array(np.diag([1.0, 0.7, 0.4, 0.1]))), Cover(np.ones(4), 0.0)
    shards = LocalEngine().open_cover(kernel, objective, NO_ROWS)
    request = Request(4, NO_ROWS, 0, CONFIG)
    picks = search_cover(objective, shards, Eligibility(4), request, Limits(4, min_rise=0.05), "coverage")
    assert picks.indices.tolist() == [0, 1, 2]


def test_every_row_is_in_the_cell_of_the_pick_that_covers_it_best() -> None:
    graph = build_graph(60)
    trust, picks = 1 - 0.5 * graph.suspicion, np.array([40, 3, 17])
    cells = find_cells(graph.kernel[picks], trust[picks], picks, graph.floor)
    weighted = to_dense(graph)[:, picks] * trust[picks]
    expected = np.where(weighted.max(axis=1) > graph.floor / UNIT, weighted.argmax(axis=1), -1)
    expected[picks] = [0, 1, 2]
    np.testing.assert_array_equal(cells, expected)


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_swaps_never_lower_coverage_and_leave_fixed_rows_alone(seed: int) -> None:
    graph = build_graph(120, seed=seed)
    dense, trust, floor = to_dense(graph), 1 - 0.5 * graph.suspicion, graph.floor / UNIT
    rows = np.random.default_rng(seed).choice(120, 12, replace=False)
    picks, fixed = rows[:10], rows[10:]
    values = [measure_coverage(dense, trust, rows.tolist(), floor)]
    shards = LocalEngine().open_cover(graph.kernel, Cover(trust, 0.0, floor=graph.floor), fixed)
    swaps = Swaps(shards, trust, fixed, graph.floor, np.ones(120, bool))
    for _ in range(4):
        picks = swaps.move(picks, max_rounds=1)
        assert len(set(picks.tolist()) | set(fixed.tolist())) == 12
        values.append(measure_coverage(dense, trust, [*picks.tolist(), *fixed.tolist()], floor))
    assert (np.diff(values) >= -1e-8).all()
    assert values[-1] > values[0]


def move_once(graph: PairGraph, trust: Floats, picks: Sequence[int], max_rounds: int = 1) -> list[int]:
    shards = LocalEngine().open_cover(graph.kernel, Cover(trust, 0.0, floor=graph.floor), NO_ROWS)
    swaps = Swaps(shards, trust, NO_ROWS, graph.floor, np.ones(len(trust), dtype=bool))
    moved: list[int] = swaps.move(np.array(picks), max_rounds).tolist()
    return moved


def test_a_round_that_would_lower_coverage_is_not_made() -> None:
    kernel = np.array([[1, 0.9, 0, 0], [0.9, 1, 0.9, 0.5], [0, 0.9, 1, 0.7], [0, 0.5, 0.7, 1]])
    trust, floor = np.array([0.1, 1, 1, 1]), np.zeros(4, dtype=np.int32)
    graph = PairGraph(round_graph(sparse.csr_array(kernel)), np.zeros(4), floor)
    assert measure_coverage(kernel, trust, [0, 1]) > measure_coverage(kernel, trust, [0, 2])
    cells = find_cells(graph.kernel[[0, 1]], trust[:2], np.array([0, 1]), floor)
    inside = [(np.where(cells == 1, kernel[row], 0)).sum() for row in (1, 2)]
    assert inside[1] > inside[0]
    assert move_once(graph, trust, [0, 1]) == [0, 1]
    assert move_once(graph, trust, [0, 1], max_rounds=50) == [0, 1]


def test_swaps_never_lower_coverage_where_there_is_hardly_any_trust() -> None:
    graphs, num_moved = [build_graph(30, 25, seed) for seed in range(4)], 0
    for seed in range(62):  # 34, 56 and 60 have rounds that would
        graph, rng = graphs[seed % 4], np.random.default_rng(seed)
        trust, picks = np.ones(30), rng.choice(30, 10, replace=False).tolist()
        is_low = rng.random(30) < 0.3
        trust[is_low] = rng.random(is_low.sum())
        values = [measure_coverage(to_dense(graph), trust, picks, graph.floor / UNIT)]
        for _ in range(4):
            moved = move_once(graph, trust, picks)
            num_moved += moved != picks
            picks = moved
            values.append(measure_coverage(to_dense(graph), trust, picks, graph.floor / UNIT))
        assert (np.diff(values) >= -1e-8).all()
    assert num_moved > 40


def test_refined_picks_cover_no_less_and_are_ranked_by_greedy() -> None:
    graph = build_graph(200)
    trust, floor = 1 - 0.5 * graph.suspicion, graph.floor / UNIT
    strict = cover_graph(graph, Request(15, NO_ROWS, 0, CONFIG))
    refined = cover_graph(graph, Request(15, NO_ROWS, 0, CONFIG.model_copy(update={"refine": "swap"})))
    dense = to_dense(graph)
    coverage = [measure_coverage(dense, trust, picks.indices.tolist(), floor) for picks in (strict, refined)]
    assert coverage[1] >= coverage[0]
    assert (np.diff(refined.terms.sum(axis=1)) <= 1e-8).all()


@pytest.mark.parametrize("neighbor", [1, 9, 89])
def test_the_bandwidth_is_the_same_in_tiles(neighbor: int, monkeypatch: pytest.MonkeyPatch) -> None:
    z = make_clustered_pool(90).embeddings
    relation = Relation("image~text", z["image"], z["text"], 1.0)
    squared = 2 - 2 * z["image"].astype(np.float64) @ z["text"].T
    np.fill_diagonal(squared, np.inf)
    expected = np.median(np.sort(squared, axis=1)[:, neighbor - 1])
    monkeypatch.setattr(relations, "BLOCK_ROWS", 11)
    monkeypatch.setattr(relations, "TILE_ROWS", 7)
    assert measure_bandwidth(relation, neighbor, 0) == pytest.approx(expected, abs=1e-6)


def test_what_is_held_while_a_bandwidth_is_measured_does_not_grow_with_the_pool(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    angles = np.random.default_rng(0).uniform(0, 2 * np.pi, 150_000).astype(np.float32)
    points = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    monkeypatch.setattr(relations, "BANDWIDTH_ROWS", 256)
    tracemalloc.start()
    measure_bandwidth(Relation("image", points, points, 1.0), 10, 0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 80 * 2**20


def test_stored_edges_are_held_once(tmp_path: Path) -> None:
    neighbors, ids = Artifact(Store(str(tmp_path)), "neighbors", "neighbors"), [f"{row:05d}" for row in range(4000)]
    neighbors.finish(neighbors.begin("f", list), properties={"pool": 4000, "num_neighbors": 1000})
    tables = []
    for rank in (0, 1):
        columns = {"pair_id": ids, "relation": ["image->text"] * 4000, "neighbor_id": ids[1 + rank :] + ids[: 1 + rank]}
        tables.append(pa.table(columns | {"neighbor_rank": np.full(4000, rank)}))
    tracemalloc.start()
    (found,) = collect_edges(tables, pa.chunked_array([ids]), neighbors).values()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found[3999, :3].tolist() == [0, 1, -1]
    assert peak < 1.5 * found.nbytes


def test_the_horizon_is_a_share_of_the_value_of_the_kth_other_row() -> None:
    graph = build_graph(90)
    falling = -np.sort(-graph.kernel.toarray(), axis=1)
    np.testing.assert_array_equal(find_horizon(graph.kernel, 12, 1.0), falling[:, 12])
    np.testing.assert_array_equal(find_horizon(graph.kernel, 12, 0.25), falling[:, 12] // 4)
    np.testing.assert_array_equal(graph.floor, np.floor(CONFIG.kernel.horizon * falling[:, 12]))
    degrees = np.diff(graph.kernel.indptr)
    least = np.minimum.reduceat(graph.kernel.data, graph.kernel.indptr[:-1])
    np.testing.assert_array_equal(find_horizon(graph.kernel, 88, 1.0)[degrees <= 88], least[degrees <= 88])
    assert (find_horizon(graph.kernel, 89, 1.0) == 0).all()


@pytest.fixture(
    scope="module",
    params=[KernelConfig(max_dense_pairs=0), CONFIG.kernel.model_copy(update={"neighborhood_size": 20})],
    ids=["default", "narrow"],
)
def dense_and_near(request: pytest.FixtureRequest) -> tuple[PairGraph, PairGraph]:
    """Return the graph of all edges of a pool, and that of its nearest ones."""
    dense, near = (build_graph(1500, num_neighbors=number, kernel=request.param) for number in (1499, 48))
    return dense, near


@pytest.mark.parametrize("budget", [10, 40, 150])
def test_counting_above_the_horizon_reaches_the_value_of_dense_greedy(
    budget: int, dense_and_near: tuple[PairGraph, PairGraph]
) -> None:
    dense, near = dense_and_near
    kernel = to_dense(dense)

    def cover(graph: PairGraph, floor: Whole) -> float:
        request = Request(budget, NO_ROWS, 0, CONFIG)
        picks = cover_greedily(graph.kernel, request, "coverage", floor).indices
        return measure_coverage(kernel, np.ones(1500), picks.tolist())

    best = cover(dense, dense.floor)
    assert cover(near, near.floor) >= 0.995 * best
    assert cover(near, near.floor) >= cover(near, np.zeros_like(near.floor)) - 1e-4


def test_k_center_takes_over_once_coverage_is_exhausted_and_leaves_outliers_for_last() -> None:
    pool = make_clustered_pool(150)
    config = SelectionConfig(diversity_threshold=2.0, kernel=KernelConfig(bandwidth_neighbor=10))
    coreset = select_coreset(pool.embeddings, 150, features=pool.features, config=config)
    phases = list(dict.fromkeys(coreset.phases))
    assert phases == ["coverage", "diversity", "outlier"]
    graph = build_pair_graph(make_pool(pool.embeddings, pool.features), config, 0, backbones_alone=True)
    is_outlier = find_outliers(graph, config.outlier_fraction)[coreset.indices]
    last = np.array(coreset.phases)
    assert not is_outlier[last == "diversity"].any()
    assert is_outlier[last == "outlier"].all()


def test_coverage_ends_before_the_first_pick_that_covers_less_than_the_threshold_of_pairs() -> None:
    pool = make_clustered_pool(150)
    whole, ended = (
        select_coreset(
            pool.embeddings,
            100,
            features=pool.features,
            config=SelectionConfig(refine="none", diversity_threshold=threshold),
        )
        for threshold in (0.0, 0.5)
    )
    worth = 150 * whole.coverage_terms
    assert worth[0] > 20
    first_small = int(np.flatnonzero(worth + 150 * whole.alignment_terms < 0.5)[0])
    assert 5 < first_small < 95
    assert list(ended.phases).index("diversity") == first_small
    np.testing.assert_array_equal(ended.indices[:first_small], whole.indices[:first_small])


def test_suspicion_keeps_mispaired_pairs_out() -> None:
    pool = make_clustered_pool(400, seed=1)
    swapped = np.random.default_rng(0).choice(400, 60, replace=False)
    text = pool.embeddings["text"].copy()
    text[swapped] = text[np.roll(swapped, 1)]
    embeddings = {"image": pool.embeddings["image"], "text": text}

    def count_swapped(lambda_align: float) -> int:
        config = SelectionConfig(lambda_align=lambda_align, refine="none")
        return int(np.isin(select_coreset(embeddings, 60, config=config).indices, swapped).sum())

    assert count_swapped(0.5) <= count_swapped(0.0)
    assert count_swapped(0.5) < 60 * 60 / 400


def test_the_default_picks_few_mispaired_pairs_and_no_fewer_classes_than_without_alignment() -> None:
    pools = [make_mispaired_pool(400, rare_share=0.05, mispaired_share=0.2, seed=seed) for seed in range(3)]

    def measure(config: SelectionConfig) -> tuple[float, float]:
        """Return the mispaired share of the picks and the number of their classes, means over pools and budgets."""
        shares, classes = [], []
        for pool, each in itertools.product(pools, (1, 2, 5, 10)):
            picks = select_coreset(pool.embeddings, 9 * each, config=config).indices
            shares.append(pool.is_mispaired[picks].mean())
            classes.append(len(np.unique(pool.clusters[picks])))
        return float(np.mean(shares)), float(np.mean(classes))

    limit = np.mean([pool.is_mispaired.mean() for pool in pools]) / 5
    share, num_classes = measure(SelectionConfig())
    plain_share, plain_classes = measure(SelectionConfig(lambda_align=0))
    assert share <= limit < plain_share
    assert num_classes >= plain_classes
