"""Neighbourhoods: what a pair and the pairs nearest to it have in common, in each space.

A single pair's vector is its class's plus much of its own, and in high dimensions its own part outweighs the rest, so
that the distance of two pairs says little of their classes. The mean over a pair's nearest pairs keeps what they share.
Nearest is by the whole pair kernel, so that one modality tidies up another. One step of mean shift (Fukunaga &
Hostetler 1975; Comaniciu & Meer 2002); more steps merge small classes into large ones.
"""

from collections.abc import Mapping

import numpy as np
from scipy import sparse

from mmcsal_core.neighbors.index import NO_NEIGHBOR
from mmcsal_core.neighbors.vectors import Rows, Vectors, iter_blocks

BLOCK_ROWS = 4096
COLUMN_BITS = 32
"""Of a whole number that holds a kernel value above and a column below, so that edges are ranked by one key."""
MAX_COLUMN = 2**COLUMN_BITS - 1
MIN_LENGTH = 1e-6
"""A mean shorter than this has no direction."""


def list_nearest(graph: sparse.csr_array, size: int) -> Rows:
    """Return the rows that each row has its largest kernel values with, itself first of equals, then the lowest.

    Args:
        graph: (N, N) int32, symmetric, every row's edge to itself stored.
        size: rows wanted.

    Returns:
        (N, size) int64, `NO_NEIGHBOR` where a row has fewer edges.
    """
    nearest = np.full((graph.shape[0], size), NO_NEIGHBOR, dtype=np.int64)
    for row in range(graph.shape[0]):
        edges = slice(graph.indptr[row], graph.indptr[row + 1])
        columns = graph.indices[edges].astype(np.int64)
        first_of_equals = np.where(columns == row, 0, columns + 1)
        keys = (-graph.data[edges].astype(np.int64) << COLUMN_BITS) + first_of_equals
        if len(keys) > size:
            keys = np.partition(keys, size - 1)[:size]
        found = (np.sort(keys) & MAX_COLUMN) - 1
        nearest[row, : len(found)] = np.where(found < 0, row, found)
    return nearest


def average_neighborhoods(spaces: Mapping[str, Vectors], nearest: Rows) -> dict[str, Vectors]:
    """Return the direction of the mean over each row's neighbourhood, in every space.

    Args:
        spaces: (N, dim) float32 of unit length by name.
        nearest: (N, size) rows, `NO_NEIGHBOR` where there is none.

    Returns:
        (N, dim) float32 of unit length by name; a row whose neighbourhood cancels out keeps its own vector.
    """
    return {name: _average(vectors, nearest) for name, vectors in spaces.items()}


def _average(vectors: Vectors, nearest: Rows) -> Vectors:
    means = np.empty_like(vectors)
    for block in iter_blocks(len(vectors), BLOCK_ROWS):
        is_near = (nearest[block] != NO_NEIGHBOR).astype(np.float64)
        sums = np.einsum("nk,nkd->nd", is_near, vectors[nearest[block]].astype(np.float64))
        sums /= is_near.sum(axis=1, keepdims=True)
        lengths = np.linalg.norm(sums, axis=1, keepdims=True)
        means[block] = np.where(lengths < MIN_LENGTH, vectors[block], sums / np.maximum(lengths, MIN_LENGTH))
    return means
