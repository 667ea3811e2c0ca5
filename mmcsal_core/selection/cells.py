"""What a pick stands for: the pool pairs nearest to it, and how far the farthest of them is.

Nearest is decided as the k-center engine decides it. Published distances are computed from differences, since 2 - 2 cos
loses half of float32's digits near 0.
"""

import numpy as np

from mmcsal_core.neighbors.vectors import Floats, Rows, Vectors, iter_blocks
from mmcsal_core.selection.engine.blas_threads import use_one_blas_thread
from mmcsal_core.selection.engine.eligibility import NO_ROWS
from mmcsal_core.selection.engine.engines import LocalEngine
from mmcsal_core.selection.engine.nearest_picks import NearestPicks
from mmcsal_core.selection.engine.screening import split_places

BLOCK_ROWS = 4096
EARLIER_ROWS = 1024
"""Picks whose cosines with each other are held at once."""

NO_EARLIER = -1


def find_nearest_pick(joint: Vectors, picks: Rows) -> Rows:
    """Return the rank of every row's nearest pick, the lowest rank where several are equally near.

    Args:
        joint: (N, D) float32 of unit length.
        picks: (B,) rows.

    Returns:
        (N,) int64.
    """
    shards = LocalEngine().open_k_center(joint, NO_ROWS, None)
    shards.apply(joint[picks], NO_ROWS)
    return np.concatenate([ranks for ranks, _ in shards.gather("read_nearest")]).astype(np.int64)


def assign_cells(joint: Vectors, picks: Rows) -> Rows:
    """Return the rank of the pick that stands for each row; a pick always stands for itself.

    Args:
        joint: (N, D) float32 of unit length.
        picks: (B,) rows.

    Returns:
        (N,) int64.
    """
    cells = find_nearest_pick(joint, picks)
    cells[picks] = np.arange(len(picks))
    return cells


def measure_distances(joint: Vectors, left: Rows, right: Rows) -> Floats:
    """Return the distances between pairs of rows, (E,) float64 in [0, 2]."""
    distances = np.empty(len(left))
    for block in iter_blocks(len(left), BLOCK_ROWS):
        difference = joint[left[block]].astype(np.float64) - joint[right[block]]
        distances[block] = np.sqrt(np.einsum("ed,ed->e", difference, difference))
    return distances


def measure_radius(joint: Vectors, centers: Rows) -> float:
    """Return the distance from a row to its nearest center, at most.

    Args:
        joint: (N, D) float32 of unit length.
        centers: (B,) rows.
    """
    nearest = centers[find_nearest_pick(joint, centers)]
    return float(measure_distances(joint, np.arange(len(joint)), nearest).max())


def find_nearest_earlier(joint: Vectors, picks: Rows) -> tuple[Rows, Floats]:
    """Find each pick's nearest pick of lower rank, the lowest rank where several are equally near.

    Args:
        joint: (N, D) float32 of unit length.
        picks: (B,) rows in pick order.

    Returns:
        ranks (B,) int64, `NO_EARLIER` for the first pick, and distances (B,) float64, NaN for the first pick.
    """
    vectors = np.ascontiguousarray(joint[picks])
    ranks = np.full(len(picks), NO_EARLIER, dtype=np.int64)
    with use_one_blas_thread():
        for block in iter_blocks(len(picks), EARLIER_ROWS):
            nearest = NearestPicks(vectors[block])
            nearest.add(vectors[: block.start])
            nearest.compare_all()
            nearest.add(vectors[block])
            rows, earlier = _find_near_earlier(nearest, vectors[block])
            if len(rows):
                nearest.compare_pairs(rows, block.start + earlier)
            ranks[block] = nearest.ranks
    distances = np.full(len(picks), np.nan)
    distances[1:] = measure_distances(vectors, np.arange(1, len(picks)), ranks[1:])
    return ranks, distances


def _find_near_earlier(nearest: NearestPicks, own: Vectors) -> tuple[Rows, Rows]:
    """Return pairs of a row of a block and an earlier one of the block that may be the nearest of all earlier ones."""
    cosines = own @ own.T
    cosines[np.triu_indices(len(own))] = -np.inf
    least = np.maximum(nearest.find_needed(nearest.squared), cosines.max(axis=1) - np.float32(nearest.rounding))
    return split_places(np.flatnonzero(cosines >= least[:, None]), len(own))
