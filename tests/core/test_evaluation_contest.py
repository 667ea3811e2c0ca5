"""The contest: who picks how often, that picks hang on no label, and what is refused."""

import dataclasses
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

from mmcsal_core.errors import ConfigError, GateError
from mmcsal_core.evaluation import (
    NO_LABEL,
    EvaluateConfig,
    LabelledPool,
    make_contestants,
    make_splits,
    run_contest,
)
from mmcsal_core.evaluation.config import STRATEGIES
from mmcsal_core.schema_evaluation import contest_schema
from mmcsal_core.selection import SelectionConfig, select_coreset
from tests.core.labelled_pools import NUM_CLASSES, make_labelled_pool

QUICK = SelectionConfig.model_validate({"continuous": {"num_steps": 3}})
FEW: dict[str, Any] = {"budgets_per_class": (1, 2), "num_splits": 2, "num_seeds": 2, "probes": ("knn",)}


def contest(pool: LabelledPool, test: LabelledPool | None = None, **changes: Any) -> pd.DataFrame:
    config = EvaluateConfig(**{**FEW, **changes})
    table = run_contest(pool, make_contestants(config, QUICK), config, 3, test)
    assert table.schema.equals(contest_schema(), check_metadata=True)
    frame: pd.DataFrame = table.to_pandas()
    return frame


def test_every_strategy_contends_with_every_budget_split_and_probe_and_draws_where_it_draws() -> None:
    frame = contest(make_labelled_pool(), probes=("features", "knn"), baseline_budgets_per_class=(2, 3, 99))
    drawing = {"random", "kmeans", "typiclust", "probcover", "activeft", "mmcsal_continuous"}
    expected = []
    for strategy, split, probe in product(STRATEGIES, (0, 1), ("features", "knn")):
        further = (18, int(frame[frame["strategy"] == "random"]["budget"].max())) if strategy == "random" else ()
        draws = (0, 1) if strategy in drawing else (0,)
        expected += list(product([strategy], [6, 12, *further], [split], draws, [probe]))
    found = frame[["contestant", "budget", "split", "seed", "probe"]].itertuples(index=False, name=None)
    assert sorted(found) == sorted(expected)
    assert (frame["num_picks"] == frame["budget"]).all()
    num_pool = make_splits(make_labelled_pool(), EvaluateConfig(), 3)[0].pool.num_pairs
    assert frame["budget"].max() == num_pool
    assert (frame[frame["budget"] == num_pool]["class_coverage"] == 1).all()


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_what_is_said_of_draws_and_prefixes_is_so(strategy: str) -> None:
    pool = make_labelled_pool()
    config = EvaluateConfig(strategies=({"strategy": strategy, "refine": "none"},))
    (contestant,) = make_contestants(config, QUICK)

    def pick(budget: int, seed: int) -> list[int]:
        chosen = select_coreset(pool.embeddings, budget, features=pool.features, seed=seed, config=contestant.config)
        return [int(row) for row in chosen.indices]

    if not contestant.is_drawn:
        assert pick(20, 1) == pick(20, 2) == pick(20, 3)
    if contestant.is_prefix:
        assert [pick(budget, 1) for budget in (1, 7, 19)] == [pick(20, 1)[:budget] for budget in (1, 7, 19)]


def test_a_row_is_what_the_selection_and_the_truth_say() -> None:
    pool = make_labelled_pool()
    frame = contest(pool, strategies=("mmcsal", "maxherding"), probes=("knn",))
    splits = make_splits(pool, EvaluateConfig(**FEW), 3)
    for row in frame.to_dict("records"):
        split = splits[row["split"]]
        chosen = select_coreset(
            split.pool.embeddings, row["budget"], features=split.pool.features, strategy=row["strategy"], config=QUICK
        ).indices
        labels, mispaired = split.pool.labels, split.pool.mispaired
        assert mispaired is not None
        assert row["mispaired_share"] == mispaired[chosen].mean()
        assert row["class_coverage"] == len(set(labels[chosen])) / len(set(labels))
        joint = [np.hstack(list(part.embeddings.values())).astype(float) for part in (split.pool, split.test)]
        nearest = [int(np.linalg.norm(joint[0][chosen] - vector, axis=1).argmin()) for vector in joint[1]]
        assert row["accuracy"] == pytest.approx((labels[chosen][nearest] == split.test.labels).mean())


def test_picks_hang_on_no_label() -> None:
    pool = make_labelled_pool()
    _, test = make_splits(pool, EvaluateConfig(**FEW), 3)[0], make_labelled_pool(90, seed=1)
    shuffled = np.random.default_rng(0).permutation(pool.labels)
    other = LabelledPool(pool.embeddings, pool.features, shuffled, pool.mispaired)
    one, two = contest(pool, test), contest(other, test)
    assert one["mispaired_share"].tolist() == two["mispaired_share"].tolist()
    assert one["accuracy"].tolist() != two["accuracy"].tolist()


def test_what_is_known_of_mispaired_pairs_reaches_those_who_ask() -> None:
    pool = make_labelled_pool()
    assert pool.mispaired is not None
    told = dataclasses.replace(pool, suspicion=pool.mispaired.astype(np.float64))
    shares = [contest(each, strategies=("mmcsal", "coverage")).set_index("strategy") for each in (pool, told)]
    before, after = (frame["mispaired_share"] for frame in shares)
    assert after["mmcsal"].mean() < before["mmcsal"].mean()
    assert after["coverage"].tolist() == before["coverage"].tolist()
    one, *_ = make_splits(told, EvaluateConfig(**FEW), 3)
    np.testing.assert_array_equal(one.pool.suspicion, one.pool.mispaired)


def test_a_test_of_ones_own_leaves_the_whole_pool_to_pick_from() -> None:
    pool, test = make_labelled_pool(), make_labelled_pool(90, seed=0)
    frame = contest(pool, test, strategies=("random",), baseline_budgets_per_class=(1000,))
    assert set(frame["split"]) == {0}
    assert frame["budget"].max() == pool.num_pairs


def test_equal_arguments_give_equal_tables_and_another_seed_others() -> None:
    pool, config = make_labelled_pool(), EvaluateConfig(**FEW, strategies=("random", "kmeans"))
    contestants = make_contestants(config, QUICK)
    first, again, other = (run_contest(pool, contestants, config, seed) for seed in (1, 1, 2))
    assert first.equals(again)
    assert not first.equals(other)


def test_a_pool_without_labels_teaches_nothing() -> None:
    pool = make_labelled_pool()
    labels = np.where(np.arange(pool.num_pairs) < 200, NO_LABEL, pool.labels)
    frame = contest(
        LabelledPool(pool.embeddings, pool.features, labels), strategies=("random", "k_center"), budgets=(1,)
    )
    is_blind = frame["num_labels"] == 0
    assert is_blind.any()
    assert (frame[is_blind][["accuracy", "balanced_accuracy", "class_coverage"]] == 0).all(axis=None)
    assert frame["mispaired_share"].isna().all()
    assert frame["mispaired_share_of_pool"].isna().all()


def test_contestants_take_over_what_is_configured_but_not_its_limits() -> None:
    base = SelectionConfig.model_validate(
        {"strategy": "k_center", "space": "text", "min_gain": 0.1, "lambda_align": 0.2, "max_refine_rounds": 3}
    )
    entry = {"name": "ours", "strategy": "mmcsal", "space": "joint", "kernel": {"horizon": 0.5}}
    config = EvaluateConfig(strategies=("random", entry))
    random, ours = make_contestants(config, base)
    assert (random.name, random.config.strategy, random.config.space) == ("random", "random", "text")
    assert (ours.name, ours.config.space, ours.config.kernel.horizon) == ("ours", "joint", 0.5)
    assert (ours.config.min_gain, ours.config.lambda_align, ours.config.max_refine_rounds) == (None, 0.2, 3)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"strategies": ("kmean",)}, "a strategy is one of mmcsal, .*, got 'kmean'; choose one of them"),
        ({"strategies": ({"name": "x"},)}, "a strategy is one of .*, got None"),
        ({"strategies": ("random", "random")}, "got 'random' twice; add name: to one"),
        ({"strategies": ({"strategy": "mmcsal", "lamda_div": 1},)}, "'mmcsal' has a wrong key 'lamda_div'"),
        ({"strategies": ({"strategy": "mmcsal", "name": 3},)}, "is text, got 3; write e.g. name: mmcsal"),
        ({"strategies": ({"strategy": "kmeans", "name": "random"},)}, "got strategy kmeans; name it otherwise"),
        ({"budgets_per_class": ()}, "needs a budget, got none; give budgets or budgets_per_class"),
        ({"budgets": (5, 0)}, "a budget is 1 or more, got 0; leave it out"),
        ({"probes": ("knn", "knn")}, "each probe is named once, got knn, knn"),
        ({"probes": ()}, "probes"),
        ({"num_splits": 0}, "num_splits"),
        ({"test_fraction": 1.0}, "test_fraction"),
    ],
)
def test_a_contest_that_cannot_be_held_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        EvaluateConfig(**changes)


def test_a_budget_larger_than_the_pool_is_refused() -> None:
    words = rf"900 pairs are asked for \({NUM_CLASSES} classes\) and 16\d are there; lower budgets"
    with pytest.raises(GateError, match=words):
        contest(make_labelled_pool(), strategies=("random",), budgets=(900,))


def test_a_space_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match="got 'imag'"):
        contest(make_labelled_pool(), strategies=({"strategy": "k_center", "space": "imag"},))
