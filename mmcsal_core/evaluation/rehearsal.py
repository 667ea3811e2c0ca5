"""Try every contestant on a few made pairs, so that what cannot be asked of one is said before anything is done."""

from collections.abc import Mapping, Sequence

import numpy as np

from mmcsal_core.evaluation.config import Contestant
from mmcsal_core.neighbors.vectors import Vectors, scale_to_unit
from mmcsal_core.selection.constraints.demands import Demands, settle_demands
from mmcsal_core.selection.coreset import Request
from mmcsal_core.selection.engine.eligibility import NO_ROWS
from mmcsal_core.selection.pool import make_pool
from mmcsal_core.selection.strategies import select_from_pool

NUM_PAIRS, DIM, BUDGET = 8, 3, 2


def rehearse_contest(contestants: Sequence[Contestant], modalities: Sequence[str], *, has_spaces: bool) -> None:
    """Let each contestant pick two of eight made pairs.

    Args:
        contestants: of the contest.
        modalities: by name.
        has_spaces: whether the backbones' own spaces will be there.

    Raises:
        ConfigError: a contestant cannot choose from pairs of such modalities.
    """
    rng = np.random.default_rng(0)
    made = scale_to_unit({name: rng.normal(size=(NUM_PAIRS, DIM)) for name in modalities})
    for contestant in contestants:
        _rehearse(contestant, made, made if has_spaces else {})


def _rehearse(contestant: Contestant, made: Mapping[str, Vectors], spaces: Mapping[str, Vectors]) -> None:
    config = contestant.config
    short = config.model_copy(update={"continuous": config.continuous.model_copy(update={"num_steps": 0})})
    pool = make_pool(made, {}, None, spaces, config.modality_weights)
    settled = settle_demands(pool, NO_ROWS, short, Demands(BUDGET))
    select_from_pool(pool, Request(settled.budget, NO_ROWS, 0, short, settled.constraints))
