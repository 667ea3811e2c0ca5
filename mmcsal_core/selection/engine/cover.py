"""Coverage of the pool on a sparse kernel as an objective of the engine, in whole numbers.

F(S) = 1/N sum_i max_{j in S} trust_j k(i, j): weighted facility location, monotone and submodular, so greedy reaches
1 - 1/e of the optimum (Nemhauser, Wolsey & Fisher 1978). The value of a candidate is the rise of F that its pick would
bring, less a repulsion by the nearest pick. Both are held for every row and corrected when a pick covers its neighbours
better: a row improves two or three times in all. On a whole kernel every pick would change all values; there a value is
an upper bound until its row is proposed, and is computed anew then (Minoux 1978).

A kernel that is held on neighbours says nothing of pairs further away. The floor of a row is the value up to which the
kernel does not know who covers it; only what rises above it counts.

Kernel values are whole multiples of 2^-30. Sums of whole numbers do not depend on their order, so corrected values
equal recomputed ones, and any number of shards gives the same bits. A rounded value is off by 5e-10 at most.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse

from mmcsal_core.neighbors.vectors import Floats, Rows, iter_blocks
from mmcsal_core.neighbors.whole_kernel import Sums, Whole, scale_by_trust
from mmcsal_core.selection.engine.proposals import Proposal, propose_top

BLOCK_EDGES = 4_000_000
"""Edges worked on together, about."""

BLOCK_WHOLE = 500_000
"""Values of a whole kernel worked on together: what a core's cache holds."""


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
        self._floor = np.zeros(kernel.shape[1], dtype=np.int32) if floor is None else floor
        self._covered = self._floor.copy()
        self._is_whole = is_whole(kernel)
        if self._is_whole:
            self._trusted = scale_rows(kernel.data.reshape(kernel.shape), trust)
            self._values = self._measure_values(np.arange(self.num_rows))
        else:
            self._covering = transpose_trusted(kernel, trust)
            self._values = self._sum_rises()
        self._is_stale = np.zeros(self.num_rows, dtype=bool)
        self._nearest = np.zeros(self.num_rows, dtype=np.int32)
        self._is_open = np.ones(self.num_rows, dtype=bool)
        self._close(closed)

    def propose(self, num_rows: int) -> Proposal:
        """Return the best open rows."""
        proposal = propose_top(self._weigh(), self.first_row, num_rows)
        while len(stale := self._list_stale(proposal.rows - self.first_row)):
            self._values[stale], self._is_stale[stale] = self._measure_values(stale), False
            proposal = propose_top(self._weigh(), self.first_row, num_rows)
        return proposal

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
        if self._is_whole:
            self._is_stale[:] = True
        else:
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
        sums = np.zeros(self.num_rows, dtype=np.int64)
        for block, edges in iter_row_blocks(self._kernel):
            candidates = np.repeat(np.arange(block.start, block.stop), count_edges(self._kernel, block))
            own, rows = cells[self.first_row + candidates], self._kernel.indices[edges]
            is_inside = (own == cells[rows]) & (own >= 0)
            candidates, rows = candidates[is_inside], rows[is_inside]
            trusted = scale_by_trust(self._kernel.data[edges][is_inside], self._trust[candidates])
            rises = np.maximum(trusted - self._floor[rows], 0)
            sums[block] = np.bincount(candidates - block.start, rises, block.stop - block.start).astype(np.int64)
        return sums

    def read_values(self) -> Sums:
        """Return the rise of F that each own row would bring, in units of 2^-30 rows, (n,) int64."""
        return self._measure_values(np.arange(self.num_rows)) if self._is_whole else self._values

    @staticmethod
    def join(parts: Sequence[CoverCandidates], order: Rows) -> CoverCandidates:
        """Join what several shards fetched."""
        edges = sparse.vstack([part.edges for part in parts], format="csr")
        values = np.concatenate([part.values for part in parts])
        return CoverCandidates(edges[order], values[order], np.concatenate([part.nearest for part in parts])[order])

    def _weigh(self) -> Floats:
        """Return what own rows are worth (n,), at most, -inf where they may not be picked."""
        priorities = (self._values - repel(self._nearest, self._lambda_div)).astype(np.float64)
        if self._costs is not None:
            priorities /= self._costs
        priorities[~self._is_open] = -np.inf
        return priorities

    def _list_stale(self, own: Rows) -> Rows:
        return own[self._is_stale[own]]

    def _sum_rises(self) -> Sums:
        """Return the values of all own rows, from the transposed kernel."""
        values = np.zeros(self.num_rows, dtype=np.int64)
        for block, edges in iter_row_blocks(self._covering):
            rises = self._covering.data[edges] - np.repeat(self._covered[block], count_edges(self._covering, block))
            values += np.bincount(self._covering.indices[edges], np.maximum(rises, 0), self.num_rows).astype(np.int64)
        return values

    def _measure_values(self, own: Rows) -> Sums:
        """Return the values of some own rows, from the whole kernel."""
        values = np.empty(len(own), dtype=np.int64)
        for block in iter_blocks(len(own), max(1, BLOCK_WHOLE // self._trusted.shape[1])):
            rises = self._trusted[own[block]] - self._covered
            values[block] = np.maximum(rises, 0, out=rises).sum(axis=1, dtype=np.int64)
        return values

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


def iter_row_blocks(graph: sparse.csr_array) -> Iterator[tuple[slice, slice]]:
    """Yield consecutive rows of about `BLOCK_EDGES` edges together, and the span of these edges."""
    num_rows = graph.shape[0]
    for block in iter_blocks(num_rows, max(1, BLOCK_EDGES * num_rows // max(1, graph.nnz))):
        yield block, slice(int(graph.indptr[block.start]), int(graph.indptr[block.stop]))


def count_edges(graph: sparse.csr_array, block: slice) -> Rows:
    """Return the number of edges of each row of a block."""
    return np.asarray(np.diff(graph.indptr[block.start : block.stop + 1]))


def is_whole(kernel: sparse.csr_array) -> bool:
    """Say whether a kernel holds all of its values, so that its data are a matrix."""
    return bool(kernel.has_sorted_indices and 0 < kernel.nnz == kernel.shape[0] * kernel.shape[1])


def scale_rows(kernel: Whole, trust: Floats) -> Whole:
    """Return each row (n, N) scaled by the trust in its candidate (n,); the same array where all are trusted."""
    if (trust == 1.0).all():
        return kernel
    scaled = np.empty_like(kernel)
    for block in iter_blocks(len(kernel), max(1, BLOCK_WHOLE // kernel.shape[1])):
        scaled[block] = scale_by_trust(kernel[block], trust[block, None])
    return scaled


def transpose_trusted(kernel: sparse.csr_array, trust: Floats) -> sparse.csr_array:
    """Return (N, n): for every row of the pool, the candidates near it and what they would cover of it."""
    trusted = np.empty(kernel.nnz, dtype=np.int32)
    for block, edges in iter_row_blocks(kernel):
        trusted[edges] = scale_by_trust(kernel.data[edges], np.repeat(trust[block], count_edges(kernel, block)))
    return sparse.csr_array((trusted, kernel.indices, kernel.indptr), shape=kernel.shape).T.tocsr()
