"""Who may still be picked. Rows only ever leave, so a priority computed earlier stays an upper bound."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from mmcsal_core.neighbors.vectors import Floats, Rows

NO_ROWS: Rows = np.empty(0, dtype=np.int64)


class Rule(Protocol):
    """A constraint on the picks that closes rows for good as picks are made."""

    def close_at_start(self) -> Rows:
        """Return the rows that may not be picked at all."""

    def close_after(self, row: int) -> Rows:
        """Count a pick; return the rows, beside itself, that may not be picked from now on; repeats are allowed."""


class Eligibility:
    """The open rows of a pool.

    Args:
        num_rows: N.
        closed: rows that may not be picked: labelled, excluded, left for later.
        rules: what closes rows as picks are made.
    """

    def __init__(self, num_rows: int, closed: Rows = NO_ROWS, rules: Sequence[Rule] = ()) -> None:
        self.is_open: npt.NDArray[np.bool_] = np.ones(num_rows, dtype=bool)
        self.is_open[closed] = False
        self._rules = tuple(rules)
        for rule in self._rules:
            self.is_open[rule.close_at_start()] = False

    def list_closed(self) -> Rows:
        """Return the rows that may not be picked, sorted."""
        return np.flatnonzero(~self.is_open)

    def take(self, row: int) -> Rows:
        """Count a pick; return the rows that it closes, itself included, sorted and distinct."""
        closing = [np.array([row], dtype=np.int64), *(rule.close_after(row) for rule in self._rules)]
        closed = closing[0] if len(closing) == 1 else np.unique(np.concatenate(closing))
        closed = np.asarray(closed[self.is_open[closed]])
        self.is_open[closed] = False
        return closed

    def take_in_order(self, order: Rows, num_picks: int) -> list[int]:
        """Count the first rows of an order that are open when their turn comes, and return them.

        Args:
            order: distinct rows, best first.
            num_picks: picks wanted; fewer where the order ends.
        """
        picks: list[int] = []
        for row in order.tolist():
            if len(picks) == num_picks:
                break
            if self.is_open[row]:
                self.take(row)
                picks.append(row)
        return picks


@dataclass(frozen=True, eq=False)
class Constraints:
    """What a selection must keep to.

    Args:
        closed: rows that may not be picked at all, beside those that are labelled.
        make_rules: makes rules that have seen no pick yet.
        costs: (N,) above 0, what priorities are divided by; None where all cost the same.
        kinds: (N,) numbers; a pick may only be exchanged for a row of its own kind. None where all are of one kind.
        prices: (N,) above 0; a pick may only be exchanged for a row of no higher price. None where there are none.
        may_exchange: whether picks may be exchanged at all.
        leave_fewer: whether the budget is what they leave, as fewer rows than were asked for or where no number was.
    """

    closed: Rows = field(default_factory=lambda: NO_ROWS)
    make_rules: Callable[[], Sequence[Rule]] = tuple
    costs: Floats | None = None
    kinds: Rows | None = None
    prices: Floats | None = None
    may_exchange: bool = True
    leave_fewer: bool = False

    def begin(self, num_rows: int, labelled: Rows) -> Eligibility:
        """Return the open rows before the first pick."""
        return Eligibility(num_rows, np.union1d(self.closed, labelled), self.make_rules())

    def resume(self, num_rows: int, labelled: Rows, picks: Rows) -> Eligibility:
        """Return the open rows after given picks."""
        eligibility = self.begin(num_rows, labelled)
        for row in picks.tolist():
            eligibility.take(row)
        return eligibility
