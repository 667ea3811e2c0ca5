"""Greedy k-center as an objective of the engine: the value of a row is its squared distance to the nearest pick.

Distances do not depend on how rows are split or multiplied (`nearest_picks.py`), so neither do the picks, and a row is
compared with a pick only where it might be picked itself.

Gonzalez, "Clustering to minimize the maximum intercluster distance" (1985).
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from mmcsal_core.neighbors.vectors import Floats, Rows, Vectors
from mmcsal_core.selection.engine.blas_threads import use_one_blas_thread
from mmcsal_core.selection.engine.lazy_blocks import Terms
from mmcsal_core.selection.engine.nearest_picks import NearestPicks, Ranks, measure_pairs
from mmcsal_core.selection.engine.proposals import NOTHING_LEFT, Proposal, is_before
from mmcsal_core.selection.engine.screening import Screening

BLOCK_ROWS = 1024
"""A shard starts at a multiple of it."""

INNER_ROWS = 512
"""Rows of a hot set whose cosines with each other are held."""


class KCenterShard:
    """Consecutive rows and the distance of each from its nearest pick.

    Args:
        vectors: (n, D) of about unit length, float32 or float16; never copied or changed.
        first_row: row of the pool that `vectors[0]` is.
        closed: rows of the pool that may not be picked.
        costs: (n,) above 0, what the priority is divided by; None where all cost the same.
        screening: how the pairs of rows and picks that matter are found; it changes no result.
        device: where torch multiplies; None for numpy.
    """

    def __init__(
        self,
        vectors: npt.NDArray[np.floating],
        first_row: int,
        closed: Rows,
        costs: Floats | None = None,
        screening: Screening = "off",
        device: str | None = None,
    ) -> None:
        self.first_row, self.num_rows = first_row, len(vectors)
        self._costs = costs
        self._nearest = NearestPicks(vectors, screening=screening, device=device)
        self._is_open = np.ones(len(vectors), dtype=bool)
        self._close(closed)

    def propose(self, num_rows: int) -> Proposal:
        """Return the best open rows."""
        return self._nearest.propose(num_rows, self._is_open, self._costs).shift(self.first_row)

    def fetch(self, rows: Rows) -> tuple[Vectors, Vectors]:
        """Return vectors (m, D) and squared distances (m,); those of proposed rows are up to date."""
        own = rows - self.first_row
        return self._nearest.take(own), self._nearest.squared[own]

    def apply(self, update: Vectors, closed: Rows) -> None:
        """Count picks, given as vectors (p, D), and close rows."""
        self._nearest.add(update)
        self._close(closed)

    def read_nearest(self) -> tuple[Ranks, Vectors]:
        """Return how many picks came before each row's nearest one (n,), and its squared distance (n,)."""
        self._nearest.compare_all()
        return self._nearest.ranks, self._nearest.squared

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
    """Lazy blocks once more: an inner block of rows with their cosines with each other, the rest behind a bound.

    Args:
        rows: (m,) rows of the pool.
        vectors: (m, D) float32.
        squared: (m,) squared distance from the nearest pick.
        costs: (m,) or None.
    """

    def __init__(self, rows: Rows, vectors: Vectors, squared: Vectors, costs: Floats | None) -> None:
        order = np.argsort(rows)  # so that the first of equal priorities is of the lowest row
        self._rows, self._costs = rows[order], None if costs is None else costs[order]
        self._nearest = NearestPicks(vectors[order], squared[order])
        self._is_open = np.ones(len(rows), dtype=bool)
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
        self._nearest.add(self._vectors[place : place + 1])
        self._is_open[self._inner[place]] = False
        near = np.flatnonzero(self._cosines[place] >= self._nearest.find_needed(self._squared))
        measured = measure_pairs(self._vectors, self._vectors, near, np.full(len(near), place))
        self._squared[near] = np.minimum(self._squared[near], measured)
        self._weigh(near)
        return 0.0, distance, 0.0

    def close(self, rows: Rows) -> None:
        """Close rows."""
        self._is_open[np.isin(self._rows, rows)] = False
        self._weigh(np.arange(len(self._inner)))

    def describe(self, rows: Sequence[int]) -> Vectors:
        """Return the vectors (p, D) of rows."""
        return self._nearest.take(np.searchsorted(self._rows, rows))

    def _peek(self) -> tuple[float, int]:
        if len(self._inner) == 0:
            return NOTHING_LEFT
        place = int(self._priorities.argmax())
        return float(self._priorities[place]), int(self._inner_rows[place])

    def _fill(self) -> None:
        """Choose the inner block anew."""
        with use_one_blas_thread():
            proposal = self._nearest.propose(INNER_ROWS, self._is_open, self._costs)
            self._inner = np.sort(proposal.rows)
            self._vectors = self._nearest.take(self._inner)
            self._cosines = self._vectors @ self._vectors.T
        priority, place = proposal.bound
        self._bound = NOTHING_LEFT if proposal.bound == NOTHING_LEFT else (priority, int(self._rows[place]))
        self._inner_rows = self._rows[self._inner]
        self._squared = self._nearest.squared[self._inner]
        self._priorities = np.empty(len(self._inner))
        self._weigh(np.arange(len(self._inner)))

    def _weigh(self, places: Rows) -> None:
        """Compute the priorities of places of the inner block anew."""
        priorities = self._squared[places].astype(np.float64)
        if self._costs is not None:
            priorities /= self._costs[self._inner[places]]
        priorities[~self._is_open[self._inner[places]]] = -np.inf
        self._priorities[places] = priorities
