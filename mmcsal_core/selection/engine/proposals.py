"""Which rows of a shard are worth a closer look: the largest priorities, and a bound on everything left out.

A priority is a row's value, divided by its cost where there are costs; -inf says that the row may not be picked. Rows
compare by falling priority, then by rising row, so that every order is total and no result depends on the shards.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mmcsal_core.neighbors.vectors import Floats, Rows

NOTHING_LEFT = (-np.inf, np.iinfo(np.int64).max)
"""The bound where no row was left out."""


@dataclass(frozen=True, eq=False)
class Proposal:
    """The best rows of one shard, or of all.

    Args:
        rows: (m,) rows of the pool, in the order of comparison.
        priorities: (m,) float64.
        bound: priority and row of the best row left out.
    """

    rows: Rows
    priorities: Floats
    bound: tuple[float, int]

    def shift(self, first_row: int) -> "Proposal":
        """Return the same rows counted from another row."""
        bound = self.bound if self.bound == NOTHING_LEFT else (self.bound[0], self.bound[1] + first_row)
        return Proposal(self.rows + first_row, self.priorities, bound)


def propose_top(priorities: Floats, first_row: int, num_rows: int) -> Proposal:
    """Propose the best of consecutive rows.

    Args:
        priorities: (n,) float64, -inf for rows that may not be picked.
        first_row: row of the pool that `priorities[0]` is of.
        num_rows: rows wanted, at least one; fewer are proposed where fewer may be picked.
    """
    num_open = int(np.count_nonzero(priorities > -np.inf))
    num_rows = min(num_rows, num_open)
    if num_rows == 0:
        return Proposal(np.empty(0, dtype=np.int64), np.empty(0), NOTHING_LEFT)
    position = len(priorities) - num_rows
    threshold = np.partition(priorities, position)[position]
    above, equal = np.flatnonzero(priorities > threshold), np.flatnonzero(priorities == threshold)
    num_equal = num_rows - len(above)
    chosen = np.concatenate([above, equal[:num_equal]])
    chosen = chosen[np.lexsort((chosen, -priorities[chosen]))]
    bound = NOTHING_LEFT
    if num_equal < len(equal):
        bound = (float(threshold), first_row + int(equal[num_equal]))
    elif num_rows < num_open:
        below = np.where(priorities < threshold, priorities, -np.inf)
        bound = (float(below.max()), first_row + int(below.argmax()))
    return Proposal(chosen + first_row, priorities[chosen], bound)


def share_rows(num_rows: int, num_shards: int) -> int:
    """Return how many rows each shard should propose: all together somewhat more, since their best rows differ."""
    return min(num_rows, -(-3 * num_rows // (2 * num_shards)))


def merge_proposals(proposals: Sequence[Proposal], num_rows: int) -> Proposal:
    """Merge the proposals of disjoint shards; where one proposed little, its bound keeps the result right."""
    rows = np.concatenate([proposal.rows for proposal in proposals])
    priorities = np.concatenate([proposal.priorities for proposal in proposals])
    order = np.lexsort((rows, -priorities))
    rows, priorities = rows[order], priorities[order]
    bounds = [proposal.bound for proposal in proposals]
    if num_rows < len(rows):
        bounds.append((float(priorities[num_rows]), int(rows[num_rows])))
    return Proposal(rows[:num_rows], priorities[:num_rows], max(bounds, key=lambda bound: (bound[0], -bound[1])))


def is_before(first: tuple[float, int], second: tuple[float, int]) -> bool:
    """Say whether a row, given as priority and row, is picked before another."""
    return first[0] > second[0] or (first[0] == second[0] and first[1] < second[1])
