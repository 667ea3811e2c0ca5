"""The `maxherding` baseline: greedy generalised coverage with the authors' Gaussian kernel.

Bae, Noh & Sutherland, "Generalized Coverage for More Robust Low-Budget Active Learning" (ECCV 2024, arXiv 2407.12212),
with the kernel of their code: exp(-d^2 / l^2) between unit vectors, l = 1 whatever the pool. They hold all N^2 values
and draw 35 000 candidates from a larger pool; here every row is a candidate. In large pools the kernel is held on
k-nearest-neighbour edges, a row counting as covered up to its value at the K-th. At l = 1 the kernel is far from 0
there, so a larger `search.num_neighbors` or `kernel.max_dense_pairs` comes nearer to the paper.
"""

from collections.abc import Iterable

import numpy as np

from mmcsal_core.neighbors.couples import open_couples
from mmcsal_core.neighbors.relations import Relation
from mmcsal_core.neighbors.vectors import Floats
from mmcsal_core.neighbors.whole_kernel import Whole, to_whole
from mmcsal_core.selection.coreset import Picks, Request
from mmcsal_core.selection.covering import cover_greedily
from mmcsal_core.selection.horizon import find_horizon
from mmcsal_core.selection.pool import Pool


def select_maxherding(pool: Pool, request: Request) -> Picks:
    """Pick the row that raises the mean best kernel value most, again and again."""
    config = request.config
    squared_length = config.baselines.maxherding_lengthscale**2

    def combine(distances: Iterable[Floats]) -> Whole:
        (squared,) = distances
        return to_whole(np.exp(-squared / squared_length))

    couples, num_near = open_couples(pool.joint, config.kernel, config.search)
    kernel = couples.make_graph([Relation("joint", pool.joint, pool.joint, 1.0)], combine)
    return cover_greedily(kernel, request, "maxherding", find_horizon(kernel, num_near, config.kernel.horizon))
