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


class KernelSum:
    """Relations added up on couples, some first and others later.

    Args:
        couples: E of them.
        config: form and bandwidths.
        seed: of the sample of rows behind the bandwidths.
    """

    def __init__(self, couples: Couples, config: KernelConfig, seed: int) -> None:
        self._couples, self._config, self._seed = couples, config, seed
        self._total: Floats | float = 0.0
        self._weight = 0.0

    def add(self, relations: Sequence[Relation]) -> None:
        """Add relations, each scaled by its bandwidth."""
        for relation in relations:
            bandwidth = measure_bandwidth(relation, self._config.bandwidth_neighbor, self._seed)
            scaled = self._couples.square_distances(relation)
            scaled /= bandwidth
            if self._config.form == "sum":
                np.exp(-scaled, out=scaled)
            scaled *= relation.weight
            self._total = self._total + scaled
            self._weight += relation.weight

    def compute(self) -> Floats:
        """Return the kernel values, (E,) float64 in [0, 1]."""
        mean = np.asarray(self._total / self._weight)
        return mean if self._config.form == "sum" else np.exp(-mean)
