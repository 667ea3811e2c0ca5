"""Voronoi-medoid swaps: each pick may move to the member of its own cell that covers the cell best, until none helps.

This is k-medoids by alternation (Park & Jun 2009) on the sparse kernel. A swap raises F at least by the rise inside the
cell, and cells are disjoint, so all swaps of a round are made at once. That does not hold of a pick of little trust
that another pick covers better: it is in its own cell all the same, and the other may move away. So a round that does
not raise F is not made, and F never falls. PAM's exchange over all candidates was not chosen: it costs a factor of B
more for little.
"""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from scipy import sparse

from mmcsal_core.neighbors.vectors import Floats, Rows
from mmcsal_core.neighbors.whole_kernel import Sums, Whole, scale_by_trust
from mmcsal_core.selection.engine.eligibility import Constraints
from mmcsal_core.selection.engine.lazy_blocks import Shards

NO_CELL = -1


@dataclass(frozen=True, eq=False)
class Swaps:
    """What swaps are made on.

    Args:
        shards: of a kernel; only their edges are used.
        trust: (N,) in [0, 1].
        fixed: (L,) rows that count as picked and may not move.
        floor: (N,) int32, how well rows count as covered without any pick.
        is_open: (N,) where a pick may move to.
        constraints: kinds and prices that a move must respect.
    """

    shards: Shards
    trust: Floats
    fixed: Rows
    floor: Whole
    is_open: npt.NDArray[np.bool_]
    constraints: Constraints = field(default_factory=Constraints)

    def move(self, picks: Rows, max_rounds: int) -> Rows:
        """Move picks within their cells until F stops rising; F of the result is at least F of `picks`.

        Args:
            picks: (B,) distinct rows.
            max_rounds: rounds, at most.

        Returns:
            (B,) distinct rows, the b-th having moved from the b-th pick.
        """
        cells, covered = self._assign(picks)
        for _ in range(max_rounds):
            scores = np.concatenate(self.shards.gather("sum_inside", cells))
            moved = _choose_medoids(np.where(self._may_replace(cells, picks), scores, -1), cells, picks)
            if np.array_equal(moved, picks):
                break
            cells, reached = self._assign(moved)
            if reached <= covered:
                break
            picks, covered = moved, reached
        return picks

    def _assign(self, picks: Rows) -> tuple[Rows, int]:
        """Return each row's cell (N,), and F in units of 2^-30 rows."""
        centers = np.concatenate([picks, self.fixed])
        edges, trust = self.shards.fetch(centers).edges, self.trust[centers]
        return find_cells(edges, trust, centers, self.floor), measure_cover(edges, trust, self.floor)

    def _may_replace(self, cells: Rows, picks: Rows) -> npt.NDArray[np.bool_]:
        """Say which rows the pick of their cell may move to."""
        kinds, prices = self.constraints.kinds, self.constraints.prices
        own = picks[np.clip(cells, 0, len(picks) - 1)]
        may_replace = self.is_open
        if kinds is not None:
            may_replace = may_replace & (kinds == kinds[own])
        if prices is not None:
            may_replace = may_replace & (prices <= prices[own])
        return may_replace


def find_cells(edges: sparse.csr_array, trust: Floats, picks: Rows, floor: Whole) -> Rows:
    """Return the rank of the pick that covers each row best, ties to the lowest rank; a pick is in its own cell.

    Args:
        edges: (B, N) int32, the picks' rows of the kernel.
        trust: (B,) in [0, 1], in the picks.
        picks: (B,) distinct rows.
        floor: (N,) int32.

    Returns:
        (N,) int64, `NO_CELL` where no pick covers the row above its floor.
    """
    cells, covered = np.full(edges.shape[1], NO_CELL, dtype=np.int64), floor.copy()
    for rank in range(len(picks)):
        span = slice(edges.indptr[rank], edges.indptr[rank + 1])
        rows, values = edges.indices[span], scale_by_trust(edges.data[span], trust[rank])
        is_better = values > covered[rows]
        rows = rows[is_better]
        cells[rows], covered[rows] = rank, values[is_better]
    cells[picks] = np.arange(len(picks))
    return cells


def measure_cover(edges: sparse.csr_array, trust: Floats, floor: Whole) -> int:
    """Sum over all rows how much better than its floor some pick covers it; arguments as of `find_cells`."""
    covered = floor.copy()
    np.maximum.at(covered, edges.indices, scale_by_trust(edges.data, np.repeat(trust, np.diff(edges.indptr))))
    return int((covered - floor).sum(dtype=np.int64))


def _choose_medoids(scores: Sums, cells: Rows, picks: Rows) -> Rows:
    """Return each cell's best-scoring row, or its pick where no other row is better."""
    members = np.flatnonzero((cells != NO_CELL) & (cells < len(picks)))
    order = members[np.lexsort((members, -scores[members], cells[members]))]
    best = order[_starts_group(cells[order])]
    return np.where(scores[best] > scores[picks], best, picks)


def _starts_group(sorted_keys: npt.NDArray[np.integer]) -> npt.NDArray[np.bool_]:
    return np.concatenate([[True], sorted_keys[1:] != sorted_keys[:-1]])[: len(sorted_keys)]
