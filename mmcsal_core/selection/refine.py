"""Voronoi-medoid swaps: each pick may move to the member of its own cell that covers the cell best, until none helps.

This is k-medoids by alternation (Park & Jun 2009) on the sparse kernel. A swap raises F at least by the rise inside the
cell, and cells are disjoint, so all swaps of a round are made at once and F never falls. PAM's exchange over all
candidates was not chosen: it costs a factor of B more for little.
"""

import numpy as np
import numpy.typing as npt
from scipy import sparse

from mmcsal_core.neighbors.vectors import Floats, Rows

NO_CELL = -1
_MIN_RELATIVE_RISE = 1e-12


def swap_to_medoids(kernel: sparse.csr_array, trust: Floats, picks: Rows, fixed: Rows, max_rounds: int) -> Rows:
    """Move picks within their cells until F stops rising; F of the result is at least F of `picks`.

    Args:
        kernel: (N, N) symmetric, non-negative.
        trust: (N,) in [0, 1].
        picks: (B,) distinct rows.
        fixed: (L,) rows that count as picked and may not move.
        max_rounds: rounds, at most.

    Returns:
        (B,) distinct rows, the b-th having moved from the b-th pick.
    """
    rows = np.repeat(np.arange(kernel.shape[0]), np.diff(kernel.indptr))
    for _ in range(max_rounds):
        cells = find_cells(kernel, trust, np.concatenate([picks, fixed]))
        is_inside = (cells[rows] == cells[kernel.indices]) & (cells[rows] != NO_CELL)
        inside = np.bincount(kernel.indices[is_inside], kernel.data[is_inside], minlength=kernel.shape[0])
        moved = _choose_medoids(inside * trust, cells, picks)
        if np.array_equal(moved, picks):
            break
        picks = moved
    return picks


def find_cells(kernel: sparse.csr_array, trust: Floats, picks: Rows) -> Rows:
    """Return the rank of the pick that covers each row best, ties to the lowest rank; a pick is in its own cell.

    Args:
        kernel: (N, N) symmetric, non-negative.
        trust: (N,) in [0, 1].
        picks: (B,) distinct rows.

    Returns:
        (N,) int64, `NO_CELL` where no pick is a neighbour.
    """
    near = kernel[picks]
    ranks = np.repeat(np.arange(len(picks)), np.diff(near.indptr))
    values = near.data * trust[picks[ranks]]
    order = np.lexsort((ranks, -values, near.indices))
    first = order[_starts_group(near.indices[order])]
    cells = np.full(kernel.shape[0], NO_CELL, dtype=np.int64)
    cells[near.indices[first]] = ranks[first]
    cells[picks] = np.arange(len(picks))
    return cells


def _choose_medoids(scores: Floats, cells: Rows, picks: Rows) -> Rows:
    """Return each cell's best-scoring row, or its pick where no other row is better."""
    members = np.flatnonzero((cells != NO_CELL) & (cells < len(picks)))
    order = members[np.lexsort((members, -scores[members], cells[members]))]
    best = order[_starts_group(cells[order])]
    is_better = scores[best] > scores[picks] * (1 + _MIN_RELATIVE_RISE)
    return np.where(is_better, best, picks)


def _starts_group(sorted_keys: Rows) -> npt.NDArray[np.bool_]:
    return np.concatenate([[True], sorted_keys[1:] != sorted_keys[:-1]])[: len(sorted_keys)]
