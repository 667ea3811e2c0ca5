"""Means, intervals, paired differences and label savings against brute force and against curves that are known."""

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from scipy import stats

from mmcsal_core.evaluation import measure_label_saving, summarise
from mmcsal_core.evaluation.label_saving import find_budget
from mmcsal_core.evaluation.summary import measure_interval
from mmcsal_core.schema_evaluation import contest_schema, label_saving_schema, summary_schema

BUDGETS = {"mmcsal": (10, 20), "random": (10, 20, 40), "kmeans": (10, 20), "coverage": (10, 20)}
SPLITS, DRAWS = range(4), range(3)
RANKS = {"random": 1, "kmeans": 2, "mmcsal": 3, "coverage": 4}


def make_table(score: Callable[[str, int, int, int], float], *, mispaired: bool = True) -> pa.Table:
    """Make a contest of made scores by strategy, budget, split and draw; the second probe scores half."""
    rows: list[dict[str, Any]] = []
    for name, split, draw, (probe, share) in product(BUDGETS, SPLITS, DRAWS, (("features", 1.0), ("knn", 0.5))):
        for budget in BUDGETS[name]:
            value = share * score(name, budget, split, draw)
            row = {"contestant": name, "strategy": name, "budget": budget, "split": split, "seed": draw, "probe": probe}
            row |= {"accuracy": value / 2, "balanced_accuracy": value, "class_coverage": 0.5}
            row |= {"mispaired_share": RANKS[name] / 100 if mispaired else None, "mispaired_share_of_pool": None}
            rows.append(row | {"num_picks": budget, "num_labels": budget})
    return pa.Table.from_pylist(rows, schema=contest_schema())


def draw_scores(name: str, budget: int, split: int, draw: int) -> float:
    rng = np.random.default_rng([RANKS[name], budget, split, draw])
    return float(rng.normal(loc=RANKS[name] / 10 + budget / 100, scale=0.05))


@pytest.fixture(scope="module")
def table() -> pa.Table:
    return make_table(draw_scores)


@pytest.fixture(scope="module")
def summary(table: pa.Table) -> pd.DataFrame:
    summed = summarise(table, 0.9)
    assert summed.schema.equals(summary_schema(), check_metadata=True)
    frame: pd.DataFrame = summed.to_pandas()
    return frame


def find_row(summary: pd.DataFrame, measure: str, probe: str | None, contestant: str, budget: int | None) -> pd.Series:
    is_wanted = (summary["measure"] == measure) & (summary["contestant"] == contestant)
    is_wanted &= summary["probe"].isna() if probe is None else summary["probe"] == probe
    is_wanted &= summary["budget"].isna() if budget is None else summary["budget"] == budget
    assert is_wanted.sum() == 1
    row: pd.Series = summary[is_wanted].iloc[0]
    return row


def average_draws(name: str, budget: int, share: float = 1.0) -> np.ndarray:
    return np.array([share * np.mean([draw_scores(name, budget, split, draw) for draw in DRAWS]) for split in SPLITS])


def test_an_interval_is_that_of_students_t() -> None:
    values = np.array([0.2, 0.5, 0.3, 0.9])
    low, high = stats.t.interval(0.95, 3, loc=values.mean(), scale=stats.sem(values))
    found = measure_interval(values, 0.95)
    assert (found.mean, found.low, found.high) == pytest.approx((values.mean(), low, high))
    assert measure_interval(values[:1], 0.95).name("x") == {"x": 0.2, "x_low": None, "x_high": None}


@pytest.mark.parametrize("budget", [10, 20, None])
@pytest.mark.parametrize(("probe", "share"), [("features", 1.0), ("knn", 0.5)])
def test_a_row_sums_the_splits_up(summary: pd.DataFrame, budget: int | None, probe: str, share: float) -> None:
    def read(name: str) -> np.ndarray:
        own = (10, 20) if budget is None else (budget,)
        return np.asarray(np.mean([average_draws(name, each, share) for each in own], axis=0))

    row = find_row(summary, "balanced_accuracy", probe, "mmcsal", budget)
    expected = {"mean": read("mmcsal"), "difference_to_random": read("mmcsal") - read("random")}
    expected["difference_to_best"] = read("mmcsal") - read("coverage")
    assert (row["best_baseline"], row["num_splits"]) == ("coverage", 4)
    for prefix, values in expected.items():
        low, high = stats.t.interval(0.9, 3, loc=values.mean(), scale=stats.sem(values))
        assert row[[prefix, f"{prefix}_low", f"{prefix}_high"]].tolist() == pytest.approx([values.mean(), low, high])


def test_nobody_is_compared_with_itself_or_with_who_did_not_pick_so_many(summary: pd.DataFrame) -> None:
    assert np.isnan(find_row(summary, "accuracy", "knn", "random", 10)["difference_to_random"])
    assert np.isnan(find_row(summary, "accuracy", "knn", "coverage", 10)["difference_to_best"])
    assert np.isnan(find_row(summary, "accuracy", "knn", "random", 40)["difference_to_best"])
    assert not np.isnan(find_row(summary, "accuracy", "knn", "random", 20)["difference_to_best"])


def test_measures_of_picks_are_summed_up_once_and_the_fewest_mispaired_are_best(summary: pd.DataFrame) -> None:
    shares = summary[summary["measure"] == "mispaired_share"]
    assert shares["probe"].isna().all()
    assert set(shares["best_baseline"]) == {"random"}
    assert len(shares) == sum(len(budgets) + 1 for budgets in BUDGETS.values())
    unknown = summarise(make_table(draw_scores, mispaired=False)).to_pandas()
    assert set(unknown["measure"]) == {"balanced_accuracy", "accuracy", "class_coverage"}


def test_one_split_has_no_interval(table: pa.Table) -> None:
    frame = table.to_pandas()
    one = summarise(pa.Table.from_pandas(frame[frame["split"] == 0], schema=contest_schema())).to_pandas()
    assert one[["mean_low", "mean_high", "difference_to_random_low"]].isna().all(axis=None)
    assert find_row(one, "balanced_accuracy", "features", "mmcsal", 10)["mean"] == average_draws("mmcsal", 10)[0]


def test_without_baselines_there_is_nothing_to_compare_with(table: pa.Table) -> None:
    frame = table.to_pandas()
    alone = summarise(pa.Table.from_pandas(frame[frame["contestant"] == "mmcsal"], schema=contest_schema())).to_pandas()
    assert alone[["best_baseline", "difference_to_random", "difference_to_best"]].isna().all(axis=None)


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (0.2, 10.0),
        (0.5, 20.0),
        (0.35, np.sqrt(200.0)),
        (0.8, 80.0),
        (0.65, np.exp((np.log(40) + np.log(80)) / 2)),
    ],
)
def test_the_budget_is_read_off_the_curve_over_its_logarithm(wanted: float, expected: float) -> None:
    budgets, reached = np.array([10.0, 20, 40, 80]), np.array([0.2, 0.5, 0.4, 0.8])
    budget, reason = find_budget(budgets, reached, wanted)
    assert reason is None
    assert budget == pytest.approx(expected)


def test_nothing_is_read_where_the_curve_does_not_reach() -> None:
    budgets, reached = np.array([10.0, 20]), np.array([0.25, 0.5])
    assert find_budget(budgets, reached, 0.2) == (None, "below the baseline's 0.250 at its smallest budget, 10")
    assert find_budget(budgets, reached, 0.6) == (None, "above the baseline's 0.500 at its largest budget, 20")
    assert find_budget(budgets[:0], reached[:0], 0.6) == (None, "the baseline is no contestant")


def test_a_contestant_twice_as_frugal_saves_half_of_the_labels() -> None:
    def score(name: str, budget: int, split: int, draw: int) -> float:
        return float(np.log((2 if name == "mmcsal" else 1) * budget) + (split - 1.5) / 10 + (draw - 1) / 10)

    saving = measure_label_saving(make_table(score))
    assert saving.schema.equals(label_saving_schema(), check_metadata=True)
    frame = saving.to_pandas()
    assert "random" not in set(frame["contestant"])
    ours = frame[(frame["contestant"] == "mmcsal") & (frame["probe"] == "knn")]
    assert ours["factor"].tolist() == pytest.approx([2.0, 2.0])
    assert ours["baseline_budget"].tolist() == pytest.approx([20.0, 40.0])
    assert frame[frame["contestant"] == "kmeans"]["factor"].tolist() == pytest.approx([1.0] * 4)
    none = measure_label_saving(make_table(score), baseline="maxherding").to_pandas()
    assert none["factor"].isna().all()
    assert set(none["reason"]) == {"the baseline is no contestant"}
