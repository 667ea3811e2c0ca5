"""The couples of pairs whose kernel value is held: the edges of a neighbour graph, or, in small pools, all couples.

A distance on an edge depends on its two rows alone, and neither on their place in the pool nor on the direction of the
edge. All couples are multiplied at once in float64, hundreds of times faster a couple; the kernel is rounded far above
what that leaves undecided.
"""

from collections.abc import Iterable
from typing import Protocol

import numpy as np
from scipy import sparse

from mmcsal_core.neighbors.index import NO_NEIGHBOR
from mmcsal_core.neighbors.relations import Relation
from mmcsal_core.neighbors.vectors import Floats, Rows, iter_blocks
from mmcsal_core.neighbors.whole_kernel import to_whole

BLOCK_EDGES = 32_768
BLOCK_ROWS = 512


class Couples(Protocol):
    """Couples of rows i <= j of a pool, in an order of their own, or of all rows i and j."""

    def square_distances(self, relation: Relation) -> Floats:
        """Return d_r(i, j)^2 of every couple, (E,) in [0, 4]."""

    def make_graph(self, values: Floats) -> sparse.csr_array:
        """Return the kernel of the couples' values.

        Args:
            values: (E,) in [0, 1].

        Returns:
            (N, N) int32 multiples of 2^-30, symmetric, sorted columns.
        """


class EdgeCouples:
    """The distinct undirected edges of neighbour lists, and every row's edge to itself.

    Args:
        neighbors: lists (N, K) of rows, `NO_NEIGHBOR` where there is none; K may differ.
        num_rows: N.
    """

    def __init__(self, neighbors: Iterable[Rows], num_rows: int) -> None:
        self._upper = union_edges(neighbors, num_rows)
        self._left = np.repeat(np.arange(num_rows, dtype=np.int32), np.diff(self._upper.indptr))

    def square_distances(self, relation: Relation) -> Floats:
        """Return d_r(i, j)^2 of every edge, (E,)."""
        left, right = self._left, self._upper.indices
        squared = np.empty(len(left))
        for block in iter_blocks(len(left), BLOCK_EDGES):
            cosines = np.einsum("ed,ed->e", relation.queries[left[block]], relation.pool[right[block]])
            squared[block] = np.maximum(2.0 - 2.0 * cosines.astype(np.float64), 0.0)
        return squared

    def make_graph(self, values: Floats) -> sparse.csr_array:
        """Return the symmetric graph of the edges' values."""
        upper, whole = self._upper, to_whole(values)
        strict = sparse.csr_array((whole * (self._left != upper.indices), upper.indices, upper.indptr), upper.shape)
        graph = sparse.csr_array((whole, upper.indices, upper.indptr), upper.shape) + strict.T.tocsr()
        graph.sort_indices()
        return graph


class AllCouples:
    """Every row with every row; for pools of a few thousand.

    Args:
        num_rows: N.
    """

    def __init__(self, num_rows: int) -> None:
        self._num_rows = num_rows

    def square_distances(self, relation: Relation) -> Floats:
        """Return d_r(i, j)^2 row by row, (N * N,), exactly symmetric."""
        squared = np.empty((self._num_rows, self._num_rows))
        pool = relation.pool.astype(np.float64)
        for block in iter_blocks(self._num_rows, BLOCK_ROWS):
            found = np.maximum(2.0 - 2.0 * (relation.queries[block].astype(np.float64) @ pool[block.start :].T), 0.0)
            squared[block, block.start :] = found
            squared[block.start :, block] = found.T
            own = squared[block, block]
            squared[block, block] = np.triu(own) + np.triu(own, 1).T
        return squared.ravel()

    def make_graph(self, values: Floats) -> sparse.csr_array:
        """Return the graph of all values."""
        num_rows = self._num_rows
        starts = np.arange(num_rows + 1, dtype=np.int32) * num_rows
        columns = np.tile(np.arange(num_rows, dtype=np.int32), num_rows)
        return sparse.csr_array((to_whole(values), columns, starts), (num_rows, num_rows))


def union_edges(neighbors: Iterable[Rows], num_rows: int) -> sparse.csr_array:
    """Return the distinct undirected edges of k-nearest-neighbour lists, and every row's edge to itself.

    Args:
        neighbors: lists (N, K) of rows, `NO_NEIGHBOR` where there is none.
        num_rows: N.

    Returns:
        (N, N) bool, an edge between rows i <= j stored at (i, j), columns sorted.
    """
    union = sparse.eye_array(num_rows, dtype=bool, format="csr")
    for rows in neighbors:
        left = np.repeat(np.arange(num_rows, dtype=np.int32), rows.shape[1])
        right = rows.ravel().astype(np.int32)
        is_edge = right != NO_NEIGHBOR
        left, right = left[is_edge], right[is_edge]
        ends = (np.minimum(left, right), np.maximum(left, right))
        union = union + sparse.coo_array((np.ones(len(left), dtype=bool), ends), shape=union.shape).tocsr()
    union.sort_indices()
    return union
