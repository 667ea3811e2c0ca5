"""The coverage objective where the loop runs: what is covered so far, and the hot set of a round.

The hot set corrects values as the shards do (`cover.py`), on the part of the pool that its candidates touch.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import sparse

from mmcsal_core.neighbors.vectors import Floats, Rows
from mmcsal_core.neighbors.whole_kernel import UNIT, Whole, scale_by_trust
from mmcsal_core.selection.engine.cover import (
    CoverCandidates,
    CoverUpdate,
    describe_picks,
    expand_ranges,
    is_whole,
    measure_loss,
    repel,
    scale_rows,
    sum_rows,
    transpose_trusted,
)
from mmcsal_core.selection.engine.lazy_blocks import Terms
from mmcsal_core.selection.engine.proposals import Proposal


class Cover:
    """The objective, with how well every row of the pool is covered.

    Args:
        trust: (N,) in [0, 1].
        lambda_div: weight of the repulsion.
        costs: (N,) above 0; None where all cost the same.
        floor: (N,) how well every row counts as covered before the first pick; None for not at all.
    """

    def __init__(
        self, trust: Floats, lambda_div: float, costs: Floats | None = None, floor: Whole | None = None
    ) -> None:
        self.trust, self.lambda_div, self.costs = trust, lambda_div, costs
        self.floor: Whole = np.zeros(len(trust), dtype=np.int32) if floor is None else floor
        self.covered: Whole = self.floor.copy()

    def open_hot_set(self, proposal: Proposal, fetched: CoverCandidates) -> "CoverHotSet":
        """Make the hot set of a round."""
        return CoverHotSet(proposal.rows, fetched, self)

    def open_fresh_hot_set(
        self, rows: Rows, edges: sparse.csr_array, picked: Rows, picked_edges: sparse.csr_array
    ) -> "CoverHotSet":
        """Make a hot set of any rows, computing their values anew from what is picked already.

        Args:
            rows: (m,) rows of the pool, sorted.
            edges: (m, N) int32.
            picked: (L,) rows that are picked already and not counted yet.
            picked_edges: (L, N) int32.
        """
        self.count(describe_picks(picked_edges, self.trust[picked]))
        trusted = scale_by_trust(edges.data, np.repeat(self.trust[rows], np.diff(edges.indptr)))
        rises = np.maximum(trusted - self.covered[edges.indices], 0)
        values = sum_rows(rises, edges)
        nearest = picked_edges[:, rows].max(axis=0).toarray().ravel() if len(picked) else np.zeros(len(rows))
        return CoverHotSet(rows, CoverCandidates(edges, values, nearest.astype(np.int32)), self)

    def count(self, update: CoverUpdate) -> None:
        """Count picks, as every shard does."""
        np.maximum.at(self.covered, update.columns, update.trusted)


class CoverHotSet:
    """Candidates and the part of the pool that they touch.

    Args:
        rows: (m,) rows of the pool.
        candidates: what the shards know of them.
        objective: trust, repulsion, and how well the pool is covered before.
    """

    def __init__(self, rows: Rows, candidates: CoverCandidates, objective: Cover) -> None:
        order = np.argsort(rows)  # so that the first of equal priorities is of the lowest row
        self._rows, self._edges = rows[order], candidates.edges[order]
        self._values, self._nearest = candidates.values[order], candidates.nearest[order]
        self._trust, self._lambda_div = objective.trust[self._rows], objective.lambda_div
        self._costs = None if objective.costs is None else objective.costs[self._rows]
        self._num_pool = len(objective.covered)
        self._is_open = np.ones(len(rows), dtype=bool)
        self._is_whole = is_whole(self._edges)
        if self._is_whole:
            touched, self._columns = np.arange(self._num_pool), self._edges.indices
            self._trusted = scale_rows(self._edges.data.reshape(self._edges.shape), self._trust)
        else:
            touched, self._columns = _number_columns(self._edges.indices, self._num_pool)
            numbered = self._edges.data, self._columns, self._edges.indptr
            self._covering = transpose_trusted(sparse.csr_array(numbered, shape=(len(rows), len(touched))), self._trust)
        self._covered = objective.covered[touched]
        self._places = self._place_in_hot_set(touched)
        self._weigh()

    def find_best(self) -> tuple[float, int]:
        """Return priority and row of the best open row."""
        place = int(self._priorities.argmax())
        return float(self._priorities[place]), int(self._rows[place])

    def pick(self, row: int) -> Terms:
        """Count a row as picked; return its gain.

        The coverage term is the rise of F if the candidate were fully trusted, the alignment term what its lack of
        trust takes away, the diversity term its repulsion by the nearest pick.
        """
        place = int(np.searchsorted(self._rows, row))
        span = slice(self._edges.indptr[place], self._edges.indptr[place + 1])
        columns, kernel = self._columns[span], self._edges.data[span]
        before = self._covered[columns]
        full = int(np.maximum(kernel - before, 0).sum(dtype=np.int64))
        trusted = scale_by_trust(kernel, self._trust[place])
        rise = int(np.maximum(trusted - before, 0).sum(dtype=np.int64))
        repulsion = int(repel(self._nearest[place : place + 1], self._lambda_div)[0])
        self._cover(columns[trusted > before], before[trusted > before], trusted[trusted > before])
        near = self._places[columns]
        is_hot = near >= 0
        np.maximum.at(self._nearest, near[is_hot], kernel[is_hot])
        self._is_open[place] = False
        self._weigh()
        scale = UNIT * self._num_pool
        return full / scale, 0.0 - repulsion / scale, (rise - full) / scale

    def close(self, rows: Rows) -> None:
        """Close rows."""
        self._is_open[np.isin(self._rows, rows)] = False
        self._weigh()

    def describe(self, rows: Sequence[int]) -> CoverUpdate:
        """Return the edges of rows."""
        places = np.searchsorted(self._rows, rows)
        return describe_picks(self._edges[places], self._trust[places])

    def _cover(self, columns: npt.NDArray[np.int32], before: Whole, after: Whole) -> None:
        if self._is_whole:
            near = self._trusted if len(columns) == self._num_pool else self._trusted[:, columns]
            self._values -= measure_loss(near, before, after).sum(axis=1)
            self._covered[columns] = after
            return
        starts = self._covering.indptr[columns]
        lengths = self._covering.indptr[columns + 1] - starts
        edges = expand_ranges(starts, lengths)
        lost = measure_loss(self._covering.data[edges], np.repeat(before, lengths), np.repeat(after, lengths))
        np.subtract.at(self._values, self._covering.indices[edges], lost)
        self._covered[columns] = after

    def _place_in_hot_set(self, pool_rows: Rows) -> Rows:
        places = np.minimum(np.searchsorted(self._rows, pool_rows), len(self._rows) - 1)
        return np.where(self._rows[places] == pool_rows, places, -1)

    def _weigh(self) -> None:
        self._priorities = (self._values - repel(self._nearest, self._lambda_div)).astype(np.float64)
        if self._costs is not None:
            self._priorities /= self._costs
        self._priorities[~self._is_open] = -np.inf


def _number_columns(columns: npt.NDArray[np.int32], num_pool: int) -> tuple[Rows, npt.NDArray[np.int32]]:
    """Return the distinct columns, rising, and the number among them of each column; no sorting, for many repeat."""
    is_touched = np.zeros(num_pool, dtype=bool)
    is_touched[columns] = True
    touched = np.flatnonzero(is_touched)
    numbers = np.empty(num_pool, dtype=np.int32)
    numbers[touched] = np.arange(len(touched), dtype=np.int32)
    return touched, numbers[columns]
