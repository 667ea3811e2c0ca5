"""Sparse symmetric kernels made of the exact distances of the concatenated embeddings.

A distance is computed from the two rows' difference in float64, so its bits depend on these rows alone and neither on
their place in the pool nor on the direction of the edge.
"""

import faiss
import numpy as np
from scipy import sparse

from mmcsal_core.neighbors.config import NeighborConfig
from mmcsal_core.neighbors.couples import union_edges
from mmcsal_core.neighbors.index import SEARCH_ROWS, Index, find_rows
from mmcsal_core.neighbors.vectors import Floats, Rows, Vectors, iter_blocks
from mmcsal_core.neighbors.whole_kernel import round_graph

COSINE_SLACK = 1e-5
"""Rounding of a float32 cosine, at most: a search by cosine finds every row of a ball and a few more."""


def find_neighbor_edges(joint: Vectors, config: NeighborConfig) -> tuple[Rows, Rows]:
    """Return the edges to k nearest neighbours, rows i (E,) and j (E,) with i <= j, each row's own edge among them."""
    upper = union_edges([find_rows(joint, joint, config)], len(joint))
    return np.repeat(np.arange(len(joint)), np.diff(upper.indptr)), upper.indices.astype(np.int64)


def find_ball_edges(joint: Vectors, radius: float, max_edges: int) -> tuple[Rows, Rows] | None:
    """Return all edges of rows that are about as near as `radius`, rows i (E,) and j (E,) with i <= j.

    A search is of `SEARCH_ROWS` rows in a part of the pool so small that it finds `max_edges` at most, or a million
    where that is more. Searches of fewer rows in the whole pool are ten times slower: FAISS uses no BLAS for them.

    Args:
        joint: (N, D) float32 of unit length.
        radius: of the balls.
        max_edges: E, at most.

    Returns:
        None where there are more edges than `max_edges`.
    """
    threshold = 1.0 - radius**2 / 2 - COSINE_SLACK
    lefts, rights, num_edges = [], [], 0
    for tile in iter_blocks(len(joint), max(1, max_edges // SEARCH_ROWS**2) * SEARCH_ROWS):
        index = faiss.IndexFlatIP(joint.shape[1])
        index.add(joint[tile])
        for block in iter_blocks(tile.stop, SEARCH_ROWS):
            left, right = _search_ball(index, joint, block, threshold)
            is_upper = left <= right + tile.start
            lefts.append(left[is_upper])
            rights.append(right[is_upper] + tile.start)
            num_edges += len(lefts[-1])
            if num_edges > max_edges:
                return None
    return np.concatenate(lefts), np.concatenate(rights)


def _search_ball(index: Index, joint: Vectors, block: slice, threshold: float) -> tuple[Rows, Rows]:
    """Return the edges from a block of rows to rows of an index whose cosine is above a threshold."""
    limits, _, right = index.range_search(joint[block], threshold)
    return np.repeat(np.arange(block.start, block.stop), np.diff(limits).astype(np.int64)), right


def make_kernel(values: Floats, edges: tuple[Rows, Rows], num_rows: int) -> sparse.csr_array:
    """Make a symmetric kernel for the engine.

    Args:
        values: (E,) in [0, 1].
        edges: rows i (E,) and j (E,) with i <= j, distinct.
        num_rows: N.

    Returns:
        (N, N) int32 multiples of 2^-30, sorted columns.
    """
    left, right = edges
    is_off = left != right
    rows, columns = np.concatenate([left, right[is_off]]), np.concatenate([right, left[is_off]])
    kernel = sparse.coo_array(
        (np.concatenate([values, values[is_off]]), (rows, columns)), shape=(num_rows, num_rows)
    ).tocsr()
    kernel.sort_indices()
    return round_graph(kernel)
