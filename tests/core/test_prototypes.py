"""Spherical k-means and concentrations, on clusters that are known and on inputs that have none."""

import numpy as np
import numpy.typing as npt
import pytest
import torch

from mmcsal_core.encoder.clustered_rows import ClusteredRows
from mmcsal_core.encoder.feature_rows import BLOCK_ROWS, Rows, Vectors
from mmcsal_core.encoder.prototypes import (
    MAX_POINTS_PER_PROTOTYPE,
    ClusterSpread,
    Prototypes,
    assign_nearest,
    choose_num_prototypes,
    cluster_spherical,
    list_granularities,
)
from mmcsal_core.encoder.sinkhorn import ENTROPY, balance_potentials, find_balanced_clusters
from mmcsal_core.encoder.workers import Workers
from mmcsal_core.errors import ConfigError


def measure_concentrations(vectors: Vectors, centroids: Vectors, assigned: Rows, temperature: float) -> Vectors:
    spread = ClusterSpread(len(centroids))
    for rows in np.array_split(np.arange(len(vectors)), 3):
        spread.add(vectors[rows], centroids, assigned[rows])
    return spread.measure_concentrations(temperature)


def list_rows(vectors: Vectors) -> ClusteredRows:
    return ClusteredRows(lambda rows: vectors[rows], len(vectors), vectors.shape[1], Workers(), torch.device("cpu"))


def make_prototypes(vectors: Vectors, num_clusters: int, temperature: float, seed: int) -> Prototypes:
    return list_rows(vectors).make_prototypes([num_clusters], "kmeans", temperature, seed)[0]


def make_clusters(sizes: list[int], spread: float = 0.05, dim: int = 8) -> tuple[Vectors, npt.NDArray[np.int64]]:
    rng = np.random.default_rng(0)
    centers = np.eye(dim)[: len(sizes)]
    labels = np.repeat(np.arange(len(sizes)), sizes)
    vectors = centers[labels] + spread * rng.normal(size=(len(labels), dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32), labels


def make_units(num_rows: int, dim: int, seed: int = 0) -> Vectors:
    vectors = np.random.default_rng(seed).standard_normal((num_rows, dim), dtype=np.float32)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def test_planted_clusters_are_found() -> None:
    vectors, labels = make_clusters([30, 30, 30])
    centroids, assigned = cluster_spherical(vectors, 3, seed=1)
    assert len({(int(a), int(b)) for a, b in zip(labels, assigned, strict=True)}) == 3
    assert np.allclose(np.linalg.norm(centroids, axis=1), 1, atol=1e-5)
    assert np.array_equal(assigned, assign_nearest(vectors, centroids))


def test_equal_seeds_give_equal_bits() -> None:
    vectors, _ = make_clusters([40, 20, 5], spread=0.5)
    first, second = (make_prototypes(vectors, 6, 0.07, seed=3) for _ in range(2))
    assert first.centroids.tobytes() == second.centroids.tobytes()
    assert first.concentrations.tobytes() == second.concentrations.tobytes()
    assert np.array_equal(first.assigned, second.assigned)


def test_concentrations_follow_their_definition_and_average_to_the_temperature() -> None:
    vectors, labels = make_clusters([30, 10], spread=0.1)
    vectors[labels == 1] = make_clusters([0, 10], spread=0.4)[0]
    centroids = np.eye(8, dtype=np.float32)[:2]
    phi = measure_concentrations(vectors, centroids, labels, 0.07)
    distances = np.linalg.norm(vectors - centroids[labels], axis=1)
    raw = np.array([distances[labels == j].mean() / np.log(np.sum(labels == j) + 10) for j in range(2)])
    assert np.allclose(phi, 0.07 * raw / raw.mean(), rtol=1e-5)
    assert phi.mean() == pytest.approx(0.07, rel=1e-6)
    assert phi[1] > phi[0]


def test_empty_and_single_clusters_get_the_temperature() -> None:
    vectors, _ = make_clusters([6, 6])
    assigned = np.array([0] * 11 + [1])
    phi = measure_concentrations(vectors, np.eye(8, dtype=np.float32)[:3], assigned, 0.07)
    assert phi[1] == pytest.approx(0.07)
    assert phi[2] == pytest.approx(0.07)
    assert np.all(phi > 0)


def test_a_cluster_of_identical_rows_keeps_a_positive_concentration() -> None:
    vectors, labels = make_clusters([20, 20], spread=0.3)
    vectors[labels == 0] = np.eye(8, dtype=np.float32)[0]
    phi = measure_concentrations(vectors, np.eye(8, dtype=np.float32)[:2], labels, 0.07)
    assert np.all(phi > 1e-3)
    assert phi.mean() == pytest.approx(0.07, rel=1e-6)


def test_a_collapsed_modality_is_clustered_without_harm() -> None:
    same = np.tile(np.eye(4, dtype=np.float32)[:1], (12, 1))
    prototypes = make_prototypes(same, 3, 0.07, seed=0)
    assert np.isfinite(prototypes.centroids).all()
    assert np.allclose(prototypes.concentrations, 0.07)


def test_streamed_prototypes_are_those_of_all_rows_at_once() -> None:
    vectors = make_units(BLOCK_ROWS + 700, dim=8)
    levels = list_rows(vectors).make_prototypes([70, 140], "kmeans", 0.07, seed=2)
    for k, level in zip([70, 140], levels, strict=True):
        centroids, assigned = cluster_spherical(vectors, k, seed=2)
        assert level.centroids.tobytes() == centroids.tobytes()
        assert np.array_equal(level.assigned, assigned)
        distances = np.linalg.norm(vectors - centroids[assigned], axis=1)
        raw = np.array([distances[assigned == j].mean() / np.log(np.sum(assigned == j) + 10) for j in range(k)])
        assert np.allclose(level.concentrations, 0.07 * raw / raw.mean(), rtol=1e-4)


def test_clusters_are_found_on_a_sample_and_rows_embedded_block_by_block() -> None:
    vectors, asked = make_units(3 * BLOCK_ROWS, dim=6), list[int]()

    def embed(rows: Rows) -> Vectors:
        asked.append(len(rows))
        return vectors[rows]

    rows = ClusteredRows(embed, len(vectors), 6, Workers(), torch.device("cpu"))
    level = rows.make_prototypes([4], "kmeans", 0.07, seed=0)[0]
    assert asked == [4 * MAX_POINTS_PER_PROTOTYPE, BLOCK_ROWS, BLOCK_ROWS, BLOCK_ROWS]
    assert np.array_equal(level.assigned, assign_nearest(vectors, level.centroids))
    sample = rows.embed_sample(100, seed=0)
    assert len({row.tobytes() for row in sample}) == 100
    assert rows.embed_sample(100, seed=0).tobytes() == sample.tobytes()
    assert rows.embed_sample(100, seed=1).tobytes() != sample.tobytes()


def plain_sinkhorn(vectors: Vectors, centroids: Vectors, num_passes: int) -> npt.NDArray[np.float64]:
    """Scale rows and columns of exp(cosine / entropy) in turn, as Cuturi (2013) does; return the plan, rows last."""
    plan = np.exp(vectors.astype(np.float64) @ centroids.T.astype(np.float64) / ENTROPY)
    plan = plan / plan.sum(axis=1, keepdims=True)
    for _ in range(num_passes):
        plan *= len(vectors) / len(centroids) / plan.sum(axis=0)
        plan /= plan.sum(axis=1, keepdims=True)
    return np.asarray(plan)


@pytest.mark.parametrize("num_passes", [1, 4, 30])
def test_potentials_give_the_plan_of_plain_sinkhorn(num_passes: int) -> None:
    vectors = make_units(BLOCK_ROWS + 300, dim=6)
    centroids = make_units(7, dim=6, seed=9)
    potentials = balance_potentials(vectors, centroids, np.zeros(7), num_passes)
    scores = vectors.astype(np.float64) @ centroids.T / ENTROPY + potentials
    plan = np.exp(scores - scores.max(axis=1, keepdims=True))
    plan /= plan.sum(axis=1, keepdims=True)
    assert np.allclose(plan, plain_sinkhorn(vectors, centroids, num_passes), atol=1e-4)


def test_balanced_clusters_are_of_nearly_equal_size_where_those_of_kmeans_are_not() -> None:
    vectors, _ = make_clusters([200, 15, 15, 10], spread=0.2)
    found = find_balanced_clusters(vectors, 4, seed=0)
    sizes = np.bincount(assign_nearest(vectors, found.centroids, found.offsets), minlength=4)
    assert np.allclose(np.linalg.norm(found.centroids, axis=1), 1, atol=1e-5)
    assert sizes.min() > 40
    assert np.bincount(cluster_spherical(vectors, 4, seed=0)[1], minlength=4).min() < 25
    level = list_rows(vectors).make_prototypes([4], "sinkhorn", 0.07, seed=0)[0]
    assert np.array_equal(np.bincount(level.assigned, minlength=4), sizes)
    again = list_rows(vectors).make_prototypes([4], "sinkhorn", 0.07, seed=0)[0]
    assert again.centroids.tobytes() == level.centroids.tobytes()


def test_balanced_clusters_of_a_collapsed_modality_do_no_harm() -> None:
    same = np.tile(np.eye(4, dtype=np.float32)[:1], (12, 1))
    found = find_balanced_clusters(same, 3, seed=0)
    assert np.allclose(found.centroids, same[:3])
    assert np.isfinite(found.offsets).all()


@pytest.mark.parametrize(("num_pairs", "expected"), [(4, 1), (400, 20), (1903, 95), (10_000_000, 1024)])
def test_the_number_of_prototypes_follows_the_pool(num_pairs: int, expected: int) -> None:
    assert choose_num_prototypes(num_pairs, None) == expected


def test_too_many_prototypes_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"at most one per 20 training pairs, got 21 for 400 pairs; set it to 20"):
        choose_num_prototypes(400, 21)


@pytest.mark.parametrize(
    ("num_prototypes", "num_pairs", "expected"), [(95, 1903, (47, 95, 190)), (1, 4, (1, 2)), (2, 3, (1, 2, 3))]
)
def test_granularities_stay_within_the_pool(num_prototypes: int, num_pairs: int, expected: tuple[int, ...]) -> None:
    assert list_granularities(num_prototypes, num_pairs) == expected
