"""Balanced prototypes: centroids that share the rows equally, by Sinkhorn's algorithm (SwAV, Caron et al., 2020).

In: unit vectors. Out: unit centroids and one offset each, so that any row, seen or not, is assigned by the largest
`cosine + offset`. The plan of optimal transport between rows and centroids is never held: its one potential a centroid
is found by passes over blocks of rows.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from scipy.special import softmax

from mmcsal_core.encoder.feature_rows import Vectors, iter_blocks
from mmcsal_core.encoder.prototypes import Clusters

ENTROPY = 0.05
"""Weight of the plan's entropy: the temperature of its soft assignments, in cosines."""
NUM_UPDATES = 10
NUM_PASSES = 3
"""Passes of Sinkhorn before each update of the centroids; the potentials go on from one update to the next."""


def find_balanced_clusters(vectors: Vectors, num_clusters: int, seed: int) -> Clusters:
    """Find centroids to which the rows are assigned in nearly equal shares.

    Args:
        vectors: unit vectors, (n, d), n >= num_clusters.
        num_clusters: k.
        seed: of the rows that the centroids start at.
    """
    rows = np.random.default_rng(seed).choice(len(vectors), num_clusters, replace=False)
    centroids, potentials = vectors[np.sort(rows)], np.zeros(num_clusters)
    for _ in range(NUM_UPDATES):
        potentials = balance_potentials(vectors, centroids, potentials, NUM_PASSES)
        centroids = _move_centroids(vectors, centroids, potentials)
    potentials = balance_potentials(vectors, centroids, potentials, NUM_PASSES)
    return Clusters(centroids, (ENTROPY * potentials).astype(np.float32))


def balance_potentials(
    vectors: Vectors, centroids: Vectors, potentials: npt.NDArray[np.float64], num_passes: int
) -> npt.NDArray[np.float64]:
    """Run passes of Sinkhorn: each brings every centroid's mass towards n / k, (k,)."""
    share = np.log(len(vectors) / len(centroids))
    for _ in range(num_passes):
        masses = sum(plan.sum(axis=0) for _, plan in _iter_plan(vectors, centroids, potentials))
        potentials = potentials + share - np.log(np.maximum(masses, np.finfo(np.float64).tiny))
        potentials -= potentials.mean()
    return potentials


def _move_centroids(vectors: Vectors, centroids: Vectors, potentials: npt.NDArray[np.float64]) -> Vectors:
    sums = sum(plan.T @ block for block, plan in _iter_plan(vectors, centroids, potentials))
    norms = np.linalg.norm(sums, axis=1, keepdims=True)
    return np.where(norms > 0, sums / np.where(norms > 0, norms, 1), centroids).astype(np.float32)


def _iter_plan(
    vectors: Vectors, centroids: Vectors, potentials: npt.NDArray[np.float64]
) -> Iterator[tuple[Vectors, npt.NDArray[np.floating]]]:
    """Yield blocks of rows with their part of the plan, whose rows add up to 1."""
    for rows in iter_blocks(np.arange(len(vectors))):
        block = vectors[rows]
        yield block, softmax(block @ centroids.T / ENTROPY + potentials.astype(np.float32), axis=1)
