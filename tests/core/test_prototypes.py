"""Spherical k-means and concentrations, on clusters that are known and on inputs that have none."""

import numpy as np
import numpy.typing as npt
import pytest

from mmcsal_core.encoder.prototypes import (
    assign_nearest,
    choose_num_prototypes,
    cluster_spherical,
    list_granularities,
    make_prototypes,
    measure_concentrations,
)
from mmcsal_core.errors import ConfigError

Vectors = npt.NDArray[np.float32]


def make_clusters(sizes: list[int], spread: float = 0.05, dim: int = 8) -> tuple[Vectors, npt.NDArray[np.int64]]:
    rng = np.random.default_rng(0)
    centers = np.eye(dim)[: len(sizes)]
    labels = np.repeat(np.arange(len(sizes)), sizes)
    vectors = centers[labels] + spread * rng.normal(size=(len(labels), dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32), labels


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


def test_there_are_never_more_prototypes_than_rows() -> None:
    vectors, _ = make_clusters([2, 1])
    assert make_prototypes(vectors, 10, 0.07, seed=0).centroids.shape == (3, 8)


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
