"""The `random` baseline: a uniform draw without replacement, the reference of every budgeted selection."""

import numpy as np

from mmcsal_core.selection.coreset import Picks, Request, collect_picks
from mmcsal_core.selection.pool import Pool


def select_random(pool: Pool, request: Request) -> Picks:
    """Draw rows uniformly; a smaller budget under the same seed draws a prefix. The gains are 0."""
    candidates = np.setdiff1d(np.arange(pool.num_pairs), request.labelled)
    drawn = np.random.default_rng(request.seed).permutation(candidates)[: request.budget]
    return collect_picks(drawn.tolist(), "random", [(0.0, 0.0, 0.0)] * len(drawn))
