"""The pair kernel on given couples: all relations between two pairs in one similarity.

    product: k(i, j) = exp(- sum_r w_r d_r(i, j)^2 / s_r / sum_r w_r)     near in all relations together
    sum:     k(i, j) = sum_r w_r exp(- d_r(i, j)^2 / s_r) / sum_r w_r     near in any relation

The uni-modal and cross-modal distances of Shen et al., "Enhancing Modality Representation and Alignment for Multimodal
Cold-start Active Learning" (arXiv 2412.09126), in one similarity; both forms are reconstructions. The bandwidth s_r is
taken per relation, so that a constant gap between two modalities cannot drown the cross-modal relation.
"""

from collections.abc import Sequence

import numpy as np

from mmcsal_core.neighbors.config import KernelConfig
from mmcsal_core.neighbors.couples import Couples
from mmcsal_core.neighbors.relations import Relation, measure_bandwidth
from mmcsal_core.neighbors.vectors import Floats


def compute_kernel(couples: Couples, relations: Sequence[Relation], config: KernelConfig, seed: int) -> Floats:
    """Compute the pair kernel on couples.

    Args:
        couples: E of them.
        relations: at least one, over the couples' pool.
        config: form and bandwidths.
        seed: of the sample of rows behind the bandwidths.

    Returns:
        (E,) float64 in [0, 1].
    """
    total: Floats | float = 0.0
    for relation in relations:
        scaled = couples.square_distances(relation)
        scaled /= measure_bandwidth(relation, config.bandwidth_neighbor, seed)
        if config.form == "sum":
            np.exp(-scaled, out=scaled)
        scaled *= relation.weight
        total = total + scaled
    mean = np.asarray(total / sum(relation.weight for relation in relations))
    return mean if config.form == "sum" else np.exp(-mean)
