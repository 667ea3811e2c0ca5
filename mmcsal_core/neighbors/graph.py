"""Kernels as symmetric sparse graphs: the only N x N things that selection ever holds.

Pools of up to `KernelConfig.max_dense_pairs` hold a kernel whole, larger ones on the union of neighbour lists.
"""

from collections.abc import Iterable, Sequence

from scipy import sparse

from mmcsal_core.neighbors.config import KernelConfig, NeighborConfig
from mmcsal_core.neighbors.couples import AllCouples, Couples, EdgeCouples
from mmcsal_core.neighbors.index import find_rows
from mmcsal_core.neighbors.kernel import compute_kernel
from mmcsal_core.neighbors.relations import Relation
from mmcsal_core.neighbors.vectors import Rows, Vectors


def build_graph(
    relations: Sequence[Relation], neighbors: Iterable[Rows], config: KernelConfig, seed: int
) -> sparse.csr_array:
    """Compute the pair kernel on the union of k-nearest-neighbour lists.

    Args:
        relations: what the kernel is made of, over N pairs.
        neighbors: lists (N, K) of rows, `NO_NEIGHBOR` where there is none; K may differ.
        config: form and bandwidths.
        seed: of the sample of rows behind the bandwidths.

    Returns:
        (N, N) int32 multiples of 2^-30, symmetric, sorted columns, the diagonal k(i, i) stored.
    """
    return compute_kernel(EdgeCouples(neighbors, len(relations[0].queries)), relations, config, seed)


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
