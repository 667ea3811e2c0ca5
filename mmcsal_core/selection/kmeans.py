"""The `kmeans` baseline: the row nearest to each k-means centroid of the concatenated embeddings.

Lloyd's algorithm as FAISS runs it (Johnson, Douze & Jegou, arXiv 1702.08734), best of three restarts; cold-start active
learning by clustering goes back to Nguyen & Smeulders (ICML 2004). Rows enter in an order made of their values, since
Lloyd's result depends on the order of its input.
"""

import faiss
import numpy as np

from mmcsal_core.errors import ConfigError
from mmcsal_core.neighbors.vectors import Floats, Rows, Vectors
from mmcsal_core.selection.coreset import Picks, Request, collect_picks
from mmcsal_core.selection.pool import Pool

NUM_RESTARTS = 3
NUM_ITERATIONS = 25
ORDER_COLUMNS = 8


def select_kmeans(pool: Pool, request: Request) -> Picks:
    """Pick one row a cluster, largest cluster first; a pick's coverage term is its cluster's share of the pool.

    Raises:
        ConfigError: rows are labelled already, which k-means cannot take into account.
    """
    if len(request.labelled):
        raise ConfigError(
            f"strategy kmeans cannot continue from labelled pairs, got {len(request.labelled)}; "
            "use mmcsal, maxherding, k_center or random"
        )
    order = np.lexsort(pool.joint[:, :ORDER_COLUMNS].T[::-1])
    centroids, assigned, errors = _cluster(pool.joint[order], request.budget, request.seed)
    sizes = np.bincount(assigned, minlength=request.budget)
    spread = np.bincount(assigned, errors, minlength=request.budget)
    ranking = np.lexsort((spread, -sizes))
    rows = _find_nearest_distinct(pool.joint, centroids[ranking])
    return collect_picks(rows, "kmeans", [(size / pool.num_pairs, 0.0, 0.0) for size in sizes[ranking].tolist()])


def _cluster(vectors: Vectors, num_clusters: int, seed: int) -> tuple[Vectors, Rows, Floats]:
    """Return centroids (B, D), and each row's cluster and squared distance to its centroid."""
    kmeans = faiss.Kmeans(
        vectors.shape[1],
        num_clusters,
        niter=NUM_ITERATIONS,
        nredo=NUM_RESTARTS,
        seed=seed,
        min_points_per_centroid=1,
        max_points_per_centroid=len(vectors),
    )
    kmeans.train(vectors)
    errors, assigned = kmeans.index.search(vectors, 1)
    return np.asarray(kmeans.centroids, dtype=np.float32), assigned[:, 0], errors[:, 0].astype(np.float64)


def _find_nearest_distinct(joint: Vectors, centroids: Vectors) -> list[int]:
    """Return the row nearest to each centroid in turn that is not taken yet; ties go to the lowest row."""
    is_taken = np.zeros(len(joint), dtype=bool)
    rows = []
    for centroid in centroids:
        closeness = np.where(is_taken, -np.inf, joint @ centroid)
        rows.append(int(closeness.argmax()))
        is_taken[rows[-1]] = True
    return rows
