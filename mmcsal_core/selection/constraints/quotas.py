"""Quotas: how many picks each group gets, and the rule that sees to it.

A group that has reached its maximum is closed. Once the picks left are just those that unmet minimums need, every group
without an unmet minimum is closed. Both only ever close rows, so greedy stays exact. Labelled pairs do not count
towards quotas: a quota says whom to ask about next.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from mmcsal_core.errors import ConfigError, DataError, GateError
from mmcsal_core.neighbors.vectors import Floats, Rows
from mmcsal_core.selection.constraints.config import QuotaConfig
from mmcsal_core.selection.engine.eligibility import NO_ROWS

NULL_GROUP = "null"
"""How the group of pairs whose value is NULL is spelled."""

SHOWN_GROUPS = 20

EQUAL = 1e-9
"""Difference of remainders that are equal but for rounding."""


@dataclass(frozen=True, eq=False)
class Groups:
    """The group of every row.

    Args:
        column: metadata column that the groups are of.
        names: (G,) text of each group, sorted.
        codes: (N,) number of each row's group.
    """

    column: str
    names: tuple[str, ...]
    codes: Rows

    def count(self, rows: Rows) -> Rows:
        """Count rows by group, (G,)."""
        return np.bincount(self.codes[rows], minlength=len(self.names)).astype(np.int64)

    def split(self, rows: Rows) -> list[Rows]:
        """Split rows that are sorted by group into those of each, G arrays."""
        return np.split(rows, np.cumsum(self.count(rows))[:-1])


@dataclass(frozen=True, eq=False)
class QuotaPlan:
    """What each group gets, at least and at most.

    Args:
        groups: of the pool.
        least: (G,) picks.
        most: (G,) picks.
        budget: picks in all.
        held: (H,) rows that meet every least for the least money, where picks cost any: by group, then by cost.
    """

    groups: Groups
    least: Rows
    most: Rows
    budget: int
    held: Rows = field(default_factory=lambda: NO_ROWS)

    def check_met(self, picks: Rows) -> None:
        """Refuse picks that fall short of a minimum, which another limit may have caused.

        Raises:
            GateError: a group has too few picks.
        """
        counts = self.groups.count(picks)
        short = np.flatnonzero(counts < self.least)
        if len(short):
            group = int(short[0])
            raise GateError(
                f"{self.groups.column} {self.groups.names[group]!r} must have {self.least[group]} picks and got "
                f"{counts[group]} before another limit ended the selection ({len(short)} such groups); loosen "
                "min_gain, min_distance, cost_budget or the quota"
            )


def group_rows(column: str, values: pa.ChunkedArray, known: pa.ChunkedArray | None = None) -> Groups:
    """Group rows by the text of a metadata column.

    Args:
        column: its name.
        values: (N,) of the rows.
        known: values of the same column whose groups have a name too, though they may have no row.

    Raises:
        ConfigError: the column has no text form, e.g. lists.
        DataError: the column has both NULL and the text `null`.
    """
    try:
        text = pc.cast(values, pa.string()).combine_chunks()
        known_text = text if known is None else pc.cast(known, pa.string())
    except pa.ArrowException as error:
        raise ConfigError(
            f"quotas.column must hold numbers, booleans, dates or text, {column!r} holds {values.type}; choose another"
        ) from error
    if text.null_count and pc.any(pc.equal(text, NULL_GROUP)).as_py():
        raise DataError(f"{column} has both NULL and the text {NULL_GROUP!r}, which are one word; rename the text")
    names = sorted(pc.unique(pc.fill_null(known_text, NULL_GROUP)).to_pylist())
    codes = pc.index_in(pc.fill_null(text, NULL_GROUP), value_set=pa.array(names, pa.string()))
    return Groups(column, tuple(names), codes.to_numpy(zero_copy_only=False).astype(np.int64))


def plan_quotas(config: QuotaConfig, groups: Groups, is_open: npt.NDArray[np.bool_], budget: int | None) -> QuotaPlan:
    """Turn quotas into a least and a most for each group, and make sure that they can be kept.

    Args:
        config: quotas.
        groups: of N rows.
        is_open: (N,) which rows may be picked.
        budget: picks in all; None where only maximums are asked for and other limits end the selection.

    Raises:
        ConfigError: a quota is of a value that the column does not have.
        GateError: the quotas cannot be kept; the message says which and by how much.
    """
    _refuse_unknown(config, groups)
    available = groups.count(np.flatnonzero(is_open))
    least = _fill_in({**config.minimum, **config.exact}, groups, 0)
    most = _fill_in({**config.maximum, **config.exact}, groups, len(is_open))
    if (least > available).any():
        raise GateError(
            f"quotas need more pairs than may be picked: {_explain_lack(groups, least, available)}; lower the quota, "
            "or loosen where, exclude, near_duplicates, min_distance or cost_budget"
        )
    most = np.minimum(most, available)
    if budget is None:
        return QuotaPlan(groups, least, most, int(most.sum()))
    if least.sum() > budget:
        raise GateError(
            f"minimums sum to {least.sum()} and the budget is {budget}: {least.sum() - budget} too many; lower a "
            "minimum or raise the budget"
        )
    if most.sum() < budget and (config.balance is not None or (most < available).any()):
        raise GateError(_explain_shortage(groups, most, available, budget))
    if config.balance is not None:
        sizes = groups.count(np.arange(len(groups.codes)))
        weights = np.ones(len(sizes)) if config.balance == "equal" else np.maximum(sizes, 1).astype(np.float64)
        least, most = share_out(weights, least, most, budget)
    return QuotaPlan(groups, least, most, budget)


def find_barred(config: QuotaConfig, groups: Groups) -> npt.NDArray[np.bool_]:
    """Return the rows (N,) of groups that get no pick."""
    return np.asarray(_fill_in({**config.maximum, **config.exact}, groups, 1)[groups.codes] == 0)


def share_out(weights: Floats, least: Rows, most: Rows, total: int) -> tuple[Rows, Rows]:
    """Share picks out in proportion to weights, within limits, by the method of largest remainders.

    Of groups with equal remainders, where not all can be rounded up, any may be. What a group cannot take, or has
    beyond its share, is shared out among the groups that no limit holds, in proportion again, as water would fill
    vessels of these widths.

    Args:
        weights: (G,) above 0.
        least: (G,) picks that each group has at least.
        most: (G,) picks that it has at most.
        total: between the sums of `least` and `most`.

    Returns:
        (G,) picks at least and (G,) at most, which differ by 1 where remainders are equal, else not at all.
    """
    wanted = _fill(weights, least, most, total)
    shares = np.floor(wanted).astype(np.int64)
    num_left = total - int(shares.sum())
    if num_left == 0:
        return shares, shares
    remainders = wanted - shares
    last = np.sort(remainders)[-num_left]  # the smallest that is rounded up
    fewest = shares + (remainders > last + EQUAL)
    largest = shares + (remainders >= last - EQUAL)
    return (largest if largest.sum() == total else fewest), largest


class Quotas:
    """The rule of a plan. Groups close and never open again."""

    def __init__(self, plan: QuotaPlan) -> None:
        self._plan = plan
        self._members = plan.groups.split(np.argsort(plan.groups.codes, kind="stable").astype(np.int64))
        self._counts = np.zeros(len(plan.groups.names), dtype=np.int64)
        self._is_closed = np.zeros(len(plan.groups.names), dtype=bool)

    def close_at_start(self) -> Rows:
        """Return the rows of groups that get no pick."""
        return self._close()

    def close_after(self, row: int) -> Rows:
        """Count a pick; return the rows of groups that get no more."""
        self._counts[self._plan.groups.codes[row]] += 1
        return self._close()

    def _close(self) -> Rows:
        unmet = np.maximum(self._plan.least - self._counts, 0)
        is_done = self._counts >= self._plan.most
        if self._plan.budget - int(self._counts.sum()) <= int(unmet.sum()):
            is_done |= unmet == 0
        closing = np.flatnonzero(is_done & ~self._is_closed)
        self._is_closed[closing] = True
        return np.concatenate([self._members[group] for group in closing]) if len(closing) else NO_ROWS


def _fill(weights: Floats, least: Rows, most: Rows, total: int) -> Floats:
    """Return shares that need not be whole: one multiple of all weights, cut to the limits."""
    wanted, is_free = np.zeros(len(weights)), np.ones(len(weights), dtype=bool)
    while is_free.any():
        rest = total - wanted[~is_free].sum()
        wanted = np.where(is_free, rest * weights / weights[is_free].sum(), wanted)
        within = np.clip(wanted, least, most)
        change = within - wanted
        if not change.any():
            break
        is_cut = change < 0 if change.sum() <= 0 else change > 0  # the others may come within their limits yet
        wanted = np.where(is_cut, within, wanted)
        is_free &= ~is_cut
    return wanted


def _fill_in(quotas: Mapping[str, int], groups: Groups, default: int) -> Rows:
    return np.array([quotas.get(name, default) for name in groups.names], dtype=np.int64)


def _refuse_unknown(config: QuotaConfig, groups: Groups) -> None:
    asked = {**config.exact, **config.minimum, **config.maximum}
    unknown = sorted(set(asked) - set(groups.names))
    if unknown:
        shown = ", ".join(groups.names[:SHOWN_GROUPS]) + (", ..." if len(groups.names) > SHOWN_GROUPS else "")
        raise ConfigError(f"quotas are of values of the column {groups.column!r}, got {unknown[0]!r}; it has {shown}")


def _explain_lack(groups: Groups, least: Rows, available: Rows) -> str:
    return name_first(
        [
            f"{groups.column} {groups.names[group]!r} needs {least[group]} pairs and has {available[group]}: "
            f"{least[group] - available[group]} too many"
            for group in np.flatnonzero(least > available).tolist()
        ]
    )


def _explain_shortage(groups: Groups, most: Rows, available: Rows, budget: int) -> str:
    capped = np.flatnonzero(most < available).tolist()
    bound = [f"{groups.names[group]!r} {most[group]} of {available[group]}" for group in capped]
    return (
        f"the quotas on {groups.column} let {most.sum()} pairs be picked and the budget is {budget}: "
        f"{budget - most.sum()} too few ({name_first(bound) or 'balance shares the whole budget out'}); raise a "
        "maximum, lower the budget, or loosen where, exclude, near_duplicates, min_distance or cost_budget"
    )


def name_first(groups: Sequence[str]) -> str:
    """Join what is said of each group; of many only the first are named."""
    more = [f"{len(groups) - SHOWN_GROUPS} more"] if len(groups) > SHOWN_GROUPS else []
    return "; ".join([*groups[:SHOWN_GROUPS], *more])
