"""The `maxherding` baseline: greedy generalised coverage with a Gaussian kernel on the concatenated embeddings.

Bae, Noh & Sutherland, "Generalized Coverage for More Robust Low-Budget Active Learning" (arXiv 2407.12212). The kernel
is held on k-nearest-neighbour edges and its bandwidth is taken from the pool, as for `mmcsal`.
"""

import numpy as np

from mmcsal_core.neighbors.graph import build_graph
from mmcsal_core.neighbors.index import find_rows
from mmcsal_core.neighbors.relations import Relation
from mmcsal_core.selection.coreset import Picks, Request
from mmcsal_core.selection.greedy import CoverState, greedy_cover
from mmcsal_core.selection.pool import Pool


def select_maxherding(pool: Pool, request: Request) -> Picks:
    """Pick the row that raises the mean best kernel value most, again and again."""
    config = request.config
    relation = Relation("joint", pool.joint, pool.joint, 1.0)
    neighbors = find_rows(pool.joint, pool.joint, config.search)
    kernel = build_graph([relation], [neighbors], config.kernel, request.seed)
    state = CoverState(kernel, np.ones(pool.num_pairs), 0.0)
    for row in request.labelled.tolist():
        state.add_pick(row)
    candidates = np.setdiff1d(np.arange(pool.num_pairs), request.labelled)
    return greedy_cover(state, candidates, request.budget)
