"""The `maxherding` baseline: greedy generalised coverage with the authors' Gaussian kernel.

Bae, Noh & Sutherland, "Generalized Coverage for More Robust Low-Budget Active Learning" (ECCV 2024, arXiv 2407.12212),
with the kernel of their code: exp(-d^2 / l^2) between unit vectors, l = 1 whatever the pool. They hold all N^2 values
and draw 35 000 candidates from a larger pool; here every row is a candidate, and the kernel is held on k-nearest-
neighbour edges, a row counting as covered up to its value at the K-th. At l = 1 the kernel is far from 0 there, so a
larger `search.num_neighbors` comes nearer to the paper; with the whole pool for neighbours it is the paper's.
"""

import numpy as np

from mmcsal_core.selection.cells import measure_distances
from mmcsal_core.selection.coreset import Picks, Request
from mmcsal_core.selection.covering import cover_greedily
from mmcsal_core.selection.horizon import find_horizon
from mmcsal_core.selection.joint_graph import find_neighbor_edges, make_kernel
from mmcsal_core.selection.pool import Pool


def select_maxherding(pool: Pool, request: Request) -> Picks:
    """Pick the row that raises the mean best kernel value most, again and again."""
    config = request.config
    edges = find_neighbor_edges(pool.joint, config.search)
    distances = measure_distances(pool.joint, *edges)
    values = np.exp(-((distances / config.baselines.maxherding_lengthscale) ** 2))
    kernel = make_kernel(values, edges, pool.num_pairs)
    horizon = find_horizon(kernel, config.search.count_neighbors(pool.num_pairs), config.kernel.horizon)
    return cover_greedily(kernel, request, "maxherding", horizon)
