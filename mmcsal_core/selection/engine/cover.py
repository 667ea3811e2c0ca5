"""Coverage of the pool on a sparse kernel as an objective of the engine, in whole numbers.

F(S) = 1/N sum_i max_{j in S} trust_j k(i, j): weighted facility location, monotone and submodular, so greedy reaches
1 - 1/e of the optimum (Nemhauser, Wolsey & Fisher 1978). The value of a candidate is the rise of F that its pick would
bring, less a repulsion by the nearest pick. Both are held for every row and corrected when a pick covers its neighbours
better: a row improves two or three times in all.

A kernel that is held on neighbours says nothing of pairs further away. The floor of a row is the value up to which the
kernel does not know who covers it; only what rises above it counts.

Kernel values are whole multiples of 2^-30. Sums of whole numbers do not depend on their order, so corrected values
equal recomputed ones, and any number of shards gives the same bits. A rounded value is off by 5e-10 at most.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import sparse

from mmcsal_core.neighbors.vectors import Floats, Rows, iter_blocks
from mmcsal_core.selection.engine.lazy_blocks import Terms
from mmcsal_core.selection.engine.proposals import Proposal, propose_top

UNIT = 2**30
"""A kernel value of 1. Values are int32, and their sums int64."""

BLOCK_EDGES = 4_000_000
"""Edges corrected together, about."""

Whole: TypeAlias = npt.NDArray[np.int32]
Sums: TypeAlias = npt.NDArray[np.int64]


def to_whole(kernel: Floats) -> Whole:
    """Round kernel values in [0, 1] to whole multiples of 2^-30."""
    return np.rint(kernel * UNIT).astype(np.int32)


def round_graph(kernel: sparse.csr_array) -> sparse.csr_array:
    """Round a sparse kernel with values in [0, 1]; edges that come to 0 stay."""
    return sparse.csr_array((to_whole(kernel.data), kernel.indices, kernel.indptr), shape=kernel.shape)


def scale_by_trust(kernel: Whole, trust: Floats) -> Whole:
    """Scale each kernel value by the trust in the candidate that it belongs to."""
    return np.rint(kernel * trust).astype(np.int32)


@dataclass(frozen=True, eq=False)
class CoverUpdate:
    """Picks as every shard needs to know them: the edges of each.

    Args:
        columns: (E,) rows of the pool that are neighbours of a pick.
        kernel: (E,) their kernel value with it.
        trusted: (E,) the same, scaled by the trust in the pick.
    """

    columns: npt.NDArray[np.int32]
    kernel: Whole
    trusted: Whole


@dataclass(frozen=True, eq=False)
class CoverCandidates:
    """What a hot set needs to know of m rows: edges (m, N), values (m,) and kernel value with the nearest pick (m,)."""

    edges: sparse.csr_array
    values: Sums
    nearest: Whole


class CoverShard:
    """Consecutive candidates, and how well every row of the pool is covered.

    Args:
        kernel: (n, N) int32, the shard's rows of the symmetric kernel.
        first_row: row of the pool that `kernel[0]` is.
        trust: (n,) in [0, 1].
        lambda_div: weight of the repulsion.
        closed: rows of the pool that may not be picked.
        costs: (n,) above 0; None where all cost the same.
        floor: (N,) how well every row of the pool counts as covered before the first pick; None for not at all.
    """

    def __init__(
        self,
        kernel: sparse.csr_array,
        first_row: int,
        *,
        trust: Floats,
        lambda_div: float,
        closed: Rows,
        costs: Floats | None = None,
        floor: Whole | None = None,
    ) -> None:
        self.first_row, self.num_rows = first_row, kernel.shape[0]
        self._kernel, self._trust, self._lambda_div, self._costs = kernel, trust, lambda_div, costs
        self._covering = _transpose_trusted(kernel, trust)
        self._floor = np.zeros(kernel.shape[1], dtype=np.int32) if floor is None else floor
        self._covered = self._floor.copy()
        rises = np.maximum(self._covering.data - np.repeat(self._covered, np.diff(self._covering.indptr)), 0)
        self._values = np.bincount(self._covering.indices, rises, self.num_rows).astype(np.int64)
        self._nearest = np.zeros(self.num_rows, dtype=np.int32)
        self._is_open = np.ones(self.num_rows, dtype=bool)
        self._close(closed)

    def propose(self, num_rows: int) -> Proposal:
        """Return the best open rows."""
        priorities = (self._values - repel(self._nearest, self._lambda_div)).astype(np.float64)
        if self._costs is not None:
            priorities /= self._costs
        priorities[~self._is_open] = -np.inf
        return propose_top(priorities, self.first_row, num_rows)

    def fetch(self, rows: Rows) -> CoverCandidates:
        """Return edges, values and nearness of rows."""
        own = rows - self.first_row
        return CoverCandidates(self._kernel[own], self._values[own], self._nearest[own])

    def apply(self, update: CoverUpdate, closed: Rows) -> None:
        """Count picks and close rows."""
        improved = np.unique(update.columns)
        before = self._covered[improved]
        np.maximum.at(self._covered, update.columns, update.trusted)
        after = self._covered[improved]
        is_better = after > before
        self._lower_values(improved[is_better], before[is_better], after[is_better])
        own = update.columns.astype(np.int64) - self.first_row
        is_own = (own >= 0) & (own < self.num_rows)
        np.maximum.at(self._nearest, own[is_own], update.kernel[is_own])
        self._close(closed)

    def sum_inside(self, cells: Rows) -> Sums:
        """Sum by how much each own row, if it were picked, would cover the rows of its own cell above the floor.

        Args:
            cells: (N,) cell of every row of the pool, below 0 where it is in none.

        Returns:
            (n,) int64.
        """
        candidates = np.repeat(np.arange(self.num_rows), np.diff(self._kernel.indptr))
        own = cells[self.first_row + candidates]
        is_inside = (own == cells[self._kernel.indices]) & (own >= 0)
        candidates, rows = candidates[is_inside], self._kernel.indices[is_inside]
        trusted = scale_by_trust(self._kernel.data[is_inside], self._trust[candidates])
        rises = np.maximum(trusted - self._floor[rows], 0)
        return np.bincount(candidates, rises, minlength=self.num_rows).astype(np.int64)

    def read_values(self) -> Sums:
        """Return the rise of F that each own row would bring, in units of 2^-30 rows, (n,) int64."""
        return self._values

    @staticmethod
    def join(parts: Sequence[CoverCandidates], order: Rows) -> CoverCandidates:
        """Join what several shards fetched."""
        edges = sparse.vstack([part.edges for part in parts], format="csr")
        values = np.concatenate([part.values for part in parts])
        return CoverCandidates(edges[order], values[order], np.concatenate([part.nearest for part in parts])[order])

    def _lower_values(self, improved: npt.NDArray[np.integer], before: Whole, after: Whole) -> None:
        """Take from every candidate what the improvement of its neighbours costs it."""
        starts, stops = self._covering.indptr[improved], self._covering.indptr[improved + 1]
        rows_together = max(1, int(BLOCK_EDGES * len(improved) / max(1, int((stops - starts).sum()))))
        for block in iter_blocks(len(improved), rows_together):
            lengths = stops[block] - starts[block]
            edges = expand_ranges(starts[block], lengths)
            lost = measure_loss(
                self._covering.data[edges], np.repeat(before[block], lengths), np.repeat(after[block], lengths)
            )
            self._values -= np.bincount(self._covering.indices[edges], lost, self.num_rows).astype(np.int64)

    def _close(self, rows: Rows) -> None:
        own = rows - self.first_row
        self._is_open[own[(own >= 0) & (own < self.num_rows)]] = False


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

    def measure_coverage(self) -> float:
        """Return F of the picks so far."""
        return float((self.covered - self.floor).sum(dtype=np.int64)) / UNIT / len(self.covered)


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
        touched, columns = np.unique(self._edges.indices, return_inverse=True)
        shape = (len(rows), len(touched))
        self._columns = columns
        self._covering = _transpose_trusted(
            sparse.csr_array((self._edges.data, columns, self._edges.indptr), shape=shape), self._trust
        )
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

    def _cover(self, columns: Rows, before: Whole, after: Whole) -> None:
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


def describe_picks(edges: sparse.csr_array, trust: Floats) -> CoverUpdate:
    """Describe picks by their edges (p, N) and the trust in them (p,)."""
    trusted = scale_by_trust(edges.data, np.repeat(trust, np.diff(edges.indptr)))
    return CoverUpdate(edges.indices, edges.data, trusted)


def sum_rows(values: Whole, edges: sparse.csr_array) -> Sums:
    """Sum a value an edge over each row's edges."""
    sums = np.concatenate([[0], np.cumsum(values, dtype=np.int64)])
    return np.asarray(sums[edges.indptr[1:]] - sums[edges.indptr[:-1]])


def repel(nearest: Whole, lambda_div: float) -> Sums:
    """Return the repulsion of rows by their nearest pick."""
    return np.asarray(np.rint(lambda_div * nearest), dtype=np.int64)


def measure_loss(kernel: Whole, before: Whole, after: Whole) -> Sums:
    """Return by how much edges are worth less, since their far ends are covered better: `after` >= `before`."""
    return np.asarray(np.clip(kernel, before, after) - before, dtype=np.int64)


def expand_ranges(starts: Rows, lengths: Rows) -> Rows:
    """Return start, start + 1, ... of every range, one after the other."""
    offsets = np.repeat(starts - np.cumsum(lengths) + lengths, lengths)
    return np.asarray(offsets + np.arange(len(offsets)))


def _transpose_trusted(kernel: sparse.csr_array, trust: Floats) -> sparse.csr_array:
    """Return (N, n): for every row of the pool, the candidates near it and what they would cover of it."""
    trusted = scale_by_trust(kernel.data, np.repeat(trust, np.diff(kernel.indptr)))
    return sparse.csr_array((trusted, kernel.indices, kernel.indptr), shape=kernel.shape).T.tocsr()
