"""Every constraint with every strategy: greedy against the same greedy with the check spelled out, and the promise."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from mmcsal_core.errors import ConfigError, GateError
from mmcsal_core.neighbors import KernelConfig
from mmcsal_core.neighbors.vectors import Floats
from mmcsal_core.neighbors.whole_kernel import UNIT
from mmcsal_core.selection import SelectionConfig, select_coreset
from mmcsal_core.selection.config import Strategy
from mmcsal_core.selection.constraints.demands import BY_GAIN, BY_NUMBER, ENDS_BY_GAIN, Demands, settle_demands
from mmcsal_core.selection.engine.cover_objective import Cover
from mmcsal_core.selection.engine.eligibility import NO_ROWS, Constraints
from mmcsal_core.selection.engine.engines import LocalEngine
from mmcsal_core.selection.pair_graph import build_pair_graph
from mmcsal_core.selection.pool import make_pool
from mmcsal_core.selection.refine import Swaps
from mmcsal_core.selection.strategies import SELECTORS
from tests.core.constrained_pool import (
    COSTS,
    GROUPS,
    LABELLED,
    LETTERS,
    MADE,
    NUM_PAIRS,
    POOL,
    configure,
    quotas,
    select,
)
from tests.core.pair_pools import make_clustered_pool

May = Callable[[list[int], int], bool]
every_strategy = pytest.mark.parametrize("strategy", list(SELECTORS))
by_gain = pytest.mark.parametrize("strategy", BY_GAIN)


def spread_plainly(may: May, budget: int, costs: Floats | None = None) -> list[int]:
    """k-center by its definition: of the rows that may be picked the one farthest from all picks, by cost."""
    joint = POOL.joint.astype(np.float64)
    picks: list[int] = []
    divisors = np.ones(NUM_PAIRS) if costs is None else costs
    while len(picks) < budget:
        allowed = np.array([row not in picks and may(picks, row) for row in range(NUM_PAIRS)])
        if not allowed.any():
            break
        if not picks:
            allowed &= divisors == divisors[allowed].min()
            values = joint @ joint.mean(axis=0)
        else:
            values = np.sqrt(np.maximum(0, 2 - 2 * (joint @ joint[picks].T).max(axis=1))) / divisors
        picks.append(int(np.where(allowed, values, -np.inf).argmax()))
    return picks


def cover_plainly(may: May, budget: int, config: SelectionConfig, costs: Floats | None = None) -> list[int]:
    """The objective of mmcsal by its definition, every candidate evaluated for every pick."""
    graph = build_pair_graph(POOL, config, 0)
    kernel, trust = graph.kernel.toarray() / UNIT, 1 - config.lambda_align * graph.suspicion
    divisors = np.ones(NUM_PAIRS) if costs is None else costs
    covered, nearest = graph.floor / UNIT, np.zeros(NUM_PAIRS)
    picks: list[int] = []
    while len(picks) < budget:
        rises = np.maximum(kernel * trust[:, None] - covered, 0).sum(axis=1)
        values = np.round((rises - config.lambda_div * nearest) / divisors, 6)
        allowed = np.array([row not in picks and may(picks, row) for row in range(NUM_PAIRS)])
        if not allowed.any():
            break
        row = int(np.where(allowed, values, -np.inf).argmax())
        picks.append(row)
        covered, nearest = np.maximum(covered, kernel[row] * trust[row]), np.maximum(nearest, kernel[row])
    return picks


def may_by_quotas(least: dict[str, int], most: dict[str, int], budget: int) -> May:
    def may(picks: list[int], row: int) -> bool:
        counts = Counter(LETTERS[[*picks, row]].tolist())
        missing = sum(max(0, number - counts[name]) for name, number in least.items())
        return counts[str(LETTERS[row])] <= most.get(str(LETTERS[row]), budget) and len(picks) + 1 + missing <= budget

    return may


def may_by_cost(cost_budget: float) -> May:
    return lambda picks, row: float(COSTS[[*picks, row]].sum()) <= cost_budget


def may_by_distance(distance: float) -> May:
    joint = POOL.joint.astype(np.float64)
    return lambda picks, row: not picks or bool(np.linalg.norm(joint[picks] - joint[row], axis=1).min() >= distance)


CASES: dict[str, tuple[dict[str, Any], dict[str, Any], May, int]] = {
    "quotas": (
        {},
        {"budget": 30, **quotas(minimum={"c": 8}, maximum={"a": 12})},
        may_by_quotas({"c": 8}, {"a": 12}, 30),
        30,
    ),
    "cost_budget": ({}, {"costs": COSTS, "cost_budget": 40.0, "divides_gain": False}, may_by_cost(40.0), NUM_PAIRS),
    "gain_per_cost": ({}, {"budget": 60, "costs": COSTS, "cost_budget": 40.0}, may_by_cost(40.0), 60),
    "min_distance": ({"min_distance": 0.75}, {}, may_by_distance(0.75), NUM_PAIRS),
}


@pytest.mark.parametrize("case", list(CASES))
def test_k_center_picks_what_plain_greedy_picks_under_the_constraint(case: str) -> None:
    fields, demands, may, budget = CASES[case]
    coreset = select(configure(strategy="k_center", **fields), **demands)
    costs = COSTS if case == "gain_per_cost" else None
    assert coreset.indices.tolist() == spread_plainly(may, budget, costs)


@pytest.mark.parametrize("case", list(CASES))
def test_mmcsal_picks_what_plain_greedy_picks_under_the_constraint(case: str) -> None:
    fields, demands, may, budget = CASES[case]
    config = configure(diversity_threshold=0, **fields)
    costs = COSTS if case == "gain_per_cost" else None
    coreset = select(config, **demands)
    assert coreset.indices.tolist() == cover_plainly(may, budget, config, costs)
    if costs is not None:
        assert (np.diff(coreset.gains / costs[coreset.indices]) <= 1e-9).all()


@every_strategy
@pytest.mark.parametrize("refine", ["none", "swap"])
def test_every_strategy_keeps_to_quotas_and_costs(strategy: Strategy, refine: str) -> None:
    demands = quotas(exact={"b": 9}, maximum={"a": 10}) | {"costs": COSTS, "divides_gain": False}
    config = configure(strategy=strategy, refine=refine)
    coreset = select(config, budget=25, cost_budget=60.0, **demands)
    counts = Counter(LETTERS[coreset.indices].tolist())
    assert (counts["b"], counts["a"] <= 10) == (9, True)
    assert COSTS[coreset.indices].sum() <= 60 < COSTS[select(config, budget=25, **demands).indices].sum()
    assert coreset.weights.sum() == NUM_PAIRS


@every_strategy
def test_every_strategy_keeps_its_distance_and_leaves_near_duplicates_alone(strategy: Strategy) -> None:
    fields = {"strategy": strategy, "min_distance": 0.5, "near_duplicates": {"threshold": 0.9}}
    config = configure(**fields, refine="swap")
    coreset = select(config, NO_ROWS, budget=40)
    joint = POOL.joint.astype(np.float64)
    distances = np.linalg.norm(joint[coreset.indices][:, None] - joint[coreset.indices], axis=2)
    distances[np.diag_indices(len(distances))] = np.inf
    assert distances.min() >= 0.5
    groups = settle_demands(POOL, NO_ROWS, config, Demands(budget=40)).near_duplicates
    assert groups is not None
    assert (groups.leaders[coreset.indices] == coreset.indices).all()
    assert groups.describe()["pairs"] > 20


@pytest.mark.parametrize("strategy", [name for name in SELECTORS if name != "kmeans"])
def test_no_pick_is_near_to_a_labelled_pair(strategy: Strategy) -> None:
    coreset = select(configure(strategy=strategy, min_distance=0.6), LABELLED, budget=20)
    joint = POOL.joint.astype(np.float64)
    assert np.linalg.norm(joint[coreset.indices][:, None] - joint[LABELLED], axis=2).min() >= 0.6
    assert not set(LABELLED.tolist()) & set(coreset.indices.tolist())


@by_gain
@pytest.mark.parametrize(
    "demands",
    [quotas(maximum={"a": 8, "b": 9, "c": 9}), {"costs": COSTS, "cost_budget": 60.0}, {}],
    ids=["maximum", "cost", "none"],
)
def test_a_prefix_is_the_answer_for_a_smaller_budget(strategy: Strategy, demands: dict[str, Any]) -> None:
    config = configure(strategy=strategy, near_duplicates={"threshold": 0.97})
    large, small = select(config, budget=20, **demands), select(config, budget=8, **demands)
    np.testing.assert_array_equal(large.indices[:8], small.indices)


@by_gain
def test_a_minimum_gain_ends_the_selection_before_the_first_smaller_one(strategy: Strategy) -> None:
    whole = select(configure(strategy=strategy, diversity_threshold=0), budget=60)
    least = float(whole.gains[25])
    ended = select(configure(strategy=strategy, min_gain=least))
    end = int(np.argmax(whole.gains < least))
    np.testing.assert_array_equal(ended.indices, whole.indices[:end])
    assert ended.ended_by == "min_gain"
    assert len(set(ended.phases)) == 1
    swapped = select(configure(strategy=strategy, min_gain=least, refine="swap"))
    assert swapped.gains.min() >= least


@by_gain
@pytest.mark.parametrize("when_exhausted", ["fill", "stop"])
def test_copies_of_picks_gain_nothing_and_are_filled_in_or_left(strategy: Strategy, when_exhausted: str) -> None:
    distinct = make_clustered_pool(9, num_clusters=3, seed=5)
    rows = np.tile(np.arange(9), 3)
    embeddings = {name: x[rows] for name, x in distinct.embeddings.items()}
    config = configure(strategy=strategy, when_exhausted=when_exhausted, lambda_align=0, outlier_fraction=0.2)
    coreset = select_coreset(embeddings, 20, config=config)
    assert sorted((coreset.indices[:9] % 9).tolist()) == list(range(9))
    assert coreset.exhausted_at == 9
    if when_exhausted == "stop":
        assert (len(coreset.indices), coreset.ended_by) == (9, "exhausted")
    else:
        assert coreset.phases[9:] == ("exhausted",) * 11
        assert (coreset.gains[9:] == 0).all()
        rest = sorted(set(range(27)) - set(coreset.indices[:9].tolist()))
        assert coreset.indices[9:].tolist() == rest[:11]
        assert coreset.ended_by == "budget"


def test_the_continued_selection_of_mmcsal_spreads_under_the_same_constraints() -> None:
    config = configure(diversity_threshold=1.5)
    demands = quotas(maximum={"a": 14, "b": 14, "c": 9})
    coreset = select(config, budget=34, costs=COSTS, cost_budget=60.0, **demands)
    assert {"coverage", "diversity"} <= set(coreset.phases)
    counts = Counter(LETTERS[coreset.indices].tolist())
    assert max(counts["a"], counts["b"]) <= 14
    assert COSTS[coreset.indices].sum() <= 60
    assert len(coreset.indices) < 34
    phases = np.array(coreset.phases)
    for phase in set(coreset.phases):
        assert (np.diff((coreset.gains / COSTS[coreset.indices])[phases == phase]) <= 1e-6).all()


@pytest.mark.parametrize("seed", range(4))
def test_swaps_keep_the_group_of_each_pick_and_never_cost_more(seed: int) -> None:
    graph = build_pair_graph(POOL, configure(), 0)
    trust, picks = np.ones(NUM_PAIRS), np.random.default_rng(seed).choice(NUM_PAIRS, 15, replace=False)
    shards = LocalEngine().open_cover(graph.kernel, Cover(trust, 0.0, floor=graph.floor), NO_ROWS)
    is_open = np.ones(NUM_PAIRS, dtype=bool)
    free = Swaps(shards, trust, NO_ROWS, graph.floor, is_open).move(picks, 50)
    bound = Swaps(shards, trust, NO_ROWS, graph.floor, is_open, Constraints(kinds=GROUPS.codes, prices=COSTS)).move(
        picks, 50
    )
    assert (bound != picks).sum() >= 2
    assert (GROUPS.codes[bound] == GROUPS.codes[picks]).all()
    assert (COSTS[bound] <= COSTS[picks]).all()
    assert (GROUPS.codes[free] != GROUPS.codes[picks]).any()
    assert (COSTS[free] > COSTS[picks]).any()


@every_strategy
def test_what_a_strategy_cannot_do_is_refused_by_both_names(strategy: Strategy) -> None:
    if strategy not in ENDS_BY_GAIN:
        with pytest.raises(ConfigError, match=f"min_gain .*got {strategy};"):
            select(configure(strategy=strategy, min_gain=0.1), budget=5)
    if strategy not in BY_GAIN:
        with pytest.raises(ConfigError, match=f"gain_per_cost .*got {strategy};"):
            select(configure(strategy=strategy), budget=5, costs=COSTS)
    if strategy in BY_NUMBER:
        with pytest.raises(ConfigError, match=f"strategy {strategy} must know how many"):
            select(configure(strategy=strategy, min_distance=0.1))


def test_a_minimum_gain_is_above_0_and_a_gain_that_equals_it_is_picked() -> None:
    with pytest.raises(ValidationError, match="greater than 0"):
        configure(min_gain=0)
    angles = np.radians([0, 180, 90])
    pool = make_pool({"image": np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)})
    whole = select_coreset(pool.embeddings, 3, config=configure(strategy="k_center"))
    least = float(whole.gains[2])
    ended = select_coreset(pool.embeddings, None, config=configure(strategy="k_center", min_gain=least))
    assert len(ended.indices) == 3


def test_a_minimum_gain_ends_probcover_where_its_own_picks_pass_it() -> None:
    whole = select(configure(strategy="probcover"), budget=NUM_PAIRS)
    least = float(whole.gains[2])
    ended = select(configure(strategy="probcover", min_gain=least))
    assert ended.ended_by == "min_gain"
    assert ended.gains.min() >= least
    np.testing.assert_array_equal(ended.indices, whole.indices[: len(ended.indices)])


def test_limits_that_leave_nothing_and_no_limit_at_all_are_refused() -> None:
    with pytest.raises(GateError, match="nothing could be picked from 120 pairs"):
        select(configure(), budget=5, costs=COSTS, cost_budget=0.5)
    with pytest.raises(ConfigError, match="a selection needs an end, got none"):
        select_coreset(MADE.embeddings, None)


def test_a_share_is_of_the_unlabelled_pairs_and_says_where_it_is_not_reached() -> None:
    config = configure(strategy="random")
    assert settle_demands(POOL, LABELLED, config, Demands(budget_fraction=0.1)).budget == 12
    assert settle_demands(POOL, LABELLED, config, Demands(budget_fraction=1.0)).budget == 117
    grouped = configure(strategy="random", near_duplicates={"threshold": 0.9})
    assert settle_demands(POOL, LABELLED, grouped, Demands(budget_fraction=1.0)).budget < 100
    coreset = select(config, LABELLED, budget_fraction=0.5, costs=COSTS, cost_budget=40.0, divides_gain=False)
    assert 0 < len(coreset.indices) < 58
    assert coreset.ended_by == "constraints"


def test_weights_of_modalities_enter_the_joint_distance_and_the_kernel() -> None:
    weights = {"image": 3.0, "text": 1.0}
    pool = make_pool(MADE.embeddings, MADE.features, weights=weights)
    squared = sum(
        weights[name] / 4 * ((x[:, None] - x) ** 2).sum(axis=2)
        for name, x in make_pool(MADE.embeddings).embeddings.items()
    )
    joint = pool.joint.astype(np.float64)
    np.testing.assert_allclose(((joint[:, None] - joint) ** 2).sum(axis=2), squared, atol=1e-5)
    config = configure(kernel=KernelConfig(neighborhood_weight=0))
    given: dict[str, dict[str, float]] = {
        "both": {},
        "image": {"text": 0.0},
        "text": {"image": 0.0},
        "mixed": weights,
        "scaled": {"image": 30.0, "text": 10.0},
    }
    kernels = {
        name: build_pair_graph(make_pool(MADE.embeddings, weights=w), config, 0).kernel for name, w in given.items()
    }
    assert (kernels["mixed"] != kernels["scaled"]).nnz == 0
    exponents = {name: -np.log(np.maximum(1, kernel.toarray()) / UNIT) for name, kernel in kernels.items()}
    # both = (image + text + cross) / 3 and mixed = (1.5 image + 0.5 text + cross) / 3
    expected = exponents["both"] + (exponents["image"] - exponents["text"]) / 6
    np.testing.assert_allclose(exponents["mixed"], expected, atol=1e-6)


@every_strategy
def test_a_modality_of_weight_0_is_left_out(strategy: Strategy) -> None:
    if strategy == "alignment":
        with pytest.raises(ConfigError, match="compares the modalities of a pair"):
            select_coreset(MADE.embeddings, 9, config=configure(strategy=strategy, modality_weights={"text": 0.0}))
        return
    config = configure(strategy=strategy, modality_weights={"text": 0.0})
    weighted = select_coreset(MADE.embeddings, 9, features=MADE.features, config=config)
    alone = select_coreset(
        {"image": MADE.embeddings["image"]},
        9,
        features={"image": MADE.features["image"]},
        config=configure(strategy=strategy),
    )
    np.testing.assert_array_equal(weighted.indices, alone.indices)
    assert weighted.covering_radius == alone.covering_radius


@pytest.mark.parametrize("weights", [{"sound": 1.0}, {"image": -1.0}, {"image": 0.0, "text": 0.0}])
def test_weights_that_make_no_sense_are_refused(weights: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="modality_weights are 0 or more for each of image, text"):
        select_coreset(MADE.embeddings, 5, config=configure(modality_weights=weights))
    with pytest.raises(ConfigError, match="modality_weights need space joint, got 'image'"):
        select_coreset(MADE.embeddings, 5, config=configure(modality_weights={"image": 2.0}, space="image"))
