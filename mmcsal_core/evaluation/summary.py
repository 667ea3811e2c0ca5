"""What a contest comes to: means, intervals, and paired differences to random and to the best baseline.

Draws are averaged within a split, and an interval is Student's t over splits. Splits share pairs, so they are not quite
independent and the intervals are somewhat too narrow; differences are taken split by split, where much of what the
splits share cancels out.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from scipy import stats

from mmcsal_core.evaluation.config import OURS, RANDOM
from mmcsal_core.neighbors.vectors import Floats
from mmcsal_core.schema_evaluation import (
    BUDGET,
    CONTESTANT,
    MEASURE,
    MISPAIRED_SHARE,
    PICK_MEASURES,
    PROBE,
    PROBE_MEASURES,
    SPLIT,
    STRATEGY,
    summary_schema,
)

LESS_IS_BETTER = (MISPAIRED_SHARE,)


@dataclass(frozen=True)
class Interval:
    """A mean and the ends of its interval, which are None where there is one value."""

    mean: float
    low: float | None
    high: float | None

    def name(self, prefix: str) -> dict[str, float | None]:
        """Return the three columns of a table."""
        return {prefix: self.mean, f"{prefix}_low": self.low, f"{prefix}_high": self.high}


def measure_interval(values: Floats, confidence: float) -> Interval:
    """Return the mean of values and its interval by Student's t.

    Args:
        values: (n,), at least one.
        confidence: in (0, 1).
    """
    mean = float(values.mean())
    if len(values) < 2:
        return Interval(mean, None, None)
    error = float(values.std(ddof=1) / np.sqrt(len(values)))
    half = error * float(stats.t.ppf((1 + confidence) / 2, len(values) - 1))
    return Interval(mean, mean - half, mean + half)


def summarise(table: pa.Table, confidence: float = 0.95) -> pa.Table:
    """Sum a contest up, by measure, probe, contestant and budget.

    The best baseline has the best mean over the budgets that all contestants share; it is none whose strategy is ours.
    It is chosen after the fact, which favours it.

    Args:
        table: under `contest_schema`, of one or more splits.
        confidence: of the intervals, in (0, 1).

    Returns:
        A table under `summary_schema`. A measure that is not known is left out.
    """
    frame = table.to_pandas()
    rows: list[dict[str, Any]] = []
    for probe in frame[PROBE].unique():
        for measure in PROBE_MEASURES:
            rows += _sum_up(_Standing(frame[frame[PROBE] == probe], measure, confidence), probe)
    for measure in PICK_MEASURES:
        first = frame[(frame[PROBE] == frame[PROBE].iloc[0]) & frame[measure].notna()]
        if len(first):
            rows += _sum_up(_Standing(first, measure, confidence), None)
    return pa.Table.from_pylist(rows, schema=summary_schema())


class _Standing:
    """One measure by contestant, budget and split."""

    def __init__(self, frame: pd.DataFrame, measure: str, confidence: float) -> None:
        self.measure, self.confidence = measure, confidence
        self.strategies: dict[str, str] = dict(
            frame[[CONTESTANT, STRATEGY]].drop_duplicates().itertuples(index=False, name=None)
        )
        self._means = frame.groupby([CONTESTANT, BUDGET, SPLIT])[measure].mean()
        own = [set(each[BUDGET]) for _, each in frame.groupby(CONTESTANT)]
        self.shared = sorted(set.intersection(*own))

    def list_budgets(self, contestant: str) -> list[int | None]:
        """Return the budgets of a contestant, and None for the mean over those that all share."""
        own = self._means[contestant].index.get_level_values(BUDGET).unique()
        return [*sorted(int(budget) for budget in own), *([None] if self.shared else [])]

    def read(self, contestant: str, budget: int | None) -> Floats:
        """Return one value a split."""
        budgets = self.shared if budget is None else [budget]
        values = np.array([self._means[contestant, each].sort_index().to_numpy() for each in budgets])
        return np.asarray(values.mean(axis=0), dtype=np.float64)

    def find_best_baseline(self) -> str | None:
        """Return the name of the best baseline, the earlier one of two equals; None where there is none."""
        sign = -1.0 if self.measure in LESS_IS_BETTER else 1.0
        baselines: list[str] = [name for name, strategy in self.strategies.items() if strategy not in OURS]
        if not baselines or not self.shared:
            return None
        means = {name: sign * float(self.read(name, None).mean()) for name in baselines}
        return max(means, key=means.__getitem__)

    def compare(self, contestant: str, other: str | None, budget: int | None, prefix: str) -> dict[str, float | None]:
        """Return the paired difference to another contestant; empty where it is none or did not pick so many."""
        if other is None or other == contestant or other not in self.strategies:
            return {}
        if budget not in self.list_budgets(other):
            return {}
        difference = self.read(contestant, budget) - self.read(other, budget)
        return measure_interval(difference, self.confidence).name(prefix)


def _sum_up(standing: _Standing, probe: str | None) -> list[dict[str, Any]]:
    best = standing.find_best_baseline()
    return [
        {
            MEASURE: standing.measure,
            PROBE: probe,
            CONTESTANT: contestant,
            STRATEGY: strategy,
            BUDGET: budget,
            **measure_interval(standing.read(contestant, budget), standing.confidence).name("mean"),
            "num_splits": len(standing.read(contestant, budget)),
            **standing.compare(contestant, RANDOM, budget, "difference_to_random"),
            "best_baseline": best,
            **standing.compare(contestant, best, budget, "difference_to_best"),
        }
        for contestant, strategy in standing.strategies.items()
        for budget in standing.list_budgets(contestant)
    ]
