"""The nearest pick of every row, brought up to date only where somebody asks: the work of k-center and of assignment.

A distance only falls when more picks are made, so one that was computed against fewer picks is an upper bound now. Most
rows fall below everything that is still to be picked early on, and need not be looked at again: rows keep how many
picks they have been compared with, and only those whose bound is among the largest are compared with the rest.

Exact means independent of the machine's matrix product: a product finds the pairs that may matter, with a bound on its
rounding, and their distance is computed again from differences, in an order that depends on nothing but the two rows.
So no result depends on shards, blocks or threads, the relative error of a distance is about 1e-7 however near the rows
are, and rows that coincide are at distance 0.
"""

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from mmcsal_core.neighbors.vectors import Floats, Rows, Vectors, iter_blocks
from mmcsal_core.selection.engine.proposals import Proposal, propose_top
from mmcsal_core.selection.engine.screening import Operands, Screening, open_screen

BLOCK_ROWS = 1024
"""Rows multiplied together."""

TILE_PICKS = 512
"""Picks multiplied together."""

PAIR_BLOCK = 512
"""Pairs of rows and picks whose differences are held at once."""

NO_PICK_SQUARED = 8.0
"""The value of every row before the first pick: more than any squared distance, which is 4 and its rounding at most."""

LOOKAHEAD = 2
"""Rows compared at once for each that is proposed, to learn below which distance no other row matters."""

STEP_ROWS = 8192
"""Rows compared before the floor is raised."""

Ranks: TypeAlias = npt.NDArray[np.int32]


class NearestPicks:
    """Rows, picks, and the distance of each row from the nearest of the picks that it has been compared with.

    Args:
        vectors: (n, D) of about unit length, float32 or float16; never copied or changed.
        squared: (n,) squared distance from earlier picks, at most; changed. By default there are no earlier picks.
        screening: how to find the pairs that matter; it changes no result.
        device: where torch multiplies; None for numpy.
    """

    def __init__(
        self,
        vectors: npt.NDArray[np.floating],
        squared: Vectors | None = None,
        screening: Screening = "off",
        device: str | None = None,
    ) -> None:
        self.squared = np.full(len(vectors), NO_PICK_SQUARED, dtype=np.float32) if squared is None else squared
        self.ranks = np.full(len(vectors), -1, dtype=np.int32)
        self._operands = Operands(vectors)
        self._screen = open_screen(self._operands, screening, device)
        self._num_compared = np.zeros(len(vectors), dtype=np.int32)
        self._row_deviation = measure_deviation(vectors)
        self._pick_deviation = 0.0

    def add(self, picks: Vectors) -> None:
        """Note picks (p, D); no row is compared with them yet."""
        self._operands.add(picks)
        self._pick_deviation = max(self._pick_deviation, measure_deviation(picks))

    def take(self, rows: Rows) -> Vectors:
        """Return vectors (m, D) float32 of rows."""
        return self._operands.take(rows)

    def propose(self, num_rows: int, is_open: npt.NDArray[np.bool_], costs: Floats | None) -> Proposal:
        """Propose the open rows of the largest squared distance divided by cost, comparing as few as will do."""
        priorities = self._weigh(is_open, costs)
        likely = np.sort(propose_top(priorities, 0, LOOKAHEAD * num_rows).rows)
        self._compare(likely, 0.0, costs)
        best = self._weigh_rows(likely, costs)
        floor = find_floor(best, num_rows)
        priorities[likely] = -np.inf
        rest = np.flatnonzero(priorities >= floor)
        rest = rest[np.argsort(-priorities[rest])]
        for block in iter_blocks(len(rest), max(STEP_ROWS, num_rows)):
            rows = rest[block]
            rows = np.sort(rows[: np.searchsorted(-priorities[rows], -floor, side="right")])  # as they lie in memory
            self._compare(rows, floor, costs)
            best = np.concatenate([best, self._weigh_rows(rows, costs)])
            floor = find_floor(best, num_rows)
        return propose_top(self._weigh(is_open, costs), 0, num_rows)

    def compare_all(self) -> None:
        """Bring every row up to date."""
        self._compare(np.arange(len(self.squared)), 0.0, None)

    def find_needed(self, squared: Vectors) -> Vectors:
        """Return the cosines below which a pick is no nearer than given squared distances, whatever the rounding."""
        needed: Vectors = 1 - (squared + np.float32(self.rounding)) / 2
        return needed

    @property
    def rounding(self) -> float:
        """How far 2 - 2 <x, p> in float32 may lie from a squared distance.

        Rows may miss unit length, as those stored in float16 do; a product of D terms misses by D units in the last
        place at most (Higham, "Accuracy and Stability of Numerical Algorithms", 3.1), a distance by less.
        """
        deviation = self._row_deviation + self._pick_deviation
        dim: int = self._operands.vectors.shape[1]
        return deviation + 4 * (1 + deviation) * (dim + 4) * float(np.finfo(np.float32).eps)

    def _weigh(self, is_open: npt.NDArray[np.bool_], costs: Floats | None) -> Floats:
        priorities = self.squared.astype(np.float64)
        if costs is not None:
            priorities /= costs
        priorities[~is_open] = -np.inf
        return priorities

    def _weigh_rows(self, rows: Rows, costs: Floats | None) -> Floats:
        squared = self.squared[rows].astype(np.float64)
        return squared if costs is None else squared / costs[rows]

    def _compare(self, rows: Rows, floor: float, costs: Floats | None) -> None:
        """Compare rows with the picks they have not met, as long as their priority is no less than `floor`."""
        while True:
            rows = rows[self._num_compared[rows] < self._operands.num_picks]
            if floor > 0.0:
                rows = rows[self._weigh_rows(rows, costs) >= floor]
            if len(rows) == 0:
                return
            rows = rows[np.argsort(self._num_compared[rows], kind="stable")]
            stop = min(int(self._num_compared[rows[0]]) + TILE_PICKS, self._operands.num_picks)
            due = rows[: np.searchsorted(self._num_compared[rows], stop)]
            for block in iter_blocks(len(due), BLOCK_ROWS):
                self._compare_block(due[block], stop)

    def _compare_block(self, rows: Rows, stop: int) -> None:
        start = int(self._num_compared[rows[0]])
        self._num_compared[rows] = stop
        rows = rows[self.squared[rows] > 0]
        if len(rows):
            self._lower(rows, start, stop)

    def _lower(self, rows: Rows, start: int, stop: int) -> None:
        """Compare rows with picks start..stop: the screen names the pairs that may matter, differences decide."""
        needed = self.find_needed(self.squared[rows])
        left, right = self._screen.find_near(rows, slice(start, stop), needed, self.rounding)
        if len(left):
            self.compare_pairs(rows[left], right + start)

    def compare_pairs(self, rows: Rows, picks: Rows) -> None:
        """Compare rows with picks, one pair each; the first of equally near picks wins.

        Args:
            rows: (E,) at least one, the pairs of a row side by side.
            picks: (E,) numbers of picks, none before those that the row has met.
        """
        squared = measure_pairs(self._operands.vectors, self._operands.picks, rows, picks)
        starts = np.flatnonzero(np.diff(rows, prepend=-1))
        smallest = np.minimum.reduceat(squared, starts)
        is_smallest = squared == np.repeat(smallest, np.diff(starts, append=len(rows)))
        first = np.minimum.reduceat(np.where(is_smallest, picks, self._operands.num_picks), starts)
        near = rows[starts]
        is_nearer = smallest < self.squared[near]
        self.squared[near[is_nearer]] = smallest[is_nearer]
        self.ranks[near[is_nearer]] = first[is_nearer]


def find_floor(priorities: Floats, num_rows: int) -> float:
    """Return the least of the `num_rows` largest priorities, 0 where there are fewer."""
    if len(priorities) < num_rows:
        return 0.0
    return float(np.partition(priorities, -num_rows)[-num_rows])


def measure_pairs(rows: npt.NDArray[np.floating], picks: Vectors, left: Rows, right: Rows) -> Vectors:
    """Return the squared distances of rows `left` from picks `right`, (E,) float32.

    Differences are float32 and their squares are summed in float64, so a distance has the same bits wherever it is
    computed, but for one in millions on the edge between two float32 numbers.
    """
    squared = np.empty(len(left), dtype=np.float32)
    for block in iter_blocks(len(left), PAIR_BLOCK):
        difference = rows.take(left[block], axis=0).astype(np.float32, copy=False)
        difference -= picks.take(right[block], axis=0)
        exact = difference.astype(np.float64)
        squared[block] = np.einsum("ed,ed->e", exact, exact)
    return squared


def measure_deviation(vectors: npt.NDArray[np.floating]) -> float:
    """Return by how much the squared length of a row (n, D) misses 1, at most."""
    deviation = 0.0
    for block in iter_blocks(len(vectors), BLOCK_ROWS):
        rows = vectors[block].astype(np.float32, copy=False)
        deviation = max(deviation, float(np.abs(np.einsum("nd,nd->n", rows, rows) - 1).max()))
    return deviation
