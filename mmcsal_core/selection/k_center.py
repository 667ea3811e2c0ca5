"""The `k_center` baseline: the row farthest from all picks, again and again.

Gonzalez, "Clustering to minimize the maximum intercluster distance" (1985): the radius is at most twice the optimum. As
a core-set for active learning: Sener & Savarese, arXiv 1708.00489. On its own it chases outliers and mispaired pairs.
The distance is that of the concatenated embeddings.
"""

import numpy as np

from mmcsal_core.neighbors.vectors import Rows, Vectors, iter_blocks
from mmcsal_core.selection.coreset import Picks, Request, collect_picks
from mmcsal_core.selection.pool import Pool

MAX_DISTANCE = 2.0
"""Between unit vectors; the first pick's distance to the empty set."""


def select_k_center(pool: Pool, request: Request) -> Picks:
    """Pick by k-center from the row nearest the pool's mean, or from the labelled rows where there are any."""
    candidates = np.setdiff1d(np.arange(pool.num_pairs), request.labelled)
    if len(request.labelled):
        return continue_k_center(pool.joint, request.labelled, candidates, request.budget, "k_center")
    start = int((pool.joint @ pool.joint.mean(axis=0)).argmax())
    first = collect_picks([start], "k_center", [(0.0, MAX_DISTANCE, 0.0)])
    rest = continue_k_center(pool.joint, first.indices, np.delete(candidates, start), request.budget - 1, "k_center")
    return first.followed_by(rest)


def continue_k_center(joint: Vectors, centers: Rows, candidates: Rows, num_picks: int, phase: str) -> Picks:
    """Pick the candidate farthest from all centers and picks, again and again; ties go to the lowest row.

    Args:
        joint: (N, D) float32 of unit length.
        centers: (C,) rows, at least one.
        candidates: sorted distinct rows, at least `num_picks`.
        num_picks: picks wanted.
        phase: name given to the picks.

    Returns:
        Picks whose gain is the distance to the nearest earlier pick or center.
    """
    vectors = np.ascontiguousarray(joint[candidates])
    nearest = _measure_nearest(vectors, joint[centers])
    rows: list[int] = []
    terms = []
    for _ in range(num_picks):
        farthest = int(nearest.argmin())
        distance = float(np.sqrt(max(0.0, 2.0 - 2.0 * float(nearest[farthest]))))
        rows.append(int(candidates[farthest]))
        terms.append((0.0, min(distance, MAX_DISTANCE), 0.0))
        nearest = np.maximum(nearest, vectors @ vectors[farthest])
        nearest[farthest] = np.inf
    return collect_picks(rows, phase, terms)


def _measure_nearest(vectors: Vectors, centers: Vectors) -> Vectors:
    """Return each vector's cosine with its nearest center."""
    nearest = np.empty(len(vectors), dtype=np.float32)
    for block in iter_blocks(len(vectors), 4096):
        nearest[block] = (vectors[block] @ centers.T).max(axis=1)
    return nearest
