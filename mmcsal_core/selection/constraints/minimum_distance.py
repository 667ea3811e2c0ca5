"""A minimum distance: no pick lies nearer to an earlier pick, or to a labelled pair, than asked.

The distance is that of the joint unit vectors. One product of the pool with a pick finds what may be too near, and the
distances of those rows are measured again from differences, since 2 - 2 cos loses half of float32's digits near 0.
"""

import numpy as np

from mmcsal_core.neighbors.vectors import Rows, Vectors, iter_blocks
from mmcsal_core.selection.cells import find_nearest_pick, measure_distances
from mmcsal_core.selection.engine.eligibility import NO_ROWS

ROUNDING = 1e-5
"""Error of a float32 cosine, generously."""

BLOCK_ROWS = 65_536


class MinimumDistance:
    """The rule that closes what lies too near.

    Args:
        joint: (N, D) float32 of unit length.
        labelled: (L,) rows that count as picked.
        distance: above 0.
    """

    def __init__(self, joint: Vectors, labelled: Rows, distance: float) -> None:
        self._joint, self._labelled, self._distance = joint, labelled, distance
        self._least_cosine = 1 - distance**2 / 2 - ROUNDING

    def close_at_start(self) -> Rows:
        """Return the rows too near to a labelled pair."""
        if len(self._labelled) == 0:
            return NO_ROWS
        nearest = self._labelled[find_nearest_pick(self._joint, self._labelled)]
        distances = measure_distances(self._joint, np.arange(len(self._joint)), nearest)
        return np.flatnonzero(distances < self._distance)

    def close_after(self, row: int) -> Rows:
        """Return the rows too near to a pick, itself included."""
        pick = self._joint[row]
        blocks = iter_blocks(len(self._joint), BLOCK_ROWS)
        found = [np.flatnonzero(self._joint[block] @ pick >= self._least_cosine) + block.start for block in blocks]
        near = np.concatenate(found)
        distances = measure_distances(self._joint, near, np.full(len(near), row))
        return np.asarray(near[distances < self._distance])
