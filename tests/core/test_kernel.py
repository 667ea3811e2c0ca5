import itertools

import numpy as np
import pytest
from scipy import sparse

from mmcsal_core.neighbors import KernelConfig
from mmcsal_core.neighbors.backbone_space import reduce_features
from mmcsal_core.neighbors.couples import AllCouples, EdgeCouples, union_edges
from mmcsal_core.neighbors.index import NO_NEIGHBOR
from mmcsal_core.neighbors.kernel import compute_kernel
from mmcsal_core.neighbors.neighborhoods import average_neighborhoods, list_nearest
from mmcsal_core.neighbors.relations import (
    Relation,
    list_backbone_relations,
    list_shared_relations,
    measure_bandwidth,
)
from mmcsal_core.neighbors.vectors import Floats
from mmcsal_core.neighbors.whole_kernel import UNIT
from mmcsal_core.selection import SelectionConfig
from mmcsal_core.selection.pair_graph import build_pair_graph
from mmcsal_core.selection.pool import make_pool
from tests.core.pair_pools import make_clustered_pool

BACKBONE_DIMS = 128
CONFIG = KernelConfig(bandwidth_neighbor=20, unimodal_weight=1.0, crossmodal_weight=0.5, backbone_weight=2.0)
CONFIGS = [
    CONFIG,
    CONFIG.model_copy(update={"form": "sum"}),
    CONFIG.model_copy(update={"bandwidth_neighbor": None}),
]


def square_distances(a: Floats, b: Floats) -> Floats:
    return np.asarray(((a[:, None, :].astype(np.float64) - b[None, :, :]) ** 2).sum(axis=2))


def take_bandwidth(squared: Floats, neighbor: int | None) -> float:
    is_own = np.eye(len(squared), dtype=bool)
    return float(squared[~is_own].mean()) if neighbor is None else take_median_bandwidth(squared, neighbor)


def take_median_bandwidth(squared: Floats, neighbor: int) -> float:
    off_diagonal = squared + np.where(np.eye(len(squared), dtype=bool), np.inf, 0.0)
    return float(np.median(np.sort(off_diagonal, axis=1)[:, neighbor - 1]))


def compute_dense_kernel(num_pairs: int, config: KernelConfig) -> Floats:
    pool = make_clustered_pool(num_pairs)
    z = {name: x.astype(np.float64) for name, x in pool.embeddings.items()}
    reduced = {name: reduce_features(x, BACKBONE_DIMS).astype(np.float64) for name, x in pool.features.items()}
    relations = [(square_distances(x, x), config.unimodal_weight) for x in z.values()]
    crossed = (square_distances(z["image"], z["text"]) + square_distances(z["text"], z["image"])) / 2
    relations.append((crossed, config.crossmodal_weight))
    relations += [(square_distances(x, x), config.backbone_weight) for x in reduced.values()]
    total = sum(weight for _, weight in relations)
    scaled = [(d / take_bandwidth(d, config.bandwidth_neighbor), w) for d, w in relations]
    if config.form == "sum":
        return np.asarray(sum(w * np.exp(-d) for d, w in scaled) / total)
    return np.asarray(np.exp(-sum(w * d for d, w in scaled) / total))


def list_relations(num_pairs: int, config: KernelConfig) -> list[Relation]:
    pool = make_clustered_pool(num_pairs)
    spaces = {name: reduce_features(x, BACKBONE_DIMS) for name, x in pool.features.items()}
    return list_shared_relations(pool.embeddings, config) + list_backbone_relations(spaces, config)


@pytest.mark.parametrize("config", CONFIGS)
def test_the_kernel_on_all_edges_is_the_dense_kernel(config: KernelConfig) -> None:
    num_pairs = 120
    everybody = np.array([[j for j in range(num_pairs) if j != i] for i in range(num_pairs)])
    graph = compute_kernel(EdgeCouples([everybody], num_pairs), list_relations(num_pairs, config), config, seed=0)
    np.testing.assert_allclose(graph.toarray() / UNIT, compute_dense_kernel(num_pairs, config), atol=2e-6)


@pytest.mark.parametrize("config", CONFIGS)
def test_all_couples_have_the_values_of_all_edges(config: KernelConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmcsal_core.neighbors.couples.BLOCK_ROWS", 17)
    graph = compute_kernel(AllCouples(120), list_relations(120, config), config, seed=0)
    dense = graph.toarray()
    assert graph.nnz == 120**2
    np.testing.assert_array_equal(dense, dense.T)
    np.testing.assert_allclose(dense / UNIT, compute_dense_kernel(120, config), atol=2e-6)


def test_a_neighbourhood_is_the_rows_of_the_largest_values_the_pair_itself_first_of_equals() -> None:
    values = np.array([[8, 5, 5, 8], [5, 8, 0, 9], [5, 0, 8, 0], [8, 9, 0, 8]])
    graph = sparse.csr_array((values * (values > 0)).astype(np.int32))
    graph.eliminate_zeros()
    assert list_nearest(graph, 3).tolist() == [[0, 3, 1], [3, 1, 0], [2, 0, NO_NEIGHBOR], [1, 3, 0]]


def test_nearest_rows_are_those_of_a_plain_sort_where_many_values_are_equal() -> None:
    rng = np.random.default_rng(3)
    dense = np.triu(rng.integers(0, 4, (30, 30)) * 2**28)
    dense += np.triu(dense, 1).T
    np.fill_diagonal(dense, 2**30 - 1)
    graph = sparse.csr_array(dense.astype(np.int32))

    def sort_plainly(row: int) -> list[int]:
        edges = range(graph.indptr[row], graph.indptr[row + 1])
        ranked = sorted((-graph.data[e], graph.indices[e] != row, graph.indices[e]) for e in edges)
        return [int(column) for _, _, column in ranked]

    for row, found in enumerate(list_nearest(graph, 25)):
        expected = sort_plainly(row)[:25]
        assert found.tolist() == expected + [NO_NEIGHBOR] * (25 - len(expected))


def test_the_mean_of_a_neighbourhood_is_a_direction_in_every_space() -> None:
    spaces = {name: z[:50] for name, z in make_clustered_pool(60).embeddings.items()}
    nearest = np.random.default_rng(0).integers(0, 50, (50, 5))
    nearest[:, 0] = np.arange(50)
    nearest[::3, 3:] = NO_NEIGHBOR
    for name, found in average_neighborhoods(spaces, nearest).items():
        sums = np.array([spaces[name][[r for r in rows if r != NO_NEIGHBOR]].sum(axis=0) for rows in nearest])
        np.testing.assert_allclose(found, sums / np.linalg.norm(sums, axis=1, keepdims=True), atol=1e-6)
    opposite = np.array([[1.0, 0.0], [-1.0, 0.0]], dtype=np.float32)
    np.testing.assert_array_equal(average_neighborhoods({"x": opposite}, np.array([[0, 1], [0, 1]]))["x"], opposite)


def test_the_graph_is_symmetric_with_an_exact_diagonal_below_one() -> None:
    neighbors = np.array([[(i + 1) % 50, (i + 7) % 50, NO_NEIGHBOR] for i in range(50)])
    config = KernelConfig(bandwidth_neighbor=5)
    graph = compute_kernel(EdgeCouples([neighbors], 50), list_relations(50, config), config, seed=0)
    dense = graph.toarray() / UNIT
    np.testing.assert_array_equal(dense, dense.T)
    expected = compute_dense_kernel(50, config)
    np.testing.assert_allclose(np.diag(dense), np.diag(expected), atol=2e-6)
    assert np.diag(dense).max() < 1
    is_edge = dense > 0
    assert is_edge.sum() == 50 + 2 * 2 * 50
    np.testing.assert_allclose(dense[is_edge], expected[is_edge], atol=2e-6)


def test_edges_are_distinct_sorted_and_hold_every_pair_itself() -> None:
    union = union_edges([np.array([[1], [0], [1]]), np.array([[1, 2], [NO_NEIGHBOR, 2], [0, 1]])], 3)
    assert union.has_sorted_indices
    assert [(int(i), int(j)) for i, j in np.argwhere(union.toarray())] == [
        (0, 0),
        (0, 1),
        (0, 2),
        (1, 1),
        (1, 2),
        (2, 2),
    ]


def test_the_cross_modal_distance_is_the_mean_of_both_directions() -> None:
    z = make_clustered_pool(30).embeddings
    crossed = list_shared_relations(z, KernelConfig())[2]
    assert crossed.name == "image~text"
    for i, j in itertools.product(range(5), range(5)):
        expected = (((z["image"][i] - z["text"][j]) ** 2).sum() + ((z["text"][i] - z["image"][j]) ** 2).sum()) / 2
        assert 2 - 2 * crossed.queries[i] @ crossed.pool[j] == pytest.approx(expected, abs=1e-5)


def test_a_relation_of_weight_zero_is_left_out() -> None:
    pool = make_clustered_pool(30)
    config = KernelConfig(crossmodal_weight=0, backbone_weight=0)
    assert [relation.name for relation in list_shared_relations(pool.embeddings, config)] == ["image", "text"]
    assert list_backbone_relations(pool.features, config) == []


def test_the_bandwidth_is_clipped_sampled_by_seed_and_never_zero() -> None:
    z = make_clustered_pool(3000, dim=4).embeddings["image"]
    relation = Relation("image", z, z, 1.0)
    assert measure_bandwidth(relation, None, seed=3) == measure_bandwidth(relation, None, seed=4)
    for single in (z[:1], np.tile(z[:1], (9, 1))):
        assert measure_bandwidth(Relation("image", single, single, 1.0), None, 0) == 1.0
    assert measure_bandwidth(relation, 10, seed=3) == measure_bandwidth(relation, 10, seed=3)
    assert measure_bandwidth(relation, 10, seed=3) == pytest.approx(measure_bandwidth(relation, 10, seed=4), rel=0.2)
    few = Relation("image", z[:4], z[:4], 1.0)
    assert measure_bandwidth(few, 60, 0) == pytest.approx(
        take_median_bandwidth(square_distances(z[:4].astype(np.float64), z[:4].astype(np.float64)), 3), rel=1e-4
    )
    same = np.tile(z[:1], (9, 1))
    assert measure_bandwidth(Relation("image", same, same, 1.0), 3, 0) == 1.0
    mostly_same = np.vstack([same, z[1:4]])
    assert measure_bandwidth(Relation("image", mostly_same, mostly_same, 1.0), 3, 0) > 1e-3
    assert measure_bandwidth(Relation("image", z[:1], z[:1], 1.0), 60, 0) == 1.0


def test_blocks_do_not_change_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    relations = list_relations(60, CONFIG)
    couples = EdgeCouples([np.array([[(i + k) % 60 for k in range(1, 20)] for i in range(60)])], 60)
    whole = compute_kernel(couples, relations, CONFIG, seed=0)
    monkeypatch.setattr("mmcsal_core.neighbors.couples.BLOCK_EDGES", 17)
    np.testing.assert_array_equal(compute_kernel(couples, relations, CONFIG, seed=0).data, whole.data)


def test_reduced_features_are_standardised_principal_components_of_unit_length() -> None:
    rng = np.random.default_rng(0)
    features = (rng.normal(size=(300, 6)) * [1000, 1, 1, 0.001, 1, 0] + [5, 0, 0, 0, 0, 7]).astype(np.float32)
    reduced = reduce_features(features, 128)
    assert reduced.shape == (300, 5)
    np.testing.assert_allclose(np.linalg.norm(reduced, axis=1), 1.0, rtol=1e-6)
    kept = features[:, :5].astype(np.float64)
    standard = (kept - kept.mean(axis=0)) / kept.std(axis=0)
    standard /= np.linalg.norm(standard, axis=1, keepdims=True)
    np.testing.assert_allclose(reduced @ reduced.T, standard @ standard.T, atol=1e-4)
    assert reduce_features(features, 2).shape == (300, 2)


def test_reduced_features_do_not_depend_on_the_order_of_rows() -> None:
    features = make_clustered_pool(200).features["image"]
    order = np.random.default_rng(1).permutation(200)
    np.testing.assert_allclose(reduce_features(features[order], 8), reduce_features(features, 8)[order], atol=1e-5)


def test_equal_features_coincide() -> None:
    reduced = reduce_features(np.full((7, 5), 0.1, dtype=np.float32), 3)
    np.testing.assert_array_equal(reduced, np.ones((7, 1), dtype=np.float32))


def test_backbones_alone_are_the_dense_kernel_without_the_other_relations() -> None:
    num_pairs = 120
    pool = make_clustered_pool(num_pairs)
    alone = KernelConfig().model_copy(update={"unimodal_weight": 0.0, "crossmodal_weight": 0.0})
    expected = compute_dense_kernel(num_pairs, alone)
    for config in (SelectionConfig(), SelectionConfig(kernel=KernelConfig(max_dense_pairs=0))):
        graph = build_pair_graph(make_pool(pool.embeddings, pool.features), config, 0, backbones_alone=True).kernel
        is_edge = graph.toarray() > 0
        np.testing.assert_allclose(graph.toarray()[is_edge] / UNIT, expected[is_edge], atol=2e-6)
        assert is_edge.sum() > 64 * num_pairs
