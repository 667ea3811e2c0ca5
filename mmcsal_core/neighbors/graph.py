"""The pair kernel on a k-nearest-neighbour graph: the only N x N thing that selection ever holds, and it is sparse.

Edges are the union of all relations' neighbours, taken in both directions, and every pair's edge to itself.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from scipy import sparse

from mmcsal_core.neighbors.config import KernelConfig
from mmcsal_core.neighbors.index import NO_NEIGHBOR
from mmcsal_core.neighbors.kernel import compute_kernel
from mmcsal_core.neighbors.relations import Relation, measure_bandwidth
from mmcsal_core.neighbors.vectors import Rows
from mmcsal_core.neighbors.whole_kernel import to_whole


def build_graph(
    relations: Sequence[Relation], neighbors: Iterable[Rows], config: KernelConfig, seed: int
) -> sparse.csr_array:
    """Compute the pair kernel on the union of k-nearest-neighbour lists.

    Args:
        relations: what the kernel is made of, over N pairs.
        neighbors: lists (N, K) of rows, `NO_NEIGHBOR` where there is none; K may differ.
        config: the rank that sets the bandwidths.
        seed: of the sample of rows behind the bandwidths.

    Returns:
        (N, N) int32 multiples of 2^-30, symmetric, sorted columns, the diagonal k(i, i) stored.
    """
    upper = union_edges(neighbors, len(relations[0].queries))
    left = np.repeat(np.arange(upper.shape[0], dtype=np.int32), np.diff(upper.indptr))
    bandwidths = [measure_bandwidth(relation, config.bandwidth_neighbor, seed) for relation in relations]
    values = to_whole(compute_kernel(relations, bandwidths, (left, upper.indices)))
    is_off = left != upper.indices
    strict = sparse.csr_array((values * is_off, upper.indices, upper.indptr), shape=upper.shape)
    graph = sparse.csr_array((values, upper.indices, upper.indptr), shape=upper.shape) + strict.T.tocsr()
    graph.sort_indices()
    return graph


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
