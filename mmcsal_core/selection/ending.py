"""How a selection ends: by its budget, by a gain too small, by constraints, or because no pick gains anything.

The last befalls a pool of exact duplicates: whatever is left is a copy of a pick. Such pairs fill the budget up in the
order of their rows, with gain 0 and the phase `exhausted`, unless the configuration says to stop.
"""

import numpy as np

from mmcsal_core.selection.constraints.demands import is_distance_the_gain
from mmcsal_core.selection.coreset import EndedBy, Ending, Picks, Request, collect_picks

EXHAUSTED = "exhausted"


def end_selection(picks: Picks, request: Request, num_rows: int) -> tuple[Picks, Ending]:
    """Say why a strategy made no more picks, and fill up where it could gain nothing.

    Args:
        picks: of the strategy.
        request: what was asked of it.
        num_rows: N.
    """
    at_budget: EndedBy = "constraints" if request.constraints.leave_fewer else "budget"
    if len(picks.indices) == request.budget:
        return picks, Ending(at_budget)
    eligibility = request.constraints.resume(num_rows, request.labelled, picks.indices)
    open_rows = np.flatnonzero(eligibility.is_open)
    if len(open_rows) == 0 or _ends_by_distance(request):
        return picks, Ending("constraints")
    if request.config.min_gain is not None:
        return picks, Ending("min_gain")
    exhausted_at = len(picks.indices)
    if request.config.when_exhausted == "stop":
        return picks, Ending("exhausted", exhausted_at)
    filled = eligibility.take_in_order(open_rows, request.budget - exhausted_at)
    whole = picks.followed_by(collect_picks(filled, EXHAUSTED, [(0.0, 0.0, 0.0)] * len(filled)))
    return whole, Ending(at_budget if len(whole.indices) == request.budget else "constraints", exhausted_at)


def _ends_by_distance(request: Request) -> bool:
    """Say whether it is the minimum distance that a gain was too small for."""
    config = request.config
    if config.min_distance is None or not is_distance_the_gain(config, request.constraints.costs):
        return False
    return config.min_distance >= (config.min_gain or 0.0)
