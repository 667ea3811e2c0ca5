"""The `maxherding` baseline: greedy generalised coverage with a Gaussian kernel on the concatenated embeddings.

Bae, Noh & Sutherland, "Generalized Coverage for More Robust Low-Budget Active Learning" (arXiv 2407.12212). The kernel
is held on k-nearest-neighbour edges and its bandwidth is taken from the pool, as for `mmcsal`.
"""

from mmcsal_core.neighbors.graph import build_graph
from mmcsal_core.neighbors.index import find_rows
from mmcsal_core.neighbors.relations import Relation
from mmcsal_core.selection.coreset import Picks, Request
from mmcsal_core.selection.covering import cover_greedily
from mmcsal_core.selection.engine.cover import round_graph
from mmcsal_core.selection.pool import Pool


def select_maxherding(pool: Pool, request: Request) -> Picks:
    """Pick the row that raises the mean best kernel value most, again and again."""
    config = request.config
    relation = Relation("joint", pool.joint, pool.joint, 1.0)
    neighbors = find_rows(pool.joint, pool.joint, config.search)
    kernel = build_graph([relation], [neighbors], config.kernel, request.seed)
    return cover_greedily(round_graph(kernel), request, "maxherding")
