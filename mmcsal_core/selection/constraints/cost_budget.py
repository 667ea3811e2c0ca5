"""A cost budget: picks may not cost more together than there is, and minimums of groups must be met from it."""

import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from mmcsal_core.errors import ConfigError, DataError, GateError
from mmcsal_core.neighbors.vectors import Floats, Rows
from mmcsal_core.selection.constraints.quotas import Groups, QuotaPlan, name_first
from mmcsal_core.selection.engine.eligibility import NO_ROWS

ROUNDING = 4 * float(np.finfo(np.float64).eps)
"""Share of the cost budget that sums of costs may pass it by, so that ten times 0.1 is 1."""


def allow(budget: float) -> float:
    """Return what may be spent of a cost budget; sums are compared with it as exact as they are."""
    return budget * (1 + ROUNDING)


def read_costs(column: str, values: pa.ChunkedArray, ids: pa.ChunkedArray) -> Floats:
    """Return the cost of every row.

    Args:
        column: name of the metadata column.
        values: (N,) its values.
        ids: (N,) pair ids, for the message.

    Raises:
        ConfigError: the column holds no numbers.
        DataError: a cost is missing, not finite, or not above 0.
    """
    kind = values.type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)):
        raise ConfigError(f"cost_column must hold numbers, {column!r} holds {kind}; choose another column")
    costs: Floats = pc.cast(values, pa.float64(), safe=False).to_numpy().astype(np.float64)
    wrong = np.flatnonzero(~(np.isfinite(costs) & (costs > 0)))
    if len(wrong):
        row = int(wrong[0])
        raise DataError(
            f"a cost is a number above 0, but {column} of pair {ids[row].as_py()!r} is {values[row].as_py()} "
            f"({len(wrong)} such pairs); correct it, or leave such pairs out with where"
        )
    return costs


def hold_back(plan: QuotaPlan, is_open: npt.NDArray[np.bool_], costs: Floats, budget: float) -> QuotaPlan:
    """Add to a plan the rows that money is held back for, and make sure that there is enough.

    Args:
        plan: what each group gets.
        is_open: (N,) which rows may be picked.
        costs: (N,) above 0.
        budget: what there is to spend.

    Raises:
        GateError: the cheapest rows that meet the minimums cost more than the budget.
    """
    codes, rows = plan.groups.codes, np.flatnonzero(is_open)
    order = rows[np.lexsort((rows, costs[rows], codes[rows]))]
    place = np.arange(len(order)) - np.searchsorted(codes[order], codes[order])
    held = order[place < plan.least[codes[order]]]
    if math.fsum(costs[held].tolist()) > allow(budget):
        raise GateError(_explain(plan, held, costs, budget))
    return replace(plan, held=held)


class CostBudget:
    """The rule that closes for good what cannot be paid for beside the minimums.

    Money is held back for the cheapest rows that meet what is unmet of the minimums, and what else a pick costs comes
    from the rest. So a row is open just where the picks, it and some rows for the minimums can be paid for together.
    What could be paid for beside more picks could be beside fewer: a row once closed could not be afforded later.

    Rows that other rules close as picks are made, such as the minimum distance, count as there. So never too much is
    held back, but it may be too little; `QuotaPlan.check_met` refuses such picks.

    Args:
        costs: (N,) above 0.
        budget: what there is to spend, finite.
        plan: from `hold_back`, where there are quotas.
    """

    def __init__(self, costs: Floats, budget: float, plan: QuotaPlan | None = None) -> None:
        groups = Groups("", ("",), np.zeros(len(costs), dtype=np.int64)) if plan is None else plan.groups
        held = NO_ROWS if plan is None else plan.held
        self._costs, self._codes = costs, groups.codes
        self._rising = groups.split(np.lexsort((costs, groups.codes)).astype(np.int64))
        self._prices = [costs[rows] for rows in self._rising]
        self._num_open = [len(rows) for rows in self._rising]
        self._dearest = np.array([prices.max(initial=-np.inf) for prices in self._prices])
        self._held = [rows.tolist() for rows in groups.split(held)]
        self._held_price = np.array([costs[rows].max(initial=0.0) for rows in self._held])
        self._is_held = np.zeros(len(costs), dtype=bool)
        self._is_held[held] = True
        self._free = max(Fraction(0), Fraction(allow(budget)) - sum(map(Fraction, costs[held].tolist())))

    def close_at_start(self) -> Rows:
        """Return the rows that cost more than there is beside the minimums."""
        return self._close()

    def close_after(self, row: int) -> Rows:
        """Pay for a pick; return the rows that cost more than is left beside the minimums."""
        spent = Fraction(float(self._costs[row])) - Fraction(self._release(row))
        self._free = max(Fraction(0), self._free - spent)
        return self._close()

    def _release(self, row: int) -> float:
        """Return the price of the row for which money is held back no more: the pick or the dearest of its group."""
        group = int(self._codes[row])
        held = self._held[group]
        if not held:
            return 0.0
        released = row if self._is_held[row] else held[-1]
        self._is_held[released] = False
        while held and not self._is_held[held[-1]]:
            held.pop()
        self._held_price[group] = self._costs[held[-1]] if held else 0.0
        return float(self._costs[released])

    def _close(self) -> Rows:
        limits = (
            float(self._free) + self._held_price
        )  # a pick of such a group releases the money of the dearest held row
        closing = [self._cut(group, limits[group]) for group in np.flatnonzero(self._dearest > limits).tolist()]
        return np.concatenate(closing) if closing else NO_ROWS

    def _cut(self, group: int, limit: float) -> Rows:
        """Return the open rows of a group that cost more, and count them as closed."""
        stop, start = self._num_open[group], int(np.searchsorted(self._prices[group], limit, side="right"))
        self._num_open[group] = start
        self._dearest[group] = self._prices[group][start - 1] if start else -np.inf
        return self._rising[group][start:stop]


def _explain(plan: QuotaPlan, held: Rows, costs: Floats, budget: float) -> str:
    groups = plan.groups
    sums = np.bincount(groups.codes[held], costs[held], minlength=len(groups.names))
    dearest = [group for group in np.argsort(-sums, kind="stable").tolist() if sums[group] > 0]
    shown = [f"{groups.names[group]!r} {sums[group]:.12g} for {plan.least[group]} pairs" for group in dearest]
    return (
        f"the quotas on {groups.column} cost at least {sums.sum():.12g} and cost_budget is {budget:.12g}: "
        f"{name_first(shown)}; raise cost_budget or lower a quota"
    )
