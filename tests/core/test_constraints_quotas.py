"""Quotas: shares, feasibility, and greedy under them against the same greedy with the check spelled out."""

import itertools
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest

from mmcsal_core.errors import ConfigError, DataError, GateError
from mmcsal_core.neighbors.vectors import Rows
from mmcsal_core.selection.constraints.config import QuotaConfig
from mmcsal_core.selection.constraints.quotas import (
    Groups,
    QuotaPlan,
    Quotas,
    group_rows,
    plan_quotas,
    share_out,
)
from mmcsal_core.selection.engine.eligibility import Eligibility

LETTERS = "abcd"


def make_groups(seed: int, num_rows: int = 60) -> Groups:
    rng = np.random.default_rng(seed)
    letters = rng.choice(list(LETTERS), num_rows, p=[0.5, 0.3, 0.15, 0.05])
    return group_rows("kind", pa.chunked_array([letters.tolist()]))


def plan(config: QuotaConfig, groups: Groups, budget: int | None) -> QuotaPlan:
    return plan_quotas(config, groups, np.ones(len(groups.codes), dtype=bool), budget)


def pick_plainly(order: Rows, groups: Groups, config: QuotaConfig, budget: int) -> list[int]:
    """Take rows in order, each only if the quotas can still be kept with it: counted out for every row."""
    names = [groups.names[code] for code in groups.codes]
    least = {**config.minimum, **config.exact}
    most = {**config.maximum, **config.exact}
    picks: list[int] = []
    for row in order.tolist():
        counts = Counter(names[pick] for pick in [*picks, row])
        missing = sum(max(0, number - counts[name]) for name, number in least.items())
        if counts[names[row]] <= most.get(names[row], budget) and len(picks) + 1 + missing <= budget:
            picks.append(row)
    return picks


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(
    "quotas",
    [
        {"maximum": {"a": 3, "b": 2}},
        {"minimum": {"c": 4, "d": 1}},
        {"exact": {"a": 2, "c": 3}},
        {"exact": {"b": 0}, "minimum": {"c": 3}, "maximum": {"a": 9, "c": 4}},
        {"minimum": {"a": 4, "b": 4, "c": 4}},
    ],
)
def test_the_rule_picks_what_a_plain_count_of_every_row_picks(seed: int, quotas: dict[str, dict[str, int]]) -> None:
    groups, config = make_groups(seed), QuotaConfig.model_validate({"column": "kind", **quotas})
    order = np.random.default_rng(seed + 100).permutation(60)
    rules = [Quotas(plan(config, groups, 12))]
    picks = Eligibility(60, rules=rules).take_in_order(order, 12)
    assert picks == pick_plainly(order, groups, config, 12)
    assert len(picks) == 12


@pytest.mark.parametrize("seed", range(4))
def test_balance_shares_the_whole_budget_out(seed: int) -> None:
    groups = make_groups(seed)
    for balance, budget in itertools.product(("equal", "proportional"), (1, 7, 30, 60)):
        config = QuotaConfig.model_validate({"column": "kind", "balance": balance})
        rules = [Quotas(plan(config, groups, budget))]
        picks = Eligibility(60, rules=rules).take_in_order(np.arange(60), budget)
        counts, sizes = groups.count(np.array(picks)), groups.count(np.arange(60))
        assert counts.sum() == budget
        if balance == "proportional":
            assert (np.abs(counts - budget * sizes / 60) < 1).all()
        else:  # nobody has two more than another who could have more
            assert all(counts[g] >= counts.max() - 1 or counts[g] == sizes[g] for g in range(len(sizes)))


def test_proportional_shares_are_those_of_the_largest_remainders() -> None:
    wanted = np.array([3.6, 2.3, 1.9, 0.2])  # sums to 8: floors 3 2 1 0, then remainders .9 and .6
    low, high = share_out(wanted, np.zeros(4, dtype=np.int64), np.full(4, 9), 8)
    assert low.tolist() == high.tolist() == [4, 2, 2, 0]


def test_of_equal_remainders_no_group_is_preferred() -> None:
    groups = group_rows("kind", pa.chunked_array([list("aabbccdd")]))
    config = QuotaConfig(column="kind", balance="equal")
    order = np.array([6, 7, 4, 5, 2, 3, 0, 1])
    for budget, expected in ((2, [6, 4]), (3, [6, 4, 2]), (4, [6, 4, 2, 0]), (6, [6, 7, 4, 5, 2, 0])):
        planned = plan(config, groups, budget)
        assert Eligibility(8, rules=[Quotas(planned)]).take_in_order(order, budget) == expected
    assert (plan(config, groups, 6).least.tolist(), plan(config, groups, 6).most.tolist()) == ([1] * 4, [2] * 4)
    low, high = share_out(np.array([2.0, 2.0, 3.0]), np.zeros(3, dtype=np.int64), np.full(3, 9), 5)
    assert (low.tolist(), high.tolist()) == ([1, 1, 2], [2, 2, 2])  # 1.43, 1.43 and 2.14


def test_what_a_capped_group_leaves_is_shared_out_in_proportion() -> None:
    groups = group_rows("kind", pa.chunked_array([["a"] * 900 + ["b"] * 90 + ["c"] * 10]))
    capped = QuotaConfig(column="kind", balance="proportional", maximum={"a": 40})
    assert plan(capped, groups, 100).least.tolist() == [40, 54, 6]
    raised = QuotaConfig(column="kind", balance="proportional", minimum={"c": 10})
    assert plan(raised, groups, 100).least.tolist() == [82, 8, 10]


@pytest.mark.parametrize("seed", range(20))
def test_shares_within_limits_are_those_of_one_level_for_all_groups(seed: int) -> None:
    rng = np.random.default_rng(seed)
    weights = rng.integers(1, 500, 7).astype(float)
    least = rng.integers(0, 12, 7)
    most = least + rng.integers(0, 40, 7)
    total = int(rng.integers(least.sum(), most.sum() + 1))
    fewest, largest = share_out(weights, least, most, total)
    low, high = 0.0, float(most.max())
    for _ in range(100):  # the level at which the groups, each within its limits, get the total
        level = (low + high) / 2
        low, high = (low, level) if np.clip(level * weights, least, most).sum() > total else (level, high)
    assert fewest.sum() <= total <= largest.sum()
    assert ((least <= fewest) & (fewest <= largest) & (largest <= most)).all()
    for shares in (fewest, largest):
        assert (np.abs(shares - np.clip(low * weights, least, most)) < 1).all()


def test_shares_keep_to_what_each_group_gets_at_least_and_at_most() -> None:
    low, high = share_out(np.full(4, 5.0), np.array([0, 9, 0, 0]), np.array([2, 20, 20, 20]), 20)
    assert (low.tolist(), high.tolist()) == ([2, 9, 4, 4], [2, 9, 5, 5])


def test_null_is_a_group_of_its_own_and_values_are_spelled_as_text() -> None:
    groups = group_rows("kind", pa.chunked_array([pa.array([3, None, 3, 7]), pa.array([None], pa.int64())]))
    assert [groups.names[code] for code in groups.codes] == ["3", "null", "3", "7", "null"]
    assert [group_rows("b", pa.chunked_array([[True, False]])).names] == [("false", "true")]
    encoded = pa.chunked_array([pa.array(["x", "y", "x"]).dictionary_encode()])
    assert group_rows("kind", encoded).codes.tolist() == [0, 1, 0]


def test_columns_that_cannot_be_groups_are_refused() -> None:
    with pytest.raises(DataError, match="kind has both NULL and the text 'null'"):
        group_rows("kind", pa.chunked_array([["null", None]]))
    with pytest.raises(ConfigError, match="'kind' holds list"):
        group_rows("kind", pa.chunked_array([[[1], [2]]]))


@pytest.mark.parametrize(
    ("quotas", "budget", "words"),
    [
        ({"minimum": {"x": 9}}, 12, "kind 'x' needs 9 pairs and has 7: 2 too many"),
        ({"exact": {"x": 9, "y": 5}}, 14, "needs 9 pairs and has 7: 2 too many; kind 'y' needs 5 pairs and has 3: 2"),
        ({"minimum": {"x": 5, "y": 3}}, 7, "minimums sum to 8 and the budget is 7: 1 too many"),
        (
            {"maximum": {"x": 4, "y": 1}},
            7,
            "let 5 pairs be picked and the budget is 7: 2 too few .'x' 4 of 7; 'y' 1 of 3.; raise",
        ),
        ({"exact": {"x": 2, "y": 2}}, 7, "let 4 pairs be picked and the budget is 7: 3 too few"),
    ],
)
def test_quotas_that_cannot_be_kept_say_which_and_by_how_much(
    quotas: dict[str, dict[str, int]], budget: int, words: str
) -> None:
    groups = group_rows("kind", pa.chunked_array([["x"] * 7 + ["y"] * 3]))
    with pytest.raises(GateError, match=words):
        plan(QuotaConfig.model_validate({"column": "kind", **quotas}), groups, budget)


def test_only_rows_that_may_be_picked_count_as_there() -> None:
    groups = group_rows("kind", pa.chunked_array([["x"] * 7 + ["y"] * 3]))
    config = QuotaConfig.model_validate({"column": "kind", "minimum": {"y": 3}})
    is_open = np.arange(10) != 8
    with pytest.raises(GateError, match="kind 'y' needs 3 pairs and has 2: 1 too many"):
        plan_quotas(config, groups, is_open, 5)


def test_a_quota_of_a_value_that_is_not_there_is_refused_with_those_that_are() -> None:
    groups = group_rows("kind", pa.chunked_array([["x", "y", None]]))
    with pytest.raises(ConfigError, match="got 'cat'; it has null, x, y"):
        plan(QuotaConfig.model_validate({"column": "kind", "maximum": {"cat": 3}}), groups, 2)


def test_groups_that_the_conditions_have_emptied_have_no_pair() -> None:
    values = pa.chunked_array([["x", "y", "gone"]])
    groups = group_rows("kind", values.slice(0, 2), values)
    assert (groups.names, groups.codes.tolist()) == (("gone", "x", "y"), [1, 2])
    for quotas in ({"maximum": {"gone": 4}}, {"exact": {"gone": 0}}, {"balance": "equal"}, {"balance": "proportional"}):
        config = QuotaConfig.model_validate({"column": "kind", **quotas})
        assert Eligibility(2, rules=[Quotas(plan(config, groups, 2))]).take_in_order(np.arange(2), 2) == [0, 1]
    words = r"kind 'gone' needs 4 pairs and has 0: 4 too many; lower the quota, or loosen where, exclude, near_dup"
    with pytest.raises(GateError, match=words):
        plan(QuotaConfig(column="kind", minimum={"gone": 4}), groups, 9)
    both = pa.chunked_array([["null", None]])
    assert group_rows("kind", both.slice(1), both).names == ("null",)


def test_only_so_many_groups_are_named() -> None:
    groups = group_rows("kind", pa.chunked_array([[f"{number:03d}" for number in range(100)]]))
    names = groups.names
    for quotas in ({"minimum": dict.fromkeys(names, 2)}, {"maximum": dict.fromkeys(names, 0)}, {"maximum": {"x": 2}}):
        with pytest.raises((GateError, ConfigError), match=r"'?019'?[^0].*(80 more|\.\.\.)") as raised:
            plan(QuotaConfig.model_validate({"column": "kind", **quotas}), groups, 300)
        assert "020" not in str(raised.value)


def test_maximums_alone_need_no_budget() -> None:
    groups = group_rows("kind", pa.chunked_array([["x"] * 7 + ["y"] * 3]))
    rules = [Quotas(plan(QuotaConfig.model_validate({"column": "kind", "maximum": {"x": 2}}), groups, None))]
    assert Eligibility(10, rules=rules).take_in_order(np.arange(10), 10) == [0, 1, 7, 8, 9]


def test_a_minimum_that_another_limit_has_cut_short_is_refused() -> None:
    groups = group_rows("kind", pa.chunked_array([["x"] * 7 + ["y"] * 3]))
    planned = plan(QuotaConfig.model_validate({"column": "kind", "minimum": {"y": 2}}), groups, 5)
    planned.check_met(np.array([0, 8, 9]))
    with pytest.raises(GateError, match="kind 'y' must have 2 picks and got 1 before another limit"):
        planned.check_met(np.array([0, 1, 8]))
