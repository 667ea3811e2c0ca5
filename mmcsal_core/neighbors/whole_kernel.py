"""Kernel values in whole numbers: multiples of 2^-30, whose sums do not depend on their order."""

from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import sparse

from mmcsal_core.neighbors.vectors import Floats

UNIT = 2**30
"""A kernel value of 1. Values are int32, and their sums int64."""

Whole: TypeAlias = npt.NDArray[np.int32]
Sums: TypeAlias = npt.NDArray[np.int64]


def to_whole(kernel: Floats) -> Whole:
    """Round kernel values in [0, 1] to whole multiples of 2^-30."""
    return np.rint(kernel * UNIT).astype(np.int32)


def round_graph(kernel: sparse.csr_array) -> sparse.csr_array:
    """Round a sparse kernel with values in [0, 1]; edges that come to 0 stay."""
    return sparse.csr_array((to_whole(kernel.data), kernel.indices, kernel.indptr), shape=kernel.shape)


def scale_by_trust(kernel: Whole, trust: Floats) -> Whole:
    """Scale each kernel value by the trust in the candidate that it belongs to."""
    return np.rint(kernel * trust).astype(np.int32)
