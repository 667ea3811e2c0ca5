"""The pair kernel as a symmetric sparse graph: the only N x N thing that selection ever holds.

In large pools it is held on the union of all relations' neighbours; pools of a few thousand hold it whole.
"""

from collections.abc import Iterable, Sequence

from scipy import sparse

from mmcsal_core.neighbors.config import KernelConfig
from mmcsal_core.neighbors.couples import EdgeCouples
from mmcsal_core.neighbors.kernel import compute_kernel
from mmcsal_core.neighbors.relations import Relation
from mmcsal_core.neighbors.vectors import Rows


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
    couples = EdgeCouples(neighbors, len(relations[0].queries))
    return couples.make_graph(compute_kernel(couples, relations, config, seed))
