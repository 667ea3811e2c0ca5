"""The pair kernel on given couples: all relations between two pairs in one similarity.

    product: k(i, j) = exp(- sum_r w_r d_r(i, j)^2 / s_r / sum_r w_r)     near in all relations together
    sum:     k(i, j) = sum_r w_r exp(- d_r(i, j)^2 / s_r) / sum_r w_r     near in any relation

The uni-modal and cross-modal distances of Shen et al., "Enhancing Modality Representation and Alignment for Multimodal
Cold-start Active Learning" (arXiv 2412.09126), in one similarity; both forms are reconstructions. The bandwidth s_r is
taken per relation, so that a constant gap between two modalities cannot drown the cross-modal relation.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from scipy import sparse

from mmcsal_core.neighbors.config import KernelConfig
from mmcsal_core.neighbors.couples import Couples
from mmcsal_core.neighbors.relations import Relation, measure_bandwidth
from mmcsal_core.neighbors.vectors import Floats
from mmcsal_core.neighbors.whole_kernel import Whole, to_whole


def compute_kernel(
    couples: Couples, relations: Sequence[Relation], config: KernelConfig, seed: int
) -> sparse.csr_array:
    """Compute the pair kernel on couples.

    Args:
        couples: of N pairs.
        relations: at least one, over the couples' pool.
        config: form and bandwidths.
        seed: of the sample of rows behind the bandwidths.

    Returns:
        (N, N) int32 multiples of 2^-30, symmetric, sorted columns.
    """
    bandwidths = [measure_bandwidth(relation, config.bandwidth_neighbor, seed) for relation in relations]
    weights = [relation.weight for relation in relations]

    def combine(distances: Iterable[Floats]) -> Whole:
        total: Floats | float = 0.0
        for squared, bandwidth, weight in zip(distances, bandwidths, weights, strict=True):
            scaled = np.divide(squared, bandwidth, out=squared)
            if config.form == "sum":
                np.exp(-scaled, out=scaled)
            total = total + np.multiply(scaled, weight, out=scaled)
        mean = np.asarray(total / sum(weights))
        return to_whole(mean if config.form == "sum" else np.exp(-mean))

    return couples.make_graph(relations, combine)
