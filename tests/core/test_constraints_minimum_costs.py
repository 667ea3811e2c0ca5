"""Quotas and a cost budget together, against every set of rows that keeps to both."""

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest

from mmcsal_core.errors import GateError
from mmcsal_core.neighbors.vectors import Floats, Rows
from mmcsal_core.selection.constraints.config import QuotaConfig
from mmcsal_core.selection.constraints.cost_budget import ROUNDING, CostBudget, hold_back
from mmcsal_core.selection.constraints.quotas import Groups, QuotaPlan, Quotas, group_rows, plan_quotas
from mmcsal_core.selection.engine.eligibility import NO_ROWS, Eligibility

NUM_ROWS, BUDGET = 11, 6
QUOTAS = [
    {"minimum": {"z": 1}},
    {"minimum": {"x": 2, "z": 2}},
    {"exact": {"y": 2}, "minimum": {"z": 1}, "maximum": {"x": 3}},
    {"minimum": {"x": 2, "y": 2, "z": 2}},
    {"maximum": {"x": 2}},
]
SETS = (np.arange(2**NUM_ROWS)[:, None] >> np.arange(NUM_ROWS)) & 1 == 1
"""(2^N, N): every set of rows."""


def find_kept(planned: QuotaPlan, costs: Floats, money: float, is_open: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Return every set of open rows that keeps to the quotas and can be paid for, (S, N)."""
    counts = np.stack([(SETS & (planned.groups.codes == group)).sum(axis=1) for group in range(3)], axis=1)
    is_kept = ((planned.least <= counts) & (counts <= planned.most)).all(axis=1)
    is_kept &= (SETS.sum(axis=1) <= BUDGET) & (SETS @ costs <= money) & ~(SETS & ~is_open).any(axis=1)
    return np.asarray(SETS[is_kept])


def make_case(seed: int, quotas: dict[str, dict[str, int]]) -> tuple[QuotaConfig, Groups, Floats]:
    rng = np.random.default_rng(seed)
    groups = group_rows("kind", pa.chunked_array([[*"xxyyzz", *rng.choice(list("xyz"), NUM_ROWS - 6).tolist()]]))
    return QuotaConfig.model_validate({"column": "kind", **quotas}), groups, rng.integers(1, 9, NUM_ROWS).astype(float)


def begin(planned: QuotaPlan, costs: Floats, money: float, closed: Rows = NO_ROWS) -> Eligibility:
    return Eligibility(len(costs), closed, [Quotas(planned), CostBudget(costs, money, planned)])


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("quotas", QUOTAS)
def test_a_row_is_open_just_where_some_set_with_it_and_the_picks_keeps_to_everything(
    seed: int, quotas: dict[str, dict[str, int]]
) -> None:
    config, groups, costs = make_case(seed, quotas)
    rng = np.random.default_rng(seed + 100)
    is_open, money = np.arange(NUM_ROWS) != rng.integers(6, NUM_ROWS), float(rng.integers(8, 30))
    planned = plan_quotas(config, groups, is_open, BUDGET)
    kept = find_kept(planned, costs, money, is_open)
    if len(kept) == 0:
        with pytest.raises(GateError, match="cost at least"):
            hold_back(planned, is_open, costs, money)
        return
    planned = hold_back(planned, is_open, costs, money)
    eligibility, picks = begin(planned, costs, money, np.flatnonzero(~is_open)), np.zeros(NUM_ROWS, dtype=bool)
    while True:
        with_picks = kept[kept[:, picks].all(axis=1)]
        np.testing.assert_array_equal(eligibility.is_open, with_picks.any(axis=0) & ~picks)
        if not eligibility.is_open.any():
            break
        row = int(rng.choice(np.flatnonzero(eligibility.is_open)))
        eligibility.take(row)
        picks[row] = True
    planned.check_met(np.flatnonzero(picks))


def test_greed_leaves_the_money_that_a_dear_minimum_needs() -> None:
    groups = group_rows("kind", pa.chunked_array([["a"] * 9 + ["z"] * 3]))
    costs = np.array([1.0] * 9 + [7.0, 5.0, 6.0])
    config = QuotaConfig.model_validate({"column": "kind", "minimum": {"z": 1}})
    is_open = np.ones(12, dtype=bool)
    planned = hold_back(plan_quotas(config, groups, is_open, 8), is_open, costs, 10.0)
    for order, expected in (
        (np.arange(12), [0, 1, 2, 3, 4, 10]),
        (np.arange(12)[::-1], [11, 8, 7, 6, 5]),
    ):
        assert begin(planned, costs, 10.0).take_in_order(order, 8) == expected


def test_money_held_back_to_the_last_cent_is_there_for_whom_it_is_held() -> None:
    rng = np.random.default_rng(0)
    groups = group_rows("kind", pa.chunked_array([["a"] * 20 + ["z"] * 20]))
    config = QuotaConfig.model_validate({"column": "kind", "minimum": {"z": 10}})
    is_open = np.ones(40, dtype=bool)
    for _ in range(50):
        costs = rng.integers(1, 40, 40) / 10
        money = float(np.sort(costs[20:])[:10].sum() + np.sort(costs[:20])[:5].sum())
        planned = hold_back(plan_quotas(config, groups, is_open, 30), is_open, costs, money)
        order = np.lexsort((costs, groups.codes))
        picks = np.array(begin(planned, costs, money).take_in_order(order, 30), dtype=np.int64)
        planned.check_met(picks)
        assert costs[picks].sum() == pytest.approx(money)


def test_what_is_spent_to_the_last_digit_leaves_what_is_held_back() -> None:
    groups = group_rows("kind", pa.chunked_array([["a", "a", "z"]]))
    config = QuotaConfig.model_validate({"column": "kind", "minimum": {"a": 1, "z": 1}})
    is_open, money = np.ones(3, dtype=bool), 1.2
    for price in np.random.default_rng(0).uniform(0.8, 1, 50):
        spare = money * (1 + ROUNDING) - (price + 0.1)
        costs = np.array([price, price + spare, 0.1])
        planned = hold_back(plan_quotas(config, groups, is_open, 2), is_open, costs, money)
        assert begin(planned, costs, money).take_in_order(np.array([1, 2, 0]), 2) == [1, 2]


def test_minimums_that_cost_too_much_are_named_with_what_they_cost() -> None:
    groups = group_rows("kind", pa.chunked_array([["a"] * 5 + ["y"] * 2 + ["z"] * 3]))
    costs = np.array([1.0] * 5 + [0.5, 2.0] + [7.0, 5.0, 6.0])
    config = QuotaConfig.model_validate({"column": "kind", "minimum": {"z": 2, "y": 1}})
    is_open = np.ones(10, dtype=bool)
    planned = plan_quotas(config, groups, is_open, 8)
    words = r"cost at least 11\.5 and cost_budget is 11: 'z' 11 for 2 pairs; 'y' 0.5 for 1 pairs; raise"
    with pytest.raises(GateError, match=words):
        hold_back(planned, is_open, costs, 11.0)
    assert hold_back(planned, is_open, costs, 11.5).held.tolist() == [5, 8, 9]
    is_open[8] = False
    with pytest.raises(GateError, match=r"cost at least 13\.5 and cost_budget is 11\.5: 'z' 13 for 2 pairs"):
        hold_back(planned, is_open, costs, 11.5)
