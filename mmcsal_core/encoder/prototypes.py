"""Prototypes: spherical k-means means of one modality's embeddings, and how tightly their pairs lie around them.

FAISS clusters; this module seeds it, keeps degenerate inputs away from it, and computes the concentrations of
Prototypical Contrastive Learning (Li et al., 2021) from sums over blocks of rows. Balanced clusters (`sinkhorn`) are a
choice, not the default: equal sizes contradict the long tails that a cold pool has.
"""

from dataclasses import dataclass

import faiss
import numpy as np
import numpy.typing as npt

from mmcsal_core.errors import ConfigError

PAIRS_PER_PROTOTYPE = 20
MAX_DERIVED_PROTOTYPES = 1024
NUM_ITERATIONS = 10
MAX_POINTS_PER_PROTOTYPE = 64
"""Clusters are found on a sample of at most this many rows a prototype; every row is assigned afterwards."""
MIN_CONCENTRATION_RATIO = 0.1
"""Smallest concentration, relative to the mean: a cluster of identical rows would get 0 and an infinite logit."""

Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Prototypes:
    """The prototypes of one modality at one granularity.

    Args:
        centroids: unit vectors, (k, d).
        concentrations: the temperature of each prototype, positive, (k,).
        assigned: the prototype of each row that was clustered, (n,).
    """

    centroids: Vectors
    concentrations: Vectors
    assigned: npt.NDArray[np.int32]


@dataclass(frozen=True)
class Clusters:
    """Centroids, unit vectors (k, d), and what is added to their cosine before rows are assigned, (k,)."""

    centroids: Vectors
    offsets: Vectors


def count_max_prototypes(num_pairs: int) -> int:
    """Return the largest number of prototypes for a pool: one per 20 pairs, at least one."""
    return max(1, num_pairs // PAIRS_PER_PROTOTYPE)


def choose_num_prototypes(num_pairs: int, requested: int | None) -> int:
    """Return the base number of prototypes for a pool: at most one per 20 pairs, at least one.

    Raises:
        ConfigError: more were requested.
    """
    limit = count_max_prototypes(num_pairs)
    if requested is None:
        return min(limit, MAX_DERIVED_PROTOTYPES)
    if requested > limit:
        raise ConfigError(
            f"num_prototypes must be at most one per {PAIRS_PER_PROTOTYPE} training pairs, got {requested} for "
            f"{num_pairs} pairs; set it to {limit} or less, or leave it out"
        )
    return requested


def list_granularities(num_prototypes: int, num_pairs: int) -> tuple[int, ...]:
    """Return {K/2, K, 2K} without repeats, each between 1 and the number of pairs."""
    wanted = (num_prototypes // 2, num_prototypes, 2 * num_prototypes)
    return tuple(sorted({min(max(1, k), num_pairs) for k in wanted}))


def cluster_spherical(vectors: Vectors, num_clusters: int, seed: int) -> tuple[Vectors, npt.NDArray[np.int64]]:
    """Cluster unit vectors by cosine.

    Args:
        vectors: unit vectors, (n, d), n >= num_clusters.
        num_clusters: k.
        seed: of the initial centroids.

    Returns:
        Unit centroids (k, d), and the nearest centroid of each row (n,). A centroid may have no rows.
    """
    centroids = find_centroids(vectors, num_clusters, seed)
    return centroids, assign_nearest(vectors, centroids)


def find_centroids(vectors: Vectors, num_clusters: int, seed: int) -> Vectors:
    """Return the centroids (k, d) of `cluster_spherical`, found on a sample where there are many rows."""
    points = np.ascontiguousarray(vectors, dtype=np.float32)
    kmeans = faiss.Kmeans(
        points.shape[1],
        num_clusters,
        niter=NUM_ITERATIONS,
        seed=seed,
        spherical=True,
        min_points_per_centroid=1,
        max_points_per_centroid=MAX_POINTS_PER_PROTOTYPE,
    )
    kmeans.train(points)
    return np.array(kmeans.centroids, dtype=np.float32).reshape(num_clusters, -1)


def assign_nearest(vectors: Vectors, centroids: Vectors, offsets: Vectors | None = None) -> npt.NDArray[np.int64]:
    """Return the centroid of highest cosine, plus its offset (k,) if any, for each row (n,); ties go to the lowest."""
    similarities = vectors @ centroids.T
    if offsets is not None:
        similarities += offsets
    return np.asarray(np.argmax(similarities, axis=1), dtype=np.int64)


class ClusterSpread:
    """Sizes and summed distances of `num_clusters` clusters, added up over blocks of rows."""

    def __init__(self, num_clusters: int) -> None:
        self.sums = np.zeros((2, num_clusters))
        """Sizes; sums of the distances of the members to their centroid."""

    def add(self, vectors: Vectors, centroids: Vectors, assigned: npt.NDArray[np.int64]) -> None:
        """Count rows (n, d) to the centroids (k, d) that they are assigned to, (n,)."""
        distances = np.linalg.norm(vectors - centroids[assigned], axis=1).astype(np.float64)
        num_clusters = self.sums.shape[1]
        self.sums[0] += np.bincount(assigned, minlength=num_clusters)
        self.sums[1] += np.bincount(assigned, weights=distances, minlength=num_clusters)

    def measure_concentrations(self, temperature: float) -> Vectors:
        """Return each cluster's mean distance / log(size + 10), rescaled so that the mean is the temperature, (k,).

        A cluster of fewer than two rows says nothing of its spread and gets the temperature itself.
        """
        sizes, sums = self.sums
        known = sizes >= 2
        spread = sums[known] / sizes[known] / np.log(sizes[known] + 10)
        concentrations = np.full(len(sizes), temperature)
        if spread.size and spread.mean() > 0:
            ratio = np.maximum(spread / spread.mean(), MIN_CONCENTRATION_RATIO)
            concentrations[known] = temperature * ratio / ratio.mean()
        return concentrations.astype(np.float32)
