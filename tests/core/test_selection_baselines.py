"""Each baseline against a brute-force oracle or a property of its paper; the contract test covers what all share."""

import tracemalloc
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from mmcsal_core.errors import ConfigError
from mmcsal_core.neighbors import NeighborConfig
from mmcsal_core.neighbors.backbone_space import reduce_features
from mmcsal_core.neighbors.vectors import Floats, Rows, Vectors
from mmcsal_core.selection import SelectionConfig, joint_graph, select_coreset
from mmcsal_core.selection import probcover as probcover_module
from mmcsal_core.selection.baseline_config import BaselineConfig, ContinuousConfig
from mmcsal_core.selection.clusters import Clusters, cluster_rows, order_by_value
from mmcsal_core.selection.config import Strategy
from mmcsal_core.selection.coreset import Coreset, Request
from mmcsal_core.selection.engine.eligibility import NO_ROWS, Constraints, Eligibility
from mmcsal_core.selection.joint_graph import find_ball_edges
from mmcsal_core.selection.pool import make_pool
from mmcsal_core.selection.probcover import build_ball_kernel, find_pure_radius, measure_separation
from mmcsal_core.selection.rounding import SHORTLIST, round_to_rows
from mmcsal_core.selection.strategies import select_from_pool
from mmcsal_core.selection.typiclust import find_most_typical, visit_in_turn
from tests.core.pair_pools import make_clustered_pool

POOL = make_clustered_pool(120)
JOINT = make_pool(POOL.embeddings).joint
SQUARED = ((JOINT[:, None].astype(np.float64) - JOINT[None]) ** 2).sum(axis=2)
DISTANCES = np.sqrt(SQUARED)
EVERYBODY = NeighborConfig(num_neighbors=119)
WHOLE_KERNELS: list[dict[str, Any]] = [{}, {"search": EVERYBODY, "kernel": {"max_dense_pairs": 0}}]
"""All couples, because the pool is small or because everybody is a neighbour."""


def select(strategy: Strategy, budget: int, labelled: Sequence[int] = (), **fields: object) -> Coreset:
    config = SelectionConfig.model_validate(fields)
    return select_coreset(
        POOL.embeddings, budget, features=POOL.features, strategy=strategy, labelled=labelled, seed=5, config=config
    )


def scatter_points(sizes: Sequence[int], spread: float = 0.05, dim: int = 8) -> tuple[Vectors, Rows]:
    """Make unit vectors in clusters around orthogonal centers, and each row's cluster."""
    rng = np.random.default_rng(1)
    clusters = np.repeat(np.arange(len(sizes)), sizes)
    points = np.eye(dim)[clusters] + spread * rng.normal(size=(len(clusters), dim))
    return (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32), clusters


def pick_by_brute_force(kernel: Floats, budget: int) -> list[int]:
    """Pick the row of the largest rise of the mean best kernel value, one at a time, from dense float64."""
    best, rows = np.zeros(len(kernel)), list[int]()
    for _ in range(budget):
        rises = np.maximum(kernel - best, 0).sum(axis=1)
        rises[rows] = -np.inf
        rows.append(int(rises.argmax()))
        best = np.maximum(best, kernel[rows[-1]])
    return rows


@pytest.mark.parametrize("whole", WHOLE_KERNELS)
def test_maxherding_on_all_couples_is_dense_greedy_with_a_fixed_lengthscale(whole: dict[str, Any]) -> None:
    found = select("maxherding", 25, baselines=BaselineConfig(maxherding_lengthscale=0.7), **whole)
    assert found.indices.tolist() == pick_by_brute_force(np.exp(-SQUARED / 0.7**2), 25)


@pytest.mark.parametrize("whole", WHOLE_KERNELS)
def test_coverage_on_all_couples_is_dense_greedy_with_the_bandwidth_of_the_pool(whole: dict[str, Any]) -> None:
    found = select("coverage", 20, baselines={"coverage_neighbor": 9}, **whole)
    bandwidth = np.median(np.sort(SQUARED, axis=1)[:, 9])
    assert found.indices.tolist() == pick_by_brute_force(np.exp(-SQUARED / bandwidth), 20)


def test_kmeans_picks_the_nearest_open_row_to_each_centroid_in_turn() -> None:
    pool = make_pool(POOL.embeddings)
    free = select("kmeans", 12).indices
    closed = np.sort(free[:4])
    request = Request(12, NO_ROWS, 5, SelectionConfig(strategy="kmeans"), Constraints(closed=closed))
    clusters = cluster_rows(JOINT, 12, 5, num_restarts=3)
    taken, expected = set(closed.tolist()), []
    for centroid in clusters.centroids[clusters.rank()]:
        order = np.argsort(-(JOINT @ centroid), kind="stable").tolist()
        expected.append(next(row for row in order if row not in taken))
        taken.add(expected[-1])
    assert select_from_pool(pool, request).indices.tolist() == expected
    assert expected != free.tolist()


def test_rows_are_put_in_an_order_of_their_values_equal_ones_by_row() -> None:
    rng = np.random.default_rng(0)
    rows = np.hstack([rng.integers(0, 2, (500, 2)), np.zeros((500, 10)), rng.integers(-1, 2, (500, 4))])
    vectors = rows.astype(np.float32)
    order = order_by_value(vectors)
    assert sorted(order.tolist()) == list(range(500))
    is_equal = (vectors[order[1:]] == vectors[order[:-1]]).all(axis=1)
    assert is_equal.sum() == 500 - len(np.unique(vectors, axis=0))
    assert (np.diff(order)[is_equal] > 0).all()
    shuffled = np.where(vectors == 0, -vectors, vectors)[rng.permutation(500)]
    np.testing.assert_array_equal(shuffled[order_by_value(shuffled)], vectors[order])


@pytest.mark.parametrize("strategy", ["kmeans", "activeft", "typiclust", "probcover", "mmcsal_continuous"])
def test_of_five_captions_an_image_the_same_are_picked_whatever_the_order_of_rows(strategy: Strategy) -> None:
    rng = np.random.default_rng(0)
    image, text = np.repeat(rng.normal(size=(80, 16)), 5, axis=0), rng.normal(size=(400, 16))
    config = SelectionConfig(continuous=ContinuousConfig(num_steps=20))

    def pick_vectors(order: Rows) -> set[bytes]:
        pool = {"image": image[order], "text": (image + text)[order]}
        rows = select_coreset(pool, 20, strategy=strategy, seed=5, config=config).indices
        return {pool["text"][row].tobytes() for row in rows}

    assert pick_vectors(rng.permutation(400)) == pick_vectors(np.arange(400))


def test_points_are_rounded_to_the_nearest_open_row_even_past_the_shortlist() -> None:
    points = JOINT[np.array([7, 7, 7, 30])]
    order = np.argsort(-(JOINT @ JOINT[7]), kind="stable")
    eligibility = Eligibility(120, order[1 : SHORTLIST + 5])
    assert round_to_rows(JOINT, points[:3], eligibility) == [7, *order[SHORTLIST + 5 : SHORTLIST + 7].tolist()]
    nearly_full = Eligibility(120, np.arange(119))
    assert round_to_rows(JOINT, points, nearly_full) == [119]


def test_the_most_typical_row_is_that_of_the_smallest_mean_distance_to_its_neighbors() -> None:
    rows = np.flatnonzero(POOL.clusters == 0)
    inside = np.sort(DISTANCES[np.ix_(rows, rows)], axis=1)[:, 1:11].mean(axis=1)
    is_open = np.ones(len(rows), dtype=bool)
    assert len(rows) > 30
    assert find_most_typical(JOINT, rows, is_open, 10) == rows[inside.argmin()]
    is_open[inside.argmin()] = False
    assert find_most_typical(JOINT, rows, is_open, 10) == rows[np.argsort(inside)[1]]


def test_typiclust_visits_the_largest_clusters_first_and_then_again_without_what_it_has_picked() -> None:
    points, clusters = scatter_points([30, 20, 12])
    config = SelectionConfig(baselines=BaselineConfig(typiclust_max_clusters=3))
    found = select_coreset({"image": points}, 7, strategy="typiclust", config=config).indices
    assert clusters[found].tolist() == [0, 1, 2, 0, 1, 2, 0]
    groups = [np.flatnonzero(clusters == cluster) for cluster in range(3)]
    for rank, row in enumerate(found.tolist()):
        left = groups[rank % 3]
        inside = np.linalg.norm(points[left][:, None].astype(np.float64) - points[left][None], axis=2)
        typicality = np.sort(inside, axis=1)[:, 1 : min(20, len(left) // 2) + 1].mean(axis=1)
        assert row == left[typicality.argmin()]
        groups[rank % 3] = left[left != row]


def test_typiclust_puts_clusters_with_labels_last_and_small_ones_behind_them() -> None:
    points, clusters = scatter_points([30, 20, 5])
    config = SelectionConfig(baselines=BaselineConfig(typiclust_max_clusters=3))
    found = select_coreset({"image": points}, 49, strategy="typiclust", labelled=[0], seed=1, config=config).indices
    assert clusters[found[:4]].tolist() == [1, 0, 1, 0]
    assert (clusters[found] < 2).all()
    every = select_coreset({"image": points}, 54, strategy="typiclust", labelled=[0], seed=1, config=config).indices
    assert clusters[every[49:]].tolist() == [2] * 5


def test_typiclust_skips_groups_that_a_constraint_has_closed() -> None:
    points, clusters = scatter_points([8, 8, 8])
    eligibility = Eligibility(24, np.flatnonzero(clusters == 1))
    groups = [np.flatnonzero(clusters == cluster) for cluster in range(3)]
    found = visit_in_turn(points, groups, eligibility, 20, 20)
    assert clusters[found].tolist() == [0, 2] * 8


def measure_purity(radius: float, assigned: Rows) -> float:
    is_impure = ((radius > DISTANCES) & (assigned[:, None] != assigned)).any(axis=1)
    return float(1 - is_impure.mean())


@pytest.mark.parametrize("purity", [0.5, 0.9, 0.95, 1.0])
def test_the_radius_of_probcover_is_the_largest_of_the_wanted_purity(purity: float) -> None:
    clusters = cluster_rows(JOINT, 4, 5)
    radius = find_pure_radius(measure_separation(JOINT, clusters, 5), purity)
    assert measure_purity(radius, clusters.assigned) >= purity
    assert measure_purity(radius + 1e-9, clusters.assigned) < purity


def test_the_separation_is_the_same_in_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    clusters = cluster_rows(JOINT, 4, 5)
    order = order_by_value(JOINT)
    is_other = clusters.assigned[order][:, None] != clusters.assigned
    expected = np.where(is_other, DISTANCES[order], np.inf).min(axis=1)
    monkeypatch.setattr(probcover_module, "TILE_ROWS", 7)
    np.testing.assert_allclose(measure_separation(JOINT, clusters, 5), expected, atol=1e-6)


def measure_peak(action: Callable[[], object]) -> float:
    """Return the most MiB of arrays that are held while something is done."""
    tracemalloc.start()
    action()
    peak = tracemalloc.get_traced_memory()[1] / 2**20
    tracemalloc.stop()
    return peak


def test_what_is_held_while_separations_are_measured_does_not_grow_with_the_pool(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    angles = np.random.default_rng(0).uniform(0, 2 * np.pi, 150_000).astype(np.float32)
    points = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    halves = Clusters(points[:2], (angles > np.pi).astype(np.int64), np.zeros(150_000))
    monkeypatch.setattr(probcover_module, "PURITY_ROWS", 256)
    assert measure_peak(lambda: measure_separation(points, halves, 5)) < 80


def test_what_is_held_while_balls_are_searched_is_of_the_size_of_what_may_be_found() -> None:
    points, _ = scatter_points([8000])
    assert measure_peak(lambda: find_ball_edges(points, 2.0, max_edges=1000)) < 40


def test_a_pool_of_one_cluster_has_the_largest_radius_and_equal_rows_share_a_ball() -> None:
    single = Clusters(JOINT[:1], np.zeros(120, dtype=np.int64), np.zeros(120))
    assert find_pure_radius(measure_separation(JOINT, single, 5), 0.95) == 2.0
    assert find_pure_radius(np.zeros(10), 0.95) > 0


@pytest.mark.parametrize("radius", [0.3, 0.6, 1.0])
def test_probcover_picks_the_ball_of_most_new_rows_until_all_are_covered(radius: float) -> None:
    found = select("probcover", 60, baselines=BaselineConfig(probcover_delta=radius))
    is_inside = radius > DISTANCES
    is_covered = np.zeros(120, dtype=bool)
    for row, gain, phase in zip(found.indices.tolist(), found.gains.tolist(), found.phases, strict=True):
        new = (is_inside & ~is_covered).sum(axis=1)
        if phase == "probcover":
            assert new[row] == new.max() == pytest.approx(120 * gain)
            is_covered |= is_inside[row]
        else:
            assert phase == "k_center"
            assert is_covered.all()
    assert found.phases[0] == "probcover"
    assert (found.phases[-1] == "k_center") == (radius > 0.5)


def test_of_equal_balls_probcover_picks_the_one_whose_rows_lie_nearest() -> None:
    angles = np.array([0.0, 0.1, 0.2, 2.0, 2.02, 2.04])
    points = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    config = SelectionConfig(baselines=BaselineConfig(probcover_delta=0.15))
    assert select_coreset({"image": points}, 2, strategy="probcover", config=config).indices.tolist() == [4, 1]


def test_balls_too_full_to_be_held_keep_their_nearest_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = build_ball_kernel(JOINT, 1.2, NeighborConfig(num_neighbors=5)).toarray()
    np.testing.assert_array_equal(whole > 0, DISTANCES < 1.2)
    assert find_ball_edges(JOINT, 1.2, max_edges=100) is None
    monkeypatch.setattr(joint_graph, "SEARCH_ROWS", 32)
    monkeypatch.setattr(probcover_module, "MAX_EDGES", np.count_nonzero(np.triu(DISTANCES < 1.2)))
    in_tiles = build_ball_kernel(JOINT, 1.2, NeighborConfig(num_neighbors=5)).toarray()
    np.testing.assert_array_equal(in_tiles, whole)
    monkeypatch.setattr(probcover_module, "MAX_EDGES", 100)
    kept = build_ball_kernel(JOINT, 1.2, NeighborConfig(num_neighbors=5)).toarray()
    nearest = np.argsort(DISTANCES, axis=1)[:, :6]
    is_near = np.zeros((120, 120), dtype=bool)
    np.put_along_axis(is_near, nearest, True, axis=1)
    np.testing.assert_array_equal(kept > 0, (is_near | is_near.T) & (DISTANCES < 1.2))
    assert (kept[kept > 0] == whole[kept > 0]).all()


def test_the_alignment_filter_keeps_the_pairs_of_the_highest_mean_cosine() -> None:
    z = dict(POOL.embeddings) | {"audio": np.roll(POOL.embeddings["text"], 3, axis=1)}
    found = select_coreset(z, 15, strategy="alignment")
    pairs = [("image", "text"), ("image", "audio"), ("text", "audio")]
    cosines = np.mean([(z[a].astype(np.float64) * z[b]).sum(axis=1) for a, b in pairs], axis=0)
    assert found.indices.tolist() == np.argsort(-cosines).tolist()[:15]
    np.testing.assert_allclose(found.gains, cosines[found.indices] - 1, atol=1e-6)


@pytest.mark.parametrize("strategy", ["mmcsal", "coverage", "k_center", "typiclust"])
def test_a_single_modality_is_selected_from_as_if_there_were_no_other(strategy: Strategy) -> None:
    found = select(strategy, 12, space="text")
    alone = select_coreset(
        {"text": POOL.embeddings["text"]}, 12, features={"text": POOL.features["text"]}, strategy=strategy, seed=5
    )
    np.testing.assert_array_equal(found.indices, alone.indices)
    np.testing.assert_array_equal(found.gains, alone.gains)
    assert found.indices.tolist() != select(strategy, 12).indices.tolist()


@pytest.mark.parametrize("strategy", ["mmcsal", "kmeans", "k_center", "mmcsal_continuous"])
def test_features_are_measured_side_by_side_in_the_backbones_own_spaces(strategy: Strategy) -> None:
    spaces = [reduce_features(x, NeighborConfig().backbone_dims) for x in POOL.features.values()]
    alone = select_coreset({"both": np.hstack(spaces)}, 12, strategy=strategy, seed=5)
    np.testing.assert_array_equal(select(strategy, 12, space="features").indices, alone.indices)


def test_weights_and_radius_are_those_of_all_modalities_whatever_was_measured_on() -> None:
    found = select("k_center", 6, space="text")
    nearest = DISTANCES[:, found.indices]
    assert found.covering_radius == pytest.approx(nearest.min(axis=1).max(), abs=1e-6)
    np.testing.assert_array_equal(found.weights, np.bincount(nearest.argmin(axis=1), minlength=6))


def test_a_space_that_the_pool_has_not_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"joint, features or a modality \(image, text\), got 'audio'"):
        select("coverage", 5, space="audio")
    with pytest.raises(ConfigError, match="measures on backbone features, but this pool has none"):
        select_coreset(POOL.embeddings, 5, config=SelectionConfig(strategy="kmeans", space="features"))
    with pytest.raises(ConfigError, match=r"compares the modalities of a pair, got one \(text\)"):
        select("alignment", 5, space="text")
