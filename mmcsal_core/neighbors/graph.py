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
        (N, N) float64, symmetric, sorted columns, the diagonal k(i, i) always stored.
    """
    num_rows = len(relations[0].queries)
    left, right = union_edges(neighbors, num_rows)
    bandwidths = [measure_bandwidth(relation, config.bandwidth_neighbor, seed) for relation in relations]
    values = compute_kernel(relations, bandwidths, (left, right))
    is_off = left != right
    graph = sparse.coo_array(
        (
            np.concatenate([values, values[is_off]]),
            (np.concatenate([left, right[is_off]]), np.concatenate([right, left[is_off]])),
        ),
        shape=(num_rows, num_rows),
    ).tocsr()
    graph.sort_indices()
    return graph


def union_edges(neighbors: Iterable[Rows], num_rows: int) -> tuple[Rows, Rows]:
    """Return the distinct undirected edges of k-nearest-neighbour lists, and every row's edge to itself.

    Args:
        neighbors: lists (N, K) of rows, `NO_NEIGHBOR` where there is none.
        num_rows: N.

    Returns:
        rows i (E,) and rows j (E,) with i <= j, sorted.
    """
    own = np.arange(num_rows, dtype=np.int64)
    codes = [own * num_rows + own]
    for rows in neighbors:
        left, right = np.repeat(own, rows.shape[1]), rows.ravel()
        left, right = left[right != NO_NEIGHBOR], right[right != NO_NEIGHBOR]
        codes.append(np.minimum(left, right) * num_rows + np.maximum(left, right))
    merged = np.sort(np.concatenate(codes))
    distinct = merged[np.concatenate([[True], merged[1:] != merged[:-1]])]
    return distinct // num_rows, distinct % num_rows
