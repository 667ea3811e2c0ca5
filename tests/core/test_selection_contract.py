"""One contract, run over every strategy."""

import pickle

import numpy as np
import pytest

from mmcsal_core.errors import ConfigError, DataError, GateError
from mmcsal_core.neighbors import KernelConfig
from mmcsal_core.neighbors.vectors import Rows
from mmcsal_core.selection import Coreset, SelectionConfig, select_coreset
from mmcsal_core.selection.baseline_config import ContinuousConfig
from mmcsal_core.selection.config import Strategy
from mmcsal_core.selection.constraints.config import NearDuplicateConfig
from mmcsal_core.selection.constraints.demands import Demands, settle_demands
from mmcsal_core.selection.coreset import Request
from mmcsal_core.selection.engine.eligibility import NO_ROWS, Constraints
from mmcsal_core.selection.pool import make_pool
from mmcsal_core.selection.strategies import SELECTORS, select_from_pool
from tests.core.pair_pools import ClusteredPool, make_clustered_pool

STRATEGIES: list[Strategy] = list(SELECTORS)
POOL = make_clustered_pool(300)
FEW_STEPS = ContinuousConfig(num_steps=20)

DRAWS_BY_ROW: dict[Strategy, str] = {"random": "a row's number is all that it looks at"}
DEPENDS_ON_THE_BUDGET: dict[Strategy, str] = {
    "kmeans": "as many clusters as the budget",
    "typiclust": "as many clusters as pairs will be labelled",
    "activeft": "as many points as the budget, fitted together",
    "mmcsal_continuous": "as many points as the budget, fitted together",
}
NEVER_MEANT_TO_COVER: dict[Strategy, str] = {
    "random": "it is what the others are compared with",
    "alignment": "it looks at each pair alone",
}
REFUSES_LABELS: dict[Strategy, str] = {"kmeans": "no cluster knows that it has been labelled"}

every_strategy = pytest.mark.parametrize("strategy", STRATEGIES)


def every_strategy_but(*exempt: dict[Strategy, str]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("strategy", [name for name in STRATEGIES if not any(name in e for e in exempt)])


def select(pool: ClusteredPool, budget: int, strategy: Strategy, **fields: object) -> Coreset:
    fixed = {"kernel": KernelConfig(bandwidth_neighbor=20), "continuous": FEW_STEPS}
    config = SelectionConfig.model_validate({**fixed, **fields})
    return select_coreset(pool.embeddings, budget, features=pool.features, strategy=strategy, seed=5, config=config)


def take_rows(pool: ClusteredPool, rows: Rows) -> ClusteredPool:
    return ClusteredPool(
        {name: x[rows] for name, x in pool.embeddings.items()},
        {name: x[rows] for name, x in pool.features.items()},
        pool.clusters[rows],
    )


def check_contract(coreset: Coreset, num_pairs: int, budget: int) -> None:
    indices = coreset.indices
    assert indices.dtype == np.int64
    assert len(set(indices.tolist())) == len(indices) == budget
    assert indices.min() >= 0
    assert indices.max() < num_pairs
    assert len(coreset.phases) == len(coreset.gains) == budget
    phases = np.array(coreset.phases)
    for phase in set(coreset.phases):
        assert (np.diff(coreset.gains[phases == phase]) <= 1e-6).all()
    total = coreset.coverage_terms + coreset.diversity_terms + coreset.alignment_terms
    np.testing.assert_allclose(total, coreset.gains, atol=1e-12)
    assert (coreset.alignment_terms <= 1e-12).all()
    assert coreset.weights.sum() == num_pairs
    assert coreset.weights.min() >= 1
    assert 0 <= coreset.covering_radius <= 2


def test_a_pickled_coreset_holds_its_weights_and_not_the_pool() -> None:
    coreset = select(POOL, 5, "k_center")
    pickled = pickle.dumps(coreset)
    assert len(pickled) < POOL.embeddings["image"].nbytes / 2
    again = pickle.loads(pickle.dumps(pickle.loads(pickled)))
    check_contract(again, 300, 5)
    assert again.covering_radius == coreset.covering_radius
    np.testing.assert_array_equal(again.weights, coreset.weights)
    assert "Coreset(indices=" in repr(again)


@every_strategy
@pytest.mark.parametrize("budget", [1, 2, 30, 299, 300])
def test_exactly_the_budget_is_picked_with_terms_and_weights(strategy: Strategy, budget: int) -> None:
    check_contract(select(POOL, budget, strategy), 300, budget)


@every_strategy
def test_equal_arguments_give_equal_bits(strategy: Strategy) -> None:
    first, second = select(POOL, 40, strategy), select(POOL, 40, strategy)
    np.testing.assert_array_equal(first.indices, second.indices)
    np.testing.assert_array_equal(first.gains, second.gains)
    assert first.covering_radius == second.covering_radius


@every_strategy_but(DRAWS_BY_ROW)
def test_the_order_of_rows_does_not_matter(strategy: Strategy) -> None:
    order = np.random.default_rng(3).permutation(300)
    budget = 20 if strategy == "kmeans" else 30  # of 30 clusters one has two rows, its centroid midway: a tie
    permuted = select(take_rows(POOL, order), budget, strategy)
    np.testing.assert_array_equal(order[permuted.indices], select(POOL, budget, strategy).indices)


@every_strategy_but(DEPENDS_ON_THE_BUDGET)
def test_a_prefix_is_the_answer_for_a_smaller_budget(strategy: Strategy) -> None:
    large, small = select(POOL, 40, strategy, refine="none"), select(POOL, 15, strategy, refine="none")
    np.testing.assert_array_equal(large.indices[:15], small.indices)
    np.testing.assert_array_equal(large.gains[:15], small.gains)


@every_strategy_but(NEVER_MEANT_TO_COVER)
def test_clustered_pairs_are_covered_no_worse_than_by_chance(strategy: Strategy) -> None:
    pool = make_clustered_pool(600, num_clusters=20, seed=4)
    joint = make_pool(pool.embeddings).joint

    def measure(indices: Rows) -> float:
        closest = (joint @ joint[indices].T).max(axis=1)
        return float(2 - 2 * closest.min()) if strategy == "k_center" else float((2 - 2 * closest).mean())

    drawn = [measure(np.random.default_rng(seed).choice(600, 20, replace=False)) for seed in range(20)]
    assert measure(select(pool, 20, strategy, continuous=ContinuousConfig()).indices) < np.mean(drawn)


@every_strategy
def test_exact_duplicates_are_never_picked_twice(strategy: Strategy) -> None:
    tripled = take_rows(make_clustered_pool(25), np.repeat(np.arange(25), 3))
    check_contract(select(tripled, 60, strategy), 75, 60)


@every_strategy
def test_a_pool_of_equal_pairs_is_picked_without_repeating(strategy: Strategy) -> None:
    equal = take_rows(POOL, np.zeros(20, dtype=np.int64))
    check_contract(select(equal, 20, strategy), 20, 20)
    assert select(equal, 5, strategy).covering_radius == pytest.approx(0, abs=1e-6)


@every_strategy
def test_pairs_opposite_to_every_pick_are_weighed_too(strategy: Strategy) -> None:
    compass = np.array([[1, 0], [0, 1], [-1, 0], [0, -1]], dtype=np.float32)
    pool = ClusteredPool({"image": compass, "text": compass}, {}, np.arange(4))
    for budget in (1, 2):
        check_contract(select(pool, budget, strategy), 4, budget)


@every_strategy
def test_a_pool_of_one_pair_is_picked(strategy: Strategy) -> None:
    coreset = select(take_rows(POOL, np.array([7])), 1, strategy)
    check_contract(coreset, 1, 1)
    assert coreset.covering_radius == 0


@every_strategy
@pytest.mark.parametrize("num_modalities", [1, 3])
def test_any_number_of_modalities_is_selected_from(strategy: Strategy, num_modalities: int) -> None:
    z = POOL.embeddings["image"]
    others = [np.roll(z, shift, axis=1) for shift in range(num_modalities)]
    pool = ClusteredPool({f"modality_{i}": other for i, other in enumerate(others)}, {}, POOL.clusters)
    if strategy == "alignment" and num_modalities == 1:
        with pytest.raises(ConfigError, match=r"compares the modalities of a pair, got one \(modality_0\)"):
            select(pool, 20, strategy)
    else:
        check_contract(select(pool, 20, strategy), 300, 20)


@every_strategy
def test_vectors_need_not_be_of_unit_length(strategy: Strategy) -> None:
    scaled = {name: x * 4 for name, x in POOL.embeddings.items()}
    first = select(ClusteredPool(scaled, POOL.features, POOL.clusters), 10, strategy)
    np.testing.assert_array_equal(first.indices, select(POOL, 10, strategy).indices)


@every_strategy
@pytest.mark.parametrize("budget", [0, 301])
def test_a_budget_that_does_not_fit_the_pool_is_refused(strategy: Strategy, budget: int) -> None:
    with pytest.raises(ConfigError, match=f"the 300 pairs that may be picked, got {budget}"):
        select(POOL, budget, strategy)


@every_strategy
@pytest.mark.parametrize(("value", "finding"), [(np.nan, "NaN or infinity in the text"), (0.0, "a zero text")])
def test_a_bad_vector_is_refused_by_its_row(strategy: Strategy, value: float, finding: str) -> None:
    text = POOL.embeddings["text"].copy()
    text[17] = value
    with pytest.raises(DataError, match=f"row 17 has {finding} embedding"):
        select_coreset({"image": POOL.embeddings["image"], "text": text}, 5, strategy=strategy)


@every_strategy_but(REFUSES_LABELS)
def test_labelled_pairs_count_as_picked_and_are_not_picked_again(strategy: Strategy) -> None:
    labelled = select(POOL, 10, strategy, refine="none").indices
    config = SelectionConfig(kernel=KernelConfig(bandwidth_neighbor=20), continuous=FEW_STEPS, refine="none")
    rest = select_coreset(
        POOL.embeddings,
        290,
        features=POOL.features,
        strategy=strategy,
        labelled=labelled.tolist(),
        seed=5,
        config=config,
    )
    check_contract(rest, 300, 290)
    assert set(rest.indices.tolist()) == set(range(300)) - set(labelled.tolist())
    if strategy not in {**DRAWS_BY_ROW, **DEPENDS_ON_THE_BUDGET}:
        whole = select(POOL, 20, strategy, refine="none").indices
        np.testing.assert_array_equal(rest.indices[:10], whole[10:])


class OnePickACluster:
    def close_at_start(self) -> Rows:
        return np.empty(0, dtype=np.int64)

    def close_after(self, row: int) -> Rows:
        return np.flatnonzero(POOL.clusters == POOL.clusters[row])


@every_strategy
def test_closed_rows_are_not_picked_and_rules_are_kept(strategy: Strategy) -> None:
    pool = make_pool(POOL.embeddings, POOL.features)
    num_clusters = len(set(POOL.clusters.tolist()))
    config = SelectionConfig(strategy=strategy, continuous=FEW_STEPS, refine="none")
    best = select_from_pool(pool, Request(20, NO_ROWS, 5, config)).indices
    constraints = Constraints(np.sort(best[:5]), lambda: [OnePickACluster()])
    found = select_from_pool(pool, Request(num_clusters, NO_ROWS, 5, config, constraints)).indices
    assert sorted(POOL.clusters[found].tolist()) == sorted(set(POOL.clusters.tolist()))
    assert not set(found.tolist()) & set(best[:5].tolist())


def test_labelled_rows_are_refused_where_they_cannot_count() -> None:
    with pytest.raises(ConfigError, match="kmeans cannot continue from labelled pairs, got 2"):
        select_coreset(POOL.embeddings, 5, strategy="kmeans", labelled=[1, 2])
    with pytest.raises(ConfigError, match=r"must lie in \[0, 300\), got 3 to 300"):
        select_coreset(POOL.embeddings, 5, labelled=[3, 300])
    with pytest.raises(ConfigError, match="the 298 pairs that may be picked, got 299"):
        select_coreset(POOL.embeddings, 299, labelled=[3, 4])


def test_arguments_of_another_kind_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"array of bool; pass np.flatnonzero\(mask\)"):
        select_coreset(POOL.embeddings, 5, labelled=np.arange(300) < 3)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="array of float64"):
        select_coreset(POOL.embeddings, 5, labelled=[1.0, 2.0])  # type: ignore[list-item]
    assert len(select_coreset(POOL.embeddings, 5, labelled=[]).indices) == 5
    for budget in (4.5, True):
        with pytest.raises(ConfigError, match=f"the budget is a whole number of rows, got {budget}"):
            select_coreset(POOL.embeddings, budget)  # type: ignore[arg-type]
    assert len(select_coreset(POOL.embeddings, np.int32(5)).indices) == 5
    huge = {"image": np.where(np.arange(5)[:, None] == 3, 1e200, np.ones((5, 4)))}
    with pytest.raises(DataError, match="row 3 has values too large to measure in the image embedding"):
        select_coreset(huge, 2)


@pytest.mark.parametrize("strategy", ["mmcsal", "mmcsal_continuous", "alignment"])
def test_modalities_of_different_lengths_are_refused_where_they_are_compared(strategy: Strategy) -> None:
    unequal = {"image": POOL.embeddings["image"], "text": POOL.embeddings["text"][:, :9]}
    with pytest.raises(DataError, match=rf"strategy {strategy} compares across .* got {{'image': 16, 'text': 9}}"):
        select_coreset(unequal, 5, strategy=strategy)
    assert len(select_coreset(unequal, 5, strategy="k_center").indices) == 5


def test_k_center_starts_from_the_lowest_of_equal_rows() -> None:
    row = np.random.default_rng(0).normal(size=(1, 37)).astype(np.float32)
    assert select_coreset({"image": np.repeat(row, 1001, axis=0)}, 1, strategy="k_center").indices.tolist() == [0]


def test_equal_pairs_exhaust_coverage_whatever_the_horizon() -> None:
    equal = take_rows(POOL, np.zeros(100, dtype=np.int64))
    config = SelectionConfig(kernel=KernelConfig(horizon=1.0))
    coreset = select_coreset(equal.embeddings, 5, config=config)
    assert coreset.gains.min() >= 0
    assert coreset.exhausted_at is not None


def test_a_minimum_distance_that_closes_nothing_ends_nothing() -> None:
    pool = {"image": POOL.embeddings["image"], "text": np.repeat(POOL.embeddings["text"][:1], 300, axis=0)}
    config = SelectionConfig(strategy="k_center", space="text", min_distance=0.01)
    coreset = select_coreset(pool, 10, config=config)
    assert (len(coreset.indices), coreset.ended_by, coreset.exhausted_at) == (10, "budget", 1)


def test_of_two_limits_on_one_gain_the_larger_one_ends_the_selection() -> None:
    for min_gain, ended_by in ((0.9, "min_gain"), (0.05, "constraints")):
        config = SelectionConfig(strategy="k_center", min_gain=min_gain, min_distance=0.3)
        assert select_coreset(POOL.embeddings, 300, config=config).ended_by == ended_by


def test_an_unknown_strategy_and_an_empty_pool_are_refused() -> None:
    with pytest.raises(ConfigError, match=f"one of {', '.join(SELECTORS)}, got 'magic'"):
        select_coreset(POOL.embeddings, 5, strategy="magic")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="at least one modality"):
        select_coreset({}, 5)
    with pytest.raises(DataError, match="must be of the same pairs"):
        select_coreset(POOL.embeddings, 5, features={"image": POOL.features["image"][:9]})


def test_a_budget_above_what_near_duplicates_leave_is_refused() -> None:
    tripled = take_rows(make_clustered_pool(25), np.repeat(np.arange(25), 3))
    config = SelectionConfig(near_duplicates=NearDuplicateConfig(threshold=0.9999))
    assert len(select_coreset(tripled.embeddings, 25, config=config).indices) == 25
    with pytest.raises(GateError, match=r"of 75 unlabelled pairs near_duplicates leaves 25 .* and 26 are asked for"):
        select_coreset(tripled.embeddings, 26, config=config)
    with pytest.raises(GateError, match="of 74 unlabelled pairs near_duplicates leaves 24 "):
        select_coreset(tripled.embeddings, 25, labelled=[0], config=config)


def test_a_first_pick_of_too_small_a_gain_is_not_made() -> None:
    pool = make_pool(POOL.embeddings)
    config = SelectionConfig(strategy="k_center", min_gain=0.01)
    demands = Demands(5, costs=np.full(300, 1000.0))
    with pytest.raises(GateError, match="nothing could be picked"):
        select_from_pool(
            pool, Request(5, NO_ROWS, 0, config, settle_demands(pool, NO_ROWS, config, demands).constraints)
        )
