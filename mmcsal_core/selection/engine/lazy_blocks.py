"""Exact greedy selection by lazy blocks, the same on one shard and on many.

A candidate's value never rises when more pairs are picked, so a value computed earlier is an upper bound now (Minoux
1978). A round takes the `m` rows of largest priority from all shards and the best priority left out, picks greedily
among the `m` as long as the best of them is no worse than what was left out, and lets every shard apply these picks at
once. The picks are those of one-at-a-time greedy; a tie goes to the lowest row.

Not chosen: two-round schemes that merge the answers of the shards, which are worse and cost as much.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from mmcsal_core.errors import ArtifactError
from mmcsal_core.neighbors.vectors import Floats, Rows, iter_blocks
from mmcsal_core.selection.engine.eligibility import Eligibility
from mmcsal_core.selection.engine.proposals import NOTHING_LEFT, Proposal, is_before

MIN_BLOCK_ROWS = 1024
"""Rows of the smallest hot set, in pools of which that is no more than `MIN_BLOCK_SHARE`."""

MIN_BLOCK_SHARE = 1 / 40
FEWEST_ROWS = 128
"""Rows of the smallest hot set in a pool of any size."""

MAX_BLOCK_SHARE = 1 / 50
"""A hot set of this share of the pool costs about as much of the run, and halves the rounds of one half its size."""

GROWTH = 16
"""Rows in a hot set for each pick of the round before."""

START_ROWS = 4096

Terms = tuple[float, float, float]
"""Coverage, diversity and alignment term of a gain."""


class Shards(Protocol):
    """All rows of the pool, wherever they lie."""

    def propose(self, num_rows: int) -> Proposal:
        """Return the best open rows of all shards."""

    def fetch(self, rows: Rows) -> Any:
        """Return what a `HotSet` needs to know of rows, in their order."""

    def apply(self, update: Any, closed: Rows) -> None:
        """Count picks, described by `HotSet.describe`, and close rows. Every shard sees every update, in order."""

    def gather(self, method: str, *args: Any) -> list[Any]:
        """Call a method of every shard and return the answers in the order of their rows."""


class HotSet(Protocol):
    """The rows that a round picks from, held where the loop runs."""

    def find_best(self) -> tuple[float, int]:
        """Return priority and row of the best open row, (-inf, _) where none is open."""

    def pick(self, row: int) -> Terms:
        """Count an open row as picked; return its gain."""

    def close(self, rows: Rows) -> None:
        """Close rows; those that are not in the hot set are ignored."""

    def describe(self, rows: Sequence[int]) -> Any:
        """Return the update that tells the shards of picks of this hot set."""


class Objective(Protocol):
    """What is maximised, and the little of it that the loop's own process must know."""

    def open_hot_set(self, proposal: Proposal, fetched: Any) -> HotSet:
        """Make the hot set of a round."""

    def count(self, update: Any) -> None:
        """Count picks, as every shard does."""


@dataclass(frozen=True)
class Round:
    """The picks of one round, in pick order; replaying a list of rounds restores every shard bit for bit.

    Args:
        rows: picked rows.
        terms: of each pick.
    """

    rows: tuple[int, ...]
    terms: tuple[Terms, ...]


@dataclass(frozen=True, eq=False)
class Limits:
    """When to stop.

    Args:
        num_picks: picks wanted.
        min_gain: stop before a pick whose terms sum to less.
        min_rise: stop before a pick whose coverage and alignment term sum to less.
        costs: (N,) above 0, what gains are divided by before they are compared; None where all cost the same.
    """

    num_picks: int
    min_gain: float = -np.inf
    min_rise: float = -np.inf
    costs: Floats | None = None

    def stop_before(self, row: int, terms: Terms) -> bool:
        """Say whether a pick of such a gain is not made any more."""
        return self.is_small(row, terms) or self._weigh(row, terms[0] + terms[2]) < self.min_rise

    def is_small(self, row: int, terms: Terms) -> bool:
        """Say whether a gain is below the minimum."""
        return self._weigh(row, sum(terms)) < self.min_gain

    def _weigh(self, row: int, value: float) -> float:
        return value if self.costs is None else value / float(self.costs[row])


@dataclass(frozen=True, eq=False)
class Search:
    """One run of the loop.

    Args:
        objective: what is maximised.
        shards: the pool; rows that `eligibility` has closed must be closed there as well.
        eligibility: who may be picked; changed by the run.
        on_round: called after every round that has picked.
        done: rounds of an earlier run, to be replayed first.
    """

    objective: Objective
    shards: Shards
    eligibility: Eligibility
    on_round: Callable[[Round], None] = field(default=lambda _: None)
    done: Sequence[Round] = ()


def pick_greedily(search: Search, limits: Limits) -> list[Round]:
    """Pick the open row of the largest priority, again and again.

    Returns:
        Rounds of at most `limits.num_picks` picks together; fewer where no row is open or the gain is too small.

    Raises:
        ArtifactError: a round of the earlier run names a row that may not be picked.
    """
    rounds = [_replay(search, past) for past in search.done]
    num_left = limits.num_picks - sum(len(past.rows) for past in rounds)
    num_rows = _next_block(rounds[-1] if rounds else Round((), ()), search)
    while num_left > 0:
        this, is_last = _run_round(search, limits, num_rows, num_left)
        if this.rows:
            rounds.append(this)
            search.on_round(this)
            num_left -= len(this.rows)
            num_rows = _next_block(this, search)
        if is_last:
            break
    return rounds


def _next_block(last: Round, search: Search) -> int:
    num_pool = len(search.eligibility.is_open)
    least = min(MIN_BLOCK_ROWS, max(FEWEST_ROWS, int(MIN_BLOCK_SHARE * num_pool)))
    most = max(least, int(MAX_BLOCK_SHARE * num_pool))
    return min(most, max(least, GROWTH * len(last.rows)))


def _run_round(search: Search, limits: Limits, num_rows: int, num_left: int) -> tuple[Round, bool]:
    """Return the picks of one round, and whether it is the last."""
    proposal = search.shards.propose(num_rows)
    if len(proposal.rows) == 0:
        return Round((), ()), True
    hot = search.objective.open_hot_set(proposal, search.shards.fetch(proposal.rows))
    rows: list[int] = []
    terms: list[Terms] = []
    closed: list[Rows] = []
    is_last = False
    while len(rows) < num_left:
        best = hot.find_best()
        if best[0] == -np.inf or is_before(proposal.bound, best):
            break
        gain = hot.pick(best[1])
        if limits.stop_before(best[1], gain):
            is_last = True
            break
        rows.append(best[1])
        terms.append(gain)
        closed.append(search.eligibility.take(best[1]))
        if len(closed[-1]) > 1:
            hot.close(closed[-1])
    if rows:
        _count(search, hot.describe(rows), np.concatenate(closed))
    return Round(tuple(rows), tuple(terms)), is_last


def count_start(search: Search, rows: Rows) -> None:
    """Count rows as picked before the first pick; they must be closed already."""
    for block in iter_blocks(len(rows), START_ROWS):
        _count_rows(search, rows[block], rows[block])


def _replay(search: Search, past: Round) -> Round:
    closed: list[Rows] = []
    for row in past.rows:
        if not search.eligibility.is_open[row]:
            raise ArtifactError(
                f"a pick log must name rows that may be picked when their turn comes, got row {row}, which is "
                "labelled, excluded or picked already; delete the log and run again"
            )
        closed.append(search.eligibility.take(row))
    _count_rows(search, np.array(past.rows, dtype=np.int64), np.concatenate(closed))
    return past


def _count_rows(search: Search, rows: Rows, closed: Rows) -> None:
    proposal = Proposal(rows, np.zeros(len(rows)), NOTHING_LEFT)
    hot = search.objective.open_hot_set(proposal, search.shards.fetch(rows))
    _count(search, hot.describe(rows.tolist()), closed)


def _count(search: Search, update: Any, closed: Rows) -> None:
    search.objective.count(update)
    search.shards.apply(update, closed)
