"""K-means that does not depend on the order of the pool's rows: what several baselines start from.

Lloyd's algorithm as FAISS runs it (Johnson, Douze & Jegou, arXiv 1702.08734), from centroids that k-means++ spreads
(Arthur & Vassilvitskii, "k-means++: the advantages of careful seeding", 2007). Its result depends on the order of its
input, so rows enter in an order made of their values.
"""

from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt
from sklearn.cluster import kmeans_plusplus

from mmcsal_core.neighbors.vectors import Floats, Rows, Vectors

NUM_ITERATIONS = 25
ORDER_COLUMNS = 8

MAX_SEEDED_COUPLES = 100_000_000
"""Rows times clusters up to which the first centroids are chosen by k-means++, which takes as long as a plain loop."""


@dataclass(frozen=True, eq=False)
class Clusters:
    """A partition of the pool.

    Args:
        centroids: (K, D) float32.
        assigned: (N,) int64, each row's cluster.
        errors: (N,) squared distance of each row to its centroid.
    """

    centroids: Vectors
    assigned: Rows
    errors: Floats

    @property
    def sizes(self) -> Rows:
        """Rows in each cluster, (K,)."""
        return np.bincount(self.assigned, minlength=len(self.centroids)).astype(np.int64)

    def rank(self, first: Rows | None = None) -> Rows:
        """Rank the clusters: by `first` (K,), smallest first, then the largest, then the tightest."""
        spread = np.bincount(self.assigned, self.errors, minlength=len(self.centroids))
        keys = (spread, -self.sizes) if first is None else (spread, -self.sizes, first)
        return np.lexsort(keys)


def order_by_value(vectors: Vectors) -> Rows:
    """Return the rows in an order made of their values: a shuffled pool gives the same vectors in turn.

    Rows that tie in their first values are in the order of all their bytes, which is quick, and equal rows by row.

    Args:
        vectors: (N, D) float32.

    Returns:
        (N,) int64.
    """
    order = np.lexsort(vectors[:, :ORDER_COLUMNS].T[::-1])
    heads = vectors[:, :ORDER_COLUMNS][order]
    is_first = np.concatenate([[True], (heads[1:] != heads[:-1]).any(axis=1), [True]])
    is_tied = ~(is_first[:-1] & is_first[1:])
    if is_tied.any():
        tied, groups = order[is_tied], np.cumsum(is_first[:-1])[is_tied]
        by_bytes = np.argsort(_view_bytes(vectors.take(tied, axis=0)), kind="stable")
        order[is_tied] = tied[by_bytes[np.argsort(groups[by_bytes], kind="stable")]]
    return order


def _view_bytes(vectors: Vectors) -> npt.NDArray[np.void]:
    """View each row of a fresh matrix (N, D) as one value (N,), equal where the numbers are."""
    vectors += 0  # -0.0 becomes 0.0
    return vectors.view(f"V{vectors.shape[1] * vectors.itemsize}")[:, 0]


def cluster_rows(vectors: Vectors, num_clusters: int, seed: int, num_restarts: int = 1) -> Clusters:
    """Cluster rows by k-means, the best of several restarts.

    Args:
        vectors: (N, D) float32.
        num_clusters: K, at most N.
        seed: of the first centroids.
        num_restarts: restarts.
    """
    order = order_by_value(vectors)
    ordered = vectors[order]
    fits = [_run_lloyd(ordered, num_clusters, seed, restart) for restart in range(num_restarts)]
    kmeans = min(fits, key=lambda fit: float(fit.obj[-1]))
    errors, assigned = kmeans.index.search(ordered, 1)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    centroids = np.asarray(kmeans.centroids, dtype=np.float32)
    return Clusters(centroids, assigned[rank, 0].astype(np.int64), errors[rank, 0].astype(np.float64))


def _run_lloyd(ordered: Vectors, num_clusters: int, seed: int, restart: int) -> Any:
    """Run Lloyd's algorithm from one choice of first centroids; FAISS's own is a uniform draw of rows."""
    own_seed = int(np.random.SeedSequence([seed, restart]).generate_state(1)[0] >> 1)
    first = None
    if len(ordered) * num_clusters <= MAX_SEEDED_COUPLES:
        first, _ = kmeans_plusplus(ordered, num_clusters, random_state=own_seed)
    kmeans = faiss.Kmeans(
        ordered.shape[1],
        num_clusters,
        niter=NUM_ITERATIONS,
        seed=own_seed,
        min_points_per_centroid=1,
        max_points_per_centroid=len(ordered),
    )
    kmeans.train(ordered, init_centroids=first)
    return kmeans
