"""From a fifth of the pool on, where the number of picks is known, only the backbones' own spaces count."""

from typing import Any

import numpy as np
import pytest

from mmcsal_core.neighbors import KernelConfig
from mmcsal_core.neighbors.vectors import Rows
from mmcsal_core.selection import select_coreset
from mmcsal_core.selection.engine.eligibility import NO_ROWS
from tests.core.constrained_pool import COSTS, LABELLED, MADE, NUM_PAIRS, configure, select

NEVER, ALWAYS = (KernelConfig(backbones_alone_from=share) for share in (2.0, 1e-9))
A_FIFTH = NUM_PAIRS // 5


def pick(kernel: KernelConfig, labelled: Rows = NO_ROWS, refine: str = "swap", **demands: Any) -> list[int]:
    fields = {name: demands.pop(name) for name in ("min_gain", "min_distance", "near_duplicates") if name in demands}
    return [int(row) for row in select(configure(kernel=kernel, refine=refine, **fields), labelled, **demands).indices]


def backbones_stand_alone(budget: int, labelled: Rows = NO_ROWS) -> bool:
    """Say whether the default picks as if backbones stood alone; else it must pick as if they never did."""
    default, never, always = (pick(kernel, labelled, budget=budget) for kernel in (KernelConfig(), NEVER, ALWAYS))
    assert never != always
    assert default in (never, always)
    return default == always


def test_a_fifth_of_the_pool_is_where_backbones_stand_alone() -> None:
    assert not backbones_stand_alone(A_FIFTH - 1)
    assert backbones_stand_alone(A_FIFTH)


def test_labelled_pairs_count_with_the_picks() -> None:
    assert not backbones_stand_alone(A_FIFTH - len(LABELLED) - 1, LABELLED)
    assert backbones_stand_alone(A_FIFTH - len(LABELLED), LABELLED)


@pytest.mark.parametrize(
    "demands",
    [
        {"budget": 60, "refine": "none"},
        {"budget": 60, "min_gain": 1e-4},
        {"min_gain": 1e-4},
        {"budget": 60, "min_distance": 0.05},
        {"min_distance": 0.2},
        {"budget_fraction": 0.9, "near_duplicates": {"threshold": 0.9}},
        {"budget": 60, "costs": COSTS, "cost_budget": 40.0},
    ],
    ids=[
        "strict greedy",
        "a least gain",
        "a least gain alone",
        "a least distance",
        "a least distance alone",
        "what near-duplicates leave",
        "a cost budget",
    ],
)
def test_where_prefixes_are_promised_or_the_number_is_not_known_all_relations_count(demands: dict[str, Any]) -> None:
    assert pick(ALWAYS, **demands) == pick(NEVER, **demands)


def test_without_backbone_features_all_relations_count() -> None:
    always, never = (
        select_coreset(MADE.embeddings, 60, config=configure(kernel=kernel, refine="swap")).indices
        for kernel in (ALWAYS, NEVER)
    )
    np.testing.assert_array_equal(always, never)
