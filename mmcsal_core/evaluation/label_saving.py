"""Label saving: "random needs x times the labels for the same accuracy", read from the baseline's own curve."""

from typing import Any

import numpy as np
import pyarrow as pa

from mmcsal_core.evaluation.config import RANDOM
from mmcsal_core.neighbors.vectors import Floats
from mmcsal_core.schema_evaluation import (
    BALANCED_ACCURACY,
    BUDGET,
    CONTESTANT,
    PROBE,
    SPLIT,
    STRATEGY,
    label_saving_schema,
)


def measure_label_saving(table: pa.Table, baseline: str = RANDOM) -> pa.Table:
    """Say how many labels the baseline needs for what each contestant's picks teach.

    The baseline's mean balanced accuracy is joined by straight lines over the logarithm of the budget. Where it falls
    with more labels, what it had reached before counts.

    Args:
        table: under `contest_schema`, of one or more splits.
        baseline: name of a contestant.

    Returns:
        A table under `label_saving_schema`, without the baseline. Nothing is extrapolated: where the curve does not
        reach, the factor is null and the reason says so.
    """
    frame = table.to_pandas()
    means = frame.groupby([PROBE, CONTESTANT, STRATEGY, BUDGET, SPLIT], sort=False)[BALANCED_ACCURACY].mean()
    curves = means.groupby(level=[PROBE, CONTESTANT, STRATEGY, BUDGET], sort=False).mean().reset_index()
    rows: list[dict[str, Any]] = []
    for _, own in curves.groupby(PROBE, sort=False):
        curve = own[own[CONTESTANT] == baseline].sort_values(BUDGET)
        budgets, reached = curve[BUDGET].to_numpy(np.float64), curve[BALANCED_ACCURACY].to_numpy(np.float64)
        for row in own[own[CONTESTANT] != baseline].to_dict("records"):
            needed, reason = find_budget(budgets, reached, row[BALANCED_ACCURACY])
            factor = None if needed is None else needed / row[BUDGET]
            rows.append({**row, "baseline": baseline, "baseline_budget": needed, "factor": factor, "reason": reason})
    return pa.Table.from_pylist(rows, schema=label_saving_schema())


def find_budget(budgets: Floats, reached: Floats, wanted: float) -> tuple[float | None, str | None]:
    """Return the least budget with which a curve reaches what is wanted, or why there is none.

    Args:
        budgets: (n,) rising.
        reached: (n,) value at each budget.
        wanted: value.
    """
    if len(budgets) == 0:
        return None, "the baseline is no contestant"
    best = np.maximum.accumulate(reached)
    if wanted < best[0]:
        return None, f"below the baseline's {best[0]:.3f} at its smallest budget, {budgets[0]:.0f}"
    if wanted > best[-1]:
        return None, f"above the baseline's {best[-1]:.3f} at its largest budget, {budgets[-1]:.0f}"
    end = int(np.argmax(best >= wanted))
    if end == 0:
        return float(budgets[0]), None
    share = (wanted - best[end - 1]) / (best[end] - best[end - 1])
    low, high = np.log(budgets[end - 1 : end + 1])
    return float(np.exp(low + share * (high - low))), None
