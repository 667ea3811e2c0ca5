"""Greedy k-center as an objective of the engine: the value of a row is its squared distance to the nearest pick.

Rows are of unit length, so the value is 2 - 2 max over picks of <x, p>: one matrix product and a maximum, and no
distance is ever stored. The product of a float32 matrix depends in its last bits on the shape of the product, so rows
are multiplied in blocks that lie at the same rows of the pool however many shards there are.

Gonzalez, "Clustering to minimize the maximum intercluster distance" (1985).
"""

from collections.abc import Iterator, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from mmcsal_core.neighbors.vectors import Floats, Rows, Vectors, iter_blocks
from mmcsal_core.selection.engine.lazy_blocks import Terms
from mmcsal_core.selection.engine.proposals import NOTHING_LEFT, Proposal, is_before, propose_top

BLOCK_ROWS = 1024
"""Rows multiplied together. A shard starts at a multiple of it."""

TILE_PICKS = 512
"""Picks multiplied together."""

INNER_ROWS = 512
"""Rows of a hot set whose distances to each other are held."""

COINCIDENT = 1e-6
"""Squared distances below this are rounding of 2 - 2 cos in float32: the rows coincide, and the value is 0."""

MAX_SQUARED = 4.0
"""Between unit vectors; the value of every row before the first pick."""


Ranks: TypeAlias = npt.NDArray[np.int32]


def to_squared(cosines: Vectors) -> Vectors:
    """Turn cosines into squared distances, 0 where rows coincide."""
    squared: Vectors = np.float32(2.0) - np.float32(2.0) * cosines
    squared[squared < COINCIDENT] = 0.0
    return squared


def raise_nearest(vectors: npt.NDArray[np.floating], picks: Vectors, nearest: Vectors) -> None:
    """Raise every row's cosine with its nearest pick, in place.

    Args:
        vectors: (n, D) of unit length, float32 or float16; row 0 lies at a multiple of `BLOCK_ROWS` in the pool.
        picks: (p, D) float32.
        nearest: (n,) float32.
    """
    for block, _, cosines in _multiply(vectors, picks):
        np.maximum(nearest[block], cosines.max(axis=0), out=nearest[block])


def assign_nearest(
    vectors: npt.NDArray[np.floating], picks: Vectors, nearest: Vectors, ranks: Ranks, first_rank: int
) -> None:
    """Raise every row's cosine with its nearest pick and note which pick that is, in place; ties to the lowest rank.

    Args:
        vectors: (n, D) of unit length, float32 or float16; row 0 lies at a multiple of `BLOCK_ROWS` in the pool.
        picks: (p, D) float32.
        nearest: (n,) float32.
        ranks: (n,) int32, the rank of the pick behind `nearest`.
        first_rank: rank of `picks[0]`.
    """
    for block, tile, cosines in _multiply(vectors, picks):
        best = cosines.max(axis=0)
        improved = np.flatnonzero(best > nearest[block])
        if len(improved):
            ranks[block.start + improved] = cosines[:, improved].argmax(axis=0) + (first_rank + tile.start)
            nearest[block.start + improved] = best[improved]


def _multiply(vectors: npt.NDArray[np.floating], picks: Vectors) -> Iterator[tuple[slice, slice, Vectors]]:
    """Yield blocks of rows, tiles of picks and the cosines (tile, block) between them, valid until the next."""
    buffer = np.empty((min(TILE_PICKS, len(picks)), BLOCK_ROWS), dtype=np.float32)
    for block in iter_blocks(len(vectors), BLOCK_ROWS):
        rows = vectors[block].astype(np.float32, copy=False)
        for tile in iter_blocks(len(picks), TILE_PICKS):
            cosines = buffer[: tile.stop - tile.start, : len(rows)]
            yield block, tile, np.matmul(picks[tile], rows.T, out=cosines)


class KCenterShard:
    """Consecutive rows and the cosine of each with its nearest pick.

    Args:
        vectors: (n, D) of unit length, float32 or float16; never copied or changed.
        first_row: row of the pool that `vectors[0]` is; a multiple of `BLOCK_ROWS`.
        closed: rows of the pool that may not be picked.
        costs: (n,) above 0, what the priority is divided by; None where all cost the same.
    """

    def __init__(
        self, vectors: npt.NDArray[np.floating], first_row: int, closed: Rows, costs: Floats | None = None
    ) -> None:
        self.first_row, self.num_rows = first_row, len(vectors)
        self._vectors, self._costs = vectors, costs
        self._nearest = np.full(len(vectors), 1 - MAX_SQUARED / 2, dtype=np.float32)
        self._ranks = np.full(len(vectors), -1, dtype=np.int32)
        self._num_counted = 0
        self._is_open = np.ones(len(vectors), dtype=bool)
        self._close(closed)

    def propose(self, num_rows: int) -> Proposal:
        """Return the best open rows."""
        priorities = to_squared(self._nearest).astype(np.float64)
        if self._costs is not None:
            priorities /= self._costs
        priorities[~self._is_open] = -np.inf
        return propose_top(priorities, self.first_row, num_rows)

    def fetch(self, rows: Rows) -> tuple[Vectors, Vectors]:
        """Return vectors (m, D) and cosines with the nearest pick (m,)."""
        own = rows - self.first_row
        return self._vectors[own].astype(np.float32, copy=False), self._nearest[own]

    def apply(self, update: Vectors, closed: Rows) -> None:
        """Count picks, given as vectors (p, D), and close rows."""
        assign_nearest(self._vectors, update, self._nearest, self._ranks, self._num_counted)
        self._num_counted += len(update)
        self._close(closed)

    def read_nearest(self) -> tuple[Ranks, Vectors]:
        """Return how many picks came before each row's nearest one (n,), and the cosine with it (n,)."""
        return self._ranks, self._nearest

    @staticmethod
    def join(parts: Sequence[tuple[Vectors, Vectors]], order: Rows) -> tuple[Vectors, Vectors]:
        """Join what several shards fetched."""
        return np.concatenate([x for x, _ in parts])[order], np.concatenate([best for _, best in parts])[order]

    def _close(self, rows: Rows) -> None:
        own = rows - self.first_row
        self._is_open[own[(own >= 0) & (own < self.num_rows)]] = False


class KCenter:
    """The objective; it needs to know nothing but the hot set.

    Args:
        costs: (N,) above 0 of the whole pool; None where all cost the same.
    """

    def __init__(self, costs: Floats | None = None) -> None:
        self._costs = costs

    def open_hot_set(self, proposal: Proposal, fetched: tuple[Vectors, Vectors]) -> "KCenterHotSet":
        """Make the hot set of a round."""
        costs = None if self._costs is None else self._costs[proposal.rows]
        return KCenterHotSet(proposal.rows, *fetched, costs)

    def count(self, update: Vectors) -> None:
        """Nothing is kept here."""


class KCenterHotSet:
    """Lazy blocks once more: an inner block of rows with their distances to each other, the rest behind a bound.

    Args:
        rows: (m,) rows of the pool.
        vectors: (m, D) float32.
        nearest: (m,) cosine with the nearest pick.
        costs: (m,) or None.
    """

    def __init__(self, rows: Rows, vectors: Vectors, nearest: Vectors, costs: Floats | None) -> None:
        order = np.argsort(rows)  # so that the first of equal priorities is of the lowest row
        self._rows, self._vectors, self._nearest = rows[order], vectors[order], nearest[order]
        self._costs = None if costs is None else costs[order]
        self._is_open = np.ones(len(rows), dtype=bool)
        self._pending: list[int] = []
        self._fill()

    def find_best(self) -> tuple[float, int]:
        """Return priority and row of the best open row."""
        best = self._peek()
        if self._bound[0] > -np.inf and is_before(self._bound, best):
            self._fill()
            best = self._peek()
        return best

    def pick(self, row: int) -> Terms:
        """Count the best row as picked; its gain is its distance to the nearest earlier pick."""
        place = int(np.searchsorted(self._inner_rows, row))
        distance = float(np.sqrt(self._squared[place]))
        self._pending.append(int(self._inner[place]))
        self._is_open[self._inner[place]] = False
        np.minimum(self._squared, self._distances[place], out=self._squared)
        self._weigh()
        return 0.0, distance, 0.0

    def close(self, rows: Rows) -> None:
        """Close rows."""
        self._is_open[np.isin(self._rows, rows)] = False
        self._weigh()

    def describe(self, rows: Sequence[int]) -> Vectors:
        """Return the vectors (p, D) of rows."""
        return np.ascontiguousarray(self._vectors[np.searchsorted(self._rows, rows)])

    def _peek(self) -> tuple[float, int]:
        if len(self._inner) == 0:
            return NOTHING_LEFT
        place = int(self._priorities.argmax())
        return float(self._priorities[place]), int(self._inner_rows[place])

    def _fill(self) -> None:
        """Apply what was picked to all rows, and choose the inner block anew."""
        if self._pending:
            raise_nearest(self._vectors, self._vectors[self._pending], self._nearest)
            self._pending = []
        priorities = to_squared(self._nearest).astype(np.float64)
        if self._costs is not None:
            priorities /= self._costs
        priorities[~self._is_open] = -np.inf
        proposal = propose_top(priorities, 0, INNER_ROWS)
        self._inner = np.sort(proposal.rows)
        self._inner_rows = self._rows[self._inner]
        priority, place = proposal.bound
        self._bound = NOTHING_LEFT if proposal.bound == NOTHING_LEFT else (priority, int(self._rows[place]))
        vectors = self._vectors[self._inner]
        self._squared = to_squared(self._nearest[self._inner])
        self._distances = to_squared(vectors @ vectors.T)
        self._weigh()

    def _weigh(self) -> None:
        self._priorities = np.where(self._is_open[self._inner], self._squared.astype(np.float64), -np.inf)
        if self._costs is not None:
            self._priorities /= self._costs[self._inner]
