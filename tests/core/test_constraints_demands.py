"""What is asked of the picks beside a strategy: costs, near-duplicates, quotas and minimum distances together."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from mmcsal_core.errors import GateError
from mmcsal_core.selection.config import Strategy
from mmcsal_core.selection.constraints.config import QuotaConfig
from mmcsal_core.selection.constraints.demands import Demands, settle_demands
from mmcsal_core.selection.constraints.quotas import group_rows
from mmcsal_core.selection.coreset import Request
from mmcsal_core.selection.engine.eligibility import NO_ROWS
from mmcsal_core.selection.pool import make_pool
from mmcsal_core.selection.strategies import select_from_pool
from tests.core.constrained_pool import COSTS, LABELLED, NUM_PAIRS, POOL, configure, quotas, select


def test_the_unit_of_costs_changes_no_pick_whatever_a_labelled_pair_costs() -> None:
    picked = []
    for unit in (1.0, 1000.0):
        costs = COSTS * unit
        costs[LABELLED] = 1.0
        picked.append(select(configure(), LABELLED, budget=30, costs=costs))
    np.testing.assert_array_equal(picked[0].indices, picked[1].indices)
    assert picked[0].phases == picked[1].phases


def test_no_pair_is_dearer_for_losing_less() -> None:
    config = configure(lambda_div=1.0, diversity_threshold=0.0)
    coreset = select(config, budget=100, costs=np.where(np.arange(NUM_PAIRS) % 2, 10.0, 1.0))
    covered = coreset.gains[np.array(coreset.phases) == "coverage"]
    assert len(covered) < 100
    assert covered.min() > 0


def test_of_near_duplicates_one_that_can_be_afforded_is_picked() -> None:
    vectors = np.concatenate([POOL.joint[:50], POOL.joint[:1]])
    pool, costs = make_pool({"image": vectors}), np.ones(51)
    costs[0] = 100
    config = configure(strategy="k_center", near_duplicates={"threshold": 0.999})
    settled = settle_demands(pool, NO_ROWS, config, Demands(costs=costs, cost_budget=60))
    assert settled.near_duplicates is not None
    assert settled.near_duplicates.leaders[0] == 50
    picks = select_from_pool(pool, Request(settled.budget, NO_ROWS, 0, config, settled.constraints)).indices
    assert sorted(picks) == list(range(1, 51))


@pytest.mark.parametrize("strategy", ["random", "k_center"])
def test_what_lies_too_near_a_label_counts_for_no_minimum(strategy: Strategy) -> None:
    angles = np.radians([0, 1, 90, 180, 270])  # the second is too near the first, which is labelled
    pool = make_pool({"image": np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)})
    labelled, groups = np.array([0]), group_rows("kind", pa.chunked_array([list("abbaa")]))
    config = configure(strategy=strategy, min_distance=0.1)
    costs = np.array([1.0, 1.0, 5.0, 3.0, 3.0])

    def settle(least: int, budget: int) -> Any:
        quota = QuotaConfig(column="kind", minimum={"b": least})
        wanted = Demands(budget, costs=costs, cost_budget=6, divides_gain=False, quotas=quota, groups=groups)
        return settle_demands(pool, labelled, config, wanted)

    with pytest.raises(GateError, match=r"kind 'b' needs 2 pairs and has 1: 1 too many; .* min_distance"):
        settle(2, 2)
    settled = settle(1, 1)
    picks = select_from_pool(pool, Request(settled.budget, labelled, 0, config, settled.constraints)).indices
    assert picks.tolist() == [2]


def test_a_maximum_that_holds_nothing_back_refuses_nothing() -> None:
    costs = np.where(np.arange(NUM_PAIRS) < 100, 50.0, 0.1)
    wanted: dict[str, Any] = {"budget": 60, "costs": costs, "cost_budget": 40.0, "divides_gain": False}
    free = select(configure(strategy="k_center"), **wanted)
    loose = select(configure(strategy="k_center"), **wanted, **quotas(maximum={"a": 120}))
    assert (len(loose.indices), loose.ended_by) == (20, "constraints")
    np.testing.assert_array_equal(loose.indices, free.indices)
    with pytest.raises(GateError, match=r"let \d+ pairs be picked and the budget is 60: .* or cost_budget"):
        select(configure(strategy="k_center"), **wanted, **quotas(balance="equal"))


def test_ended_by_is_the_budget_only_where_the_number_asked_for_was_reached() -> None:
    grouped = configure(strategy="k_center", near_duplicates={"threshold": 0.9})
    num_leading = len(select(grouped, budget_fraction=1.0).indices)
    assert num_leading < 100
    maximum = quotas(maximum={"a": 10})
    for config, demands, expected in (
        (grouped, {"budget_fraction": 1.0}, "constraints"),
        (grouped, {"budget_fraction": num_leading / NUM_PAIRS}, "budget"),
        (grouped, {"budget": num_leading}, "budget"),
        (configure(strategy="kmeans"), {"budget_fraction": 1.0}, "budget"),
        (configure(strategy="k_center"), {"costs": COSTS, "cost_budget": 1e6}, "constraints"),
        (configure(strategy="k_center"), maximum, "constraints"),
    ):
        assert select(config, **demands).ended_by == expected
    dear: dict[str, Any] = {
        "costs": np.where(np.arange(NUM_PAIRS) < 90, 50.0, 0.1),
        "cost_budget": 40.0,
        "divides_gain": False,
    }
    shared = select(configure(strategy="random"), budget_fraction=0.5, **dear, **quotas(maximum={"a": 119}))
    assert (len(shared.indices), shared.ended_by) == (30, "constraints")


def test_of_near_duplicates_one_that_may_be_picked_leads() -> None:
    angles = np.radians([0, 4, 7, 180])  # the second lies too near the first, which is labelled, and near the third
    pool = make_pool({"image": np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)})
    groups = group_rows("kind", pa.chunked_array([list("abca")]))
    barred = QuotaConfig(column="kind", maximum={"b": 0})
    near = {"threshold": float(np.cos(np.radians(3.5)))}
    for labelled, fields, demands in (
        ([0], {"min_distance": float(2 * np.sin(np.radians(2.2))), "near_duplicates": near}, Demands(2)),
        ([], {"near_duplicates": near}, Demands(2, quotas=barred, groups=groups)),
    ):
        config, rows = configure(strategy="random", **fields), np.array(labelled, dtype=np.int64)
        settled = settle_demands(pool, rows, config, demands)
        assert settled.near_duplicates is not None
        assert settled.near_duplicates.leaders[2] == 2, labelled
