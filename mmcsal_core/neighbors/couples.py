"""The couples of pairs whose kernel value is held: the edges of a neighbour graph, or, in small pools, all couples.

A distance on an edge depends on its two rows alone, and neither on their place in the pool nor on the direction of the
edge. All couples are multiplied at once in float64, hundreds of times faster a couple; the kernel is rounded far above
what that leaves undecided.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, TypeAlias

import numpy as np
from scipy import sparse

from mmcsal_core.neighbors.config import KernelConfig, NeighborConfig
from mmcsal_core.neighbors.index import NO_NEIGHBOR, find_rows
from mmcsal_core.neighbors.relations import Relation
from mmcsal_core.neighbors.vectors import Floats, Rows, Vectors, iter_blocks
from mmcsal_core.neighbors.whole_kernel import Whole

BLOCK_EDGES = 32_768
BLOCK_ROWS = 128

Combine: TypeAlias = Callable[[Iterable[Floats]], Whole]
"""Given some couples' squared distances in one relation after the other, returns their kernel values."""


class Couples(Protocol):
    """Couples of rows of a pool."""

    def make_graph(self, relations: Sequence[Relation], combine: Combine) -> sparse.csr_array:
        """Return the kernel of the couples, computed a block at a time.

        Args:
            relations: over the pool.
            combine: makes kernel values, multiples of 2^-30, of squared distances in [0, 4]; it may write into these.

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

    def make_graph(self, relations: Sequence[Relation], combine: Combine) -> sparse.csr_array:
        """Return the symmetric graph of the edges."""
        upper, whole = self._upper, np.empty(len(self._left), dtype=np.int32)
        for block in iter_blocks(len(whole), BLOCK_EDGES):
            whole[block] = combine(self._square_distances(relation, block) for relation in relations)
        strict = sparse.csr_array((whole * (self._left != upper.indices), upper.indices, upper.indptr), upper.shape)
        graph = sparse.csr_array((whole, upper.indices, upper.indptr), upper.shape) + strict.T.tocsr()
        graph.sort_indices()
        return graph

    def _square_distances(self, relation: Relation, block: slice) -> Floats:
        """Return d_r(i, j)^2 of a block of edges, each from its two rows alone."""
        left, right = self._left[block], self._upper.indices[block]
        cosines = np.einsum("ed,ed->e", relation.queries[left], relation.pool[right])
        return np.asarray(np.maximum(2.0 - 2.0 * cosines.astype(np.float64), 0.0))


class AllCouples:
    """Every row with every row; for pools of up to some ten thousand.

    Args:
        num_rows: N.
    """

    def __init__(self, num_rows: int) -> None:
        self._num_rows = num_rows

    def make_graph(self, relations: Sequence[Relation], combine: Combine) -> sparse.csr_array:
        """Return the graph of all couples, exactly symmetric."""
        num_rows = self._num_rows
        whole = np.empty((num_rows, num_rows), dtype=np.int32)
        sides = [(each.queries.astype(np.float64), each.pool.astype(np.float64).T) for each in relations]
        for block in iter_blocks(num_rows, BLOCK_ROWS):
            upper = combine(_square_distances(queries[block], pool[:, block.start :]) for queries, pool in sides)
            whole[block, block.start :], whole[block.start :, block] = upper, upper.T
            own = whole[block, block]
            whole[block, block] = np.triu(own) + np.triu(own, 1).T
        index_type = np.int32 if num_rows**2 < 2**31 else np.int64
        starts = np.arange(num_rows + 1, dtype=index_type) * num_rows
        columns = np.tile(np.arange(num_rows, dtype=index_type), num_rows)
        return sparse.csr_array((whole.ravel(), columns, starts), (num_rows, num_rows))


def _square_distances(queries: Floats, pool: Floats) -> Floats:
    squared = queries @ pool
    squared *= -2.0
    squared += 2.0
    return np.maximum(squared, 0.0, out=squared)


def open_couples(vectors: Vectors, config: KernelConfig, search: NeighborConfig) -> tuple[Couples, int]:
    """Return the couples that a kernel of one space is held on, and how many neighbours of each row these reach.

    Args:
        vectors: (N, D) float32 of unit length.
        config: up to what size a kernel is held whole.
        search: how neighbours are found in larger pools.
    """
    num_rows = len(vectors)
    if num_rows <= config.max_dense_pairs:
        return AllCouples(num_rows), num_rows - 1
    neighbors = find_rows(vectors, vectors, search)
    return EdgeCouples([neighbors], num_rows), neighbors.shape[1]


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
