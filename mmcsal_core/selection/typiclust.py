"""The `typiclust` baseline: the most typical pair of each cluster, largest cluster first.

Hacohen, Dekel & Weinshall, "Active Learning on a Budget: Opposite Strategies Suit High and Low Budgets" (ICML 2022,
arXiv 2202.02794). As in the paper, there are as many clusters as pairs will be labelled, up to a limit, clusters that
hold labelled pairs come last, and typicality is the inverse mean distance to the nearest neighbours within the cluster;
as in the authors' code, clusters of at most five are left out, and beyond the limit the clusters are visited again in
the same order, typicality being measured among what is left. Where only small clusters have pairs left, they follow.
"""

import faiss
import numpy as np
import numpy.typing as npt

from mmcsal_core.neighbors.vectors import Floats, Rows, Vectors
from mmcsal_core.selection.clusters import cluster_rows, order_by_value
from mmcsal_core.selection.coreset import Picks, Request, collect_picks
from mmcsal_core.selection.engine.eligibility import Eligibility
from mmcsal_core.selection.pool import Pool

NUM_RESTARTS = 3
MAX_SMALL_SIZE = 5
"""Pairs in a cluster that is too small to be typical of anything."""


def select_typiclust(pool: Pool, request: Request) -> Picks:
    """Pick the most typical open row of each cluster in turn. The gains are 0: there is no objective that rises."""
    config = request.config.baselines
    num_wanted = request.budget + len(request.labelled)
    large, small = _list_clusters(pool, request, min(num_wanted, config.typiclust_max_clusters))
    eligibility = request.constraints.begin(pool.num_pairs, request.labelled)
    rows: list[int] = []
    for groups in (large, small):
        num_left = request.budget - len(rows)
        rows += visit_in_turn(pool.joint, groups, eligibility, num_left, config.typiclust_neighbors)
    return collect_picks(rows, "typiclust", [(0.0, 0.0, 0.0)] * len(rows))


def _list_clusters(pool: Pool, request: Request, num_clusters: int) -> tuple[list[Rows], list[Rows]]:
    """Return the unlabelled rows of each cluster, first to visit first: those of large clusters, those of small."""
    clusters = cluster_rows(pool.joint, num_clusters, request.seed, NUM_RESTARTS)
    is_labelled = np.zeros(pool.num_pairs, dtype=bool)
    is_labelled[request.labelled] = True
    order = order_by_value(pool.joint)
    order = order[np.argsort(clusters.assigned[order], kind="stable")]
    groups = [rows[~is_labelled[rows]] for rows in np.split(order, np.cumsum(clusters.sizes)[:-1])]
    ranking = clusters.rank(first=np.bincount(clusters.assigned[request.labelled], minlength=num_clusters))
    is_large = clusters.sizes > MAX_SMALL_SIZE
    return [groups[i] for i in ranking[is_large[ranking]]], [groups[i] for i in ranking[~is_large[ranking]]]


def visit_in_turn(
    joint: Vectors, groups: list[Rows], eligibility: Eligibility, num_picks: int, num_neighbors: int
) -> list[int]:
    """Take the most typical open row of each group, again and again.

    Args:
        joint: (N, D) float32 of unit length.
        groups: disjoint rows, in an order that does not depend on the pool's.
        eligibility: who may be picked; changed.
        num_picks: picks wanted.
        num_neighbors: neighbours behind a typicality.

    Returns:
        Rows in pick order; fewer than `num_picks` where no group has an open row left.
    """
    picks: list[int] = []
    while len(picks) < num_picks:
        groups = [rows for rows in groups if eligibility.is_open[rows].any()]
        if not groups:
            break
        for place, rows in enumerate(groups):
            is_open = eligibility.is_open[rows]
            if len(picks) < num_picks and is_open.any():
                picks.append(find_most_typical(joint, rows, is_open, num_neighbors))
                eligibility.take(picks[-1])
                groups[place] = rows[rows != picks[-1]]
    return picks


def find_most_typical(joint: Vectors, rows: Rows, is_open: npt.NDArray[np.bool_], num_neighbors: int) -> int:
    """Return the open row of the smallest mean distance to its nearest rows; the first of equal ones."""
    distances = measure_mean_distance(joint[rows], min(num_neighbors, len(rows) // 2))
    return int(rows[np.where(is_open, distances, np.inf).argmin()])


def measure_mean_distance(vectors: Vectors, num_neighbors: int) -> Floats:
    """Return each row's mean distance to its nearest other rows, (n,); 0 where none are asked for."""
    if num_neighbors == 0:
        return np.zeros(len(vectors))
    squared, _ = faiss.knn(vectors, vectors, num_neighbors + 1)
    return np.asarray(np.sqrt(np.maximum(squared[:, 1:], 0.0), dtype=np.float64).mean(axis=1))
