"""The pair kernel k(i, j) = sum_r w_r exp(-d_r(i, j)^2 / s_r) / sum_r w_r, computed exactly on given edges.

The uni-modal and cross-modal distances of Shen et al., "Enhancing Modality Representation and Alignment for Multimodal
Cold-start Active Learning" (arXiv 2412.09126), in one similarity; this form is a reconstruction. The bandwidth s_r is
taken per relation, so that a constant gap between two modalities cannot drown the cross-modal relation.
"""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from mmcsal_core.neighbors.relations import Relation
from mmcsal_core.neighbors.vectors import Floats, iter_blocks

BLOCK_EDGES = 32_768

Edges: TypeAlias = tuple[npt.NDArray[np.integer], npt.NDArray[np.integer]]
"""Rows i (E,) and rows j (E,)."""


def compute_kernel(relations: Sequence[Relation], bandwidths: Sequence[float], edges: Edges) -> Floats:
    """Compute the pair kernel on edges.

    Args:
        relations: at least one, over N pairs.
        bandwidths: s_r > 0 of each relation.
        edges: rows i (E,) and rows j (E,).

    Returns:
        (E,) float64 in [0, 1].
    """
    left, right = edges
    kernel = np.zeros(len(left))
    for relation, bandwidth in zip(relations, bandwidths, strict=True):
        for block in iter_blocks(len(left), BLOCK_EDGES):
            cosines = np.einsum("ed,ed->e", relation.queries[left[block]], relation.pool[right[block]])
            squared = np.maximum(2.0 - 2.0 * cosines.astype(np.float64), 0.0)
            kernel[block] += relation.weight * np.exp(-squared / bandwidth)
    return kernel / sum(relation.weight for relation in relations)
