"""The `random` baseline: a uniform draw without replacement, the reference of every budgeted selection."""

import numpy as np

from mmcsal_core.selection.coreset import Picks, Request, collect_picks
from mmcsal_core.selection.pool import Pool


def select_random(pool: Pool, request: Request) -> Picks:
    """Draw rows uniformly; a smaller budget under the same seed draws a prefix. The gains are 0."""
    eligibility = request.constraints.begin(pool.num_pairs, request.labelled)
    candidates = np.flatnonzero(eligibility.is_open)
    drawn = eligibility.take_in_order(np.random.default_rng(request.seed).permutation(candidates), request.budget)
    return collect_picks(drawn, "random", [(0.0, 0.0, 0.0)] * len(drawn))
