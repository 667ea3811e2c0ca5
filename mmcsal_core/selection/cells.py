"""What a pick stands for: the pool pairs nearest to it, and how far the farthest of them is.

Nearest is decided as the k-center engine decides it. Published distances are computed from differences, since 2 - 2 cos
loses half of float32's digits near 0.
"""

import numpy as np

from mmcsal_core.neighbors.vectors import Floats, Rows, Vectors, iter_blocks
from mmcsal_core.selection.engine.eligibility import NO_ROWS
from mmcsal_core.selection.engine.engines import LocalEngine

BLOCK_ROWS = 4096
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
    for block in iter_blocks(len(picks), BLOCK_ROWS):
        similarities = vectors[block] @ vectors[: block.stop].T
        is_later = np.arange(block.stop)[None, :] >= np.arange(block.start, block.stop)[:, None]
        ranks[block] = np.where(is_later, -np.inf, similarities).argmax(axis=1)
    distances = measure_distances(vectors, np.arange(len(picks)), ranks)
    ranks[0], distances[0] = NO_EARLIER, np.nan
    return ranks, distances
