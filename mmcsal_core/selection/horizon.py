"""How far a row sees on a kernel that is held on its nearest neighbours, and what coverage may therefore count.

Beyond a row's K nearest neighbours the kernel is not 0, only unknown, and at most about its value at the K-th. A pick
out there covers the row up to some such value, and nearly every set of picks has one. So the row counts as covered up
to its horizon, a share of its K-th largest kernel value, from the start, and only what rises above it is gained.
Without it, greedy chases rows that merely have no pick in their list yet, and loses up to 2 % of the value on the dense
kernel where picks are fewer than N / K.
"""

import numpy as np
from scipy import sparse

from mmcsal_core.neighbors.vectors import Rows, iter_blocks
from mmcsal_core.neighbors.whole_kernel import UNIT, Whole

BLOCK_ROWS = 65_536


def find_horizon(kernel: sparse.csr_array, num_neighbors: int, share: float) -> Whole:
    """Return a share of every row's kernel value with its `num_neighbors`-th nearest other row, rounded down.

    Args:
        kernel: (N, N) int32 multiples of 2^-30, a row's own edge included.
        num_neighbors: K, the neighbours of each row that were looked for in one relation.
        share: in [0, 1].

    Returns:
        (N,) int32: 0 where K reaches all other rows, since nothing is unknown then; of fewer edges the least.
    """
    num_rows = kernel.shape[0]
    if num_neighbors >= num_rows - 1:
        return np.zeros(num_rows, dtype=np.int32)
    horizon = np.empty(num_rows, dtype=np.int32)
    for block in iter_blocks(num_rows, BLOCK_ROWS):
        starts, stops = kernel.indptr[block], kernel.indptr[block.start + 1 : block.stop + 1]
        falling = _sort_falling(kernel.data[starts[0] : stops[-1]], stops - starts)
        places = np.minimum(starts + num_neighbors, stops - 1) - starts[0]
        horizon[block] = np.floor(share * falling[places])
    return horizon


def _sort_falling(values: Whole, lengths: Rows) -> Whole:
    """Sort the values of each row, one row after the other."""
    keys = np.repeat(np.arange(len(lengths), dtype=np.int64) * 2 * UNIT, lengths) + (UNIT - values)
    keys.sort()
    return np.asarray(UNIT - keys % (2 * UNIT), dtype=np.int32)
