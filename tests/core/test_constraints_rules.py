"""Costs, distances and near-duplicates, each against its definition spelled out."""

from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest

from mmcsal_core.errors import ConfigError, DataError
from mmcsal_core.neighbors import NeighborConfig
from mmcsal_core.neighbors.vectors import Vectors
from mmcsal_core.selection.constraints.cost_budget import CostBudget, read_costs
from mmcsal_core.selection.constraints.minimum_distance import MinimumDistance
from mmcsal_core.selection.constraints.near_duplicates import find_copied, group_near_duplicates
from mmcsal_core.selection.engine.eligibility import NO_ROWS, Eligibility


def make_units(num_rows: int, dim: int, seed: int) -> Vectors:
    raw = np.random.default_rng(seed).normal(size=(num_rows, dim))
    units: Vectors = (raw / np.linalg.norm(raw, axis=1, keepdims=True)).astype(np.float32)
    return units


@pytest.mark.parametrize("seed", range(5))
def test_a_pick_that_costs_more_than_is_left_is_skipped_for_good(seed: int) -> None:
    rng = np.random.default_rng(seed)
    costs, order = rng.integers(1, 9, 40).astype(float), rng.permutation(40)
    left, expected = 30.0, []
    for row in order.tolist():
        if costs[row] <= left:
            expected.append(row)
            left -= costs[row]
    assert Eligibility(40, rules=[CostBudget(costs, 30.0)]).take_in_order(order, 40) == expected


def test_sums_of_costs_are_not_cut_short_by_rounding() -> None:
    rule = CostBudget(np.full(12, 0.1), 1.0)
    assert len(Eligibility(12, rules=[rule]).take_in_order(np.arange(12), 12)) == 10
    many = Eligibility(20_002, rules=[CostBudget(np.full(20_002, 0.1), 2_000.0)])
    assert len(many.take_in_order(np.arange(20_002), 20_002)) == 20_000


def test_a_cost_budget_is_not_passed_by_the_least_that_can_be_told() -> None:
    for costs, budget in (([5e8, 5e8 + 1], 1e9), ([1e9 + 1e-3], 1e9), ([0.5, 0.5 + 1e-14], 1.0)):
        eligibility = Eligibility(len(costs), rules=[CostBudget(np.array(costs), budget)])
        assert len(eligibility.take_in_order(np.arange(len(costs)), 2)) == len(costs) - 1


@pytest.mark.parametrize("values", [[1.0, None, 2.0], [1.0, 0.0, 2.0], [1.0, float("nan"), 2.0], [1, -1, 2]])
def test_a_cost_that_is_no_number_above_0_is_refused_by_its_pair(values: list[float | None]) -> None:
    ids = pa.chunked_array([["p", "q", "r"]])
    with pytest.raises(DataError, match=r"price of pair 'q' is .* \(1 such pairs\)"):
        read_costs("price", pa.chunked_array([values]), ids)


def test_costs_are_any_numbers_but_nothing_else() -> None:
    ids = pa.chunked_array([["p", "q"]])
    for kind in (pa.int8(), pa.float32(), pa.decimal128(5, 2)):
        values = pa.chunked_array([pa.array([Decimal(1), Decimal(3)]).cast(kind)])
        assert read_costs("price", values, ids).tolist() == [1.0, 3.0]
    with pytest.raises(ConfigError, match="cost_column must hold numbers, 'price' holds string"):
        read_costs("price", pa.chunked_array([["1", "3"]]), ids)


@pytest.mark.parametrize("distance", [0.05, 0.6, 1.2])
def test_no_pick_lies_nearer_than_asked_and_none_is_missed(distance: float) -> None:
    joint = make_units(150, 3, seed=1)
    labelled, order = np.array([3, 50]), np.random.default_rng(0).permutation(150)
    exact = joint.astype(np.float64)
    expected: list[int] = []
    for row in order.tolist():
        earlier = [*labelled.tolist(), *expected]
        if row not in earlier and np.linalg.norm(exact[earlier] - exact[row], axis=1).min() >= distance:
            expected.append(row)
    rules = [MinimumDistance(joint, labelled, distance)]
    assert Eligibility(150, labelled, rules).take_in_order(order, 150) == expected


def test_a_tiny_distance_tells_copies_from_neighbours() -> None:
    joint = make_units(3, 8, seed=2)[[0, 0, 1]]
    joint[1, 0] += 1e-4
    rules = [MinimumDistance(joint, NO_ROWS, 5e-5)]
    assert Eligibility(3, rules=rules).take_in_order(np.arange(3), 3) == [0, 1, 2]
    rules = [MinimumDistance(joint, NO_ROWS, 2e-4)]
    assert Eligibility(3, rules=rules).take_in_order(np.arange(3), 3) == [0, 2]


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("num_labelled", [0, 5, 60])
def test_near_duplicates_are_near_their_leader_and_leaders_are_not_near_each_other(
    seed: int, num_labelled: int
) -> None:
    joint, threshold = make_units(300, 3, seed), 0.97
    labelled = np.sort(np.random.default_rng(seed).choice(300, num_labelled, replace=False))
    groups = group_near_duplicates(joint, labelled, threshold, NeighborConfig())
    cosines = joint.astype(np.float64) @ joint.T
    near = cosines >= threshold
    leaders = np.flatnonzero(groups.leaders == np.arange(300))
    assert near[np.arange(300), groups.leaders].all()
    assert near[np.ix_(leaders, leaders)].sum() == len(leaders) + sum(
        near[a, b] for a in leaders for b in leaders if a != b and {a, b} <= set(labelled.tolist())
    )
    expected = np.where(np.isin(np.arange(300), labelled), np.arange(300), -1)
    turns = np.lexsort((np.arange(300), -near.sum(axis=1), expected < 0))
    for row in turns.tolist():
        if expected[row] in (-1, row):
            expected[(expected < 0) & near[row]] = row
    np.testing.assert_array_equal(groups.leaders, expected)
    closed = np.zeros(300, dtype=bool)
    closed[groups.list_closed()] = True
    np.testing.assert_array_equal(~closed, (groups.leaders == np.arange(300)) & ~np.isin(np.arange(300), labelled))
    assert not near[np.ix_(np.flatnonzero(~closed), labelled)].any()


def test_a_labelled_pair_near_another_still_closes_what_is_near_it() -> None:
    angles = np.radians([-6, -3, 0, 10, 20])
    joint = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    groups = group_near_duplicates(joint, np.array([2, 3]), float(np.cos(np.radians(11))), NeighborConfig())
    assert groups.leaders.tolist() == [2, 2, 2, 3, 3]
    assert groups.list_closed().tolist() == [0, 1, 2, 3, 4]


def test_copies_lead_as_one_row_that_may_be_picked() -> None:
    joint = make_units(200, 3, seed=5)[np.random.default_rng(5).integers(0, 200, 600)]
    labelled, may_lead = np.array([7, 8]), np.arange(600) % 3 > 0
    groups = group_near_duplicates(joint, labelled, 0.97, NeighborConfig(), may_lead)
    near = joint.astype(np.float64) @ joint.T >= 0.97
    expected = np.where(np.isin(np.arange(600), labelled), np.arange(600), -1)
    turns = np.lexsort((np.arange(600), -near.sum(axis=1), ~may_lead, expected < 0))
    for row in turns.tolist():
        if expected[row] in (-1, row):
            expected[(expected < 0) & near[row]] = row
    np.testing.assert_array_equal(groups.leaders, expected)


def test_equal_rows_are_found_in_the_order_asked_for() -> None:
    joint = make_units(50, 4, seed=8)[np.arange(100) % 50]
    joint[99, 0] += 1e-7
    copied, num_copies = find_copied(joint, np.arange(100)[::-1])
    assert copied.tolist() == [*range(50, 99), 49, *range(50, 100)]
    assert num_copies.tolist() == [0] * 49 + [1] + [2] * 49 + [1]


def test_an_index_that_misses_near_rows_leaves_none_near_a_label_open() -> None:
    rng = np.random.default_rng(3)
    joint = make_units(1000, 16, seed=3)[np.repeat(np.arange(1000), 4)]
    joint += (0.04 * rng.normal(size=joint.shape)).astype(np.float32)
    joint /= np.linalg.norm(joint, axis=1, keepdims=True)
    labelled = np.arange(0, 4000, 40)
    groups = group_near_duplicates(joint, labelled, 0.97, NeighborConfig(index_key="IVF64,Flat", nprobe=1))
    is_open = np.ones(4000, dtype=bool)
    is_open[groups.list_closed()] = False
    assert (joint[is_open] @ joint[labelled].T).max() < 0.97
    own = (joint * joint[groups.leaders]).sum(axis=1)
    assert own.min() >= 0.97 - 1e-5


def test_a_chain_of_near_pairs_is_not_one_group() -> None:
    angles = np.arange(12) * 0.1
    joint = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    groups = group_near_duplicates(joint, NO_ROWS, float(np.cos(0.15)), NeighborConfig())
    assert groups.count_members().max() == 3
    assert (groups.count_members() > 0).sum() >= 4


def test_exact_duplicates_are_one_group_of_the_lowest_row_and_counted() -> None:
    joint = make_units(4, 32, seed=3)[[0, 1, 0, 2, 1, 0, 3]]
    groups = group_near_duplicates(joint, NO_ROWS, 1.0, NeighborConfig())
    assert groups.leaders.tolist() == [0, 1, 0, 3, 1, 0, 6]
    assert groups.count_members().tolist() == [3, 2, 0, 1, 0, 0, 1]
    assert groups.list_members().tolist() == [0, 1, 2, 4, 5]
    assert groups.describe() == {"groups": 2, "pairs": 5}


def test_a_pool_of_equal_rows_is_one_group() -> None:
    joint = np.repeat(make_units(1, 16, seed=4), 3000, axis=0)
    groups = group_near_duplicates(joint, NO_ROWS, 0.99, NeighborConfig())
    assert (groups.leaders == 0).all()


def test_an_index_that_compresses_joins_nothing_that_is_not_near() -> None:
    joint = make_units(400, 8, seed=6)
    groups = group_near_duplicates(joint, NO_ROWS, 0.8, NeighborConfig(index_key="PCA4,Flat"))
    assert (joint * joint[groups.leaders]).sum(axis=1).min() >= 0.8 - 1e-5
    assert groups.describe()["groups"] > 5


def test_an_index_without_range_search_is_refused() -> None:
    with pytest.raises(ConfigError, match="near_duplicates need an index with range search"):
        group_near_duplicates(make_units(200, 8, seed=6), NO_ROWS, 0.8, NeighborConfig(index_key="NSG16"))
