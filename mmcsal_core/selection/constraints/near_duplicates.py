"""Groups of near-duplicates: every member is near its leader, and only the leader may be picked.

Leaders are taken in turn, and each takes the rows near it that no earlier leader has taken: labelled rows first, then
those that may be picked, each by the number of near rows, most first, then by row. Every labelled row leads, even one
near another; what is near a label and the index has missed is found by comparing all rows with all labels, so that all
of it is closed. No two other leaders are near each other as far as the index finds all near rows, which an exact one
does and an inverted file nearly. Nothing that is closed is farther from its leader than the threshold says. Connected
components were not chosen: a chain of small steps would join pairs that have nothing in common.

Butina, "Unsupervised data base clustering based on Daylight's fingerprint and Tanimoto similarity" (1999).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mmcsal_core.errors import ConfigError
from mmcsal_core.neighbors.config import NeighborConfig
from mmcsal_core.neighbors.index import Index, build_index
from mmcsal_core.neighbors.vectors import Rows, Vectors, iter_blocks
from mmcsal_core.selection.cells import find_nearest_pick, measure_distances

ROUNDING = 1e-6
"""Error of a float32 cosine, so that a threshold of 1 finds exact duplicates."""

COUNTED_ROWS = 1024
TAKEN_ROWS = 256
"""Rows searched together; a row may have the whole pool near it."""

NO_LEADER = -1


@dataclass(frozen=True, eq=False)
class NearDuplicates:
    """The groups of a pool.

    Args:
        leaders: (N,) the row that leads each row's group; its own where it has no near-duplicate.
        labelled: (L,) rows that are labelled.
    """

    leaders: Rows
    labelled: Rows

    def list_closed(self) -> Rows:
        """Return the rows that may not be picked: all but the leaders, and all whose leader is labelled."""
        is_leader = self.leaders == np.arange(len(self.leaders))
        return np.flatnonzero(~is_leader | np.isin(self.leaders, self.labelled))

    def count_members(self) -> Rows:
        """Return the size of the group that each row leads, 0 where it leads none, (N,)."""
        return np.bincount(self.leaders, minlength=len(self.leaders)).astype(np.int64)

    def describe(self) -> dict[str, int]:
        """Return how many groups of two or more there are, and how many pairs are in them."""
        sizes = self.count_members()
        return {"groups": int((sizes > 1).sum()), "pairs": int(sizes[sizes > 1].sum())}

    def list_members(self) -> Rows:
        """Return the rows of groups of two or more."""
        return np.flatnonzero(self.count_members()[self.leaders] > 1)


def group_near_duplicates(
    joint: Vectors,
    labelled: Rows,
    threshold: float,
    search: NeighborConfig,
    may_lead: npt.NDArray[np.bool_] | None = None,
) -> NearDuplicates:
    """Group the rows whose cosine with a leader is at least the threshold.

    Args:
        joint: (N, D) float32 of unit length.
        labelled: (L,) rows that lead before all others, each its own group.
        threshold: in (0, 1].
        search: kind of index.
        may_lead: (N,) rows that may be picked, which lead before the rest; None where all are alike.

    Raises:
        ConfigError: the index has no range search.
    """
    is_later = np.ones(len(joint), dtype=bool)
    is_later[labelled] = False
    is_last = np.zeros(len(joint), dtype=bool) if may_lead is None else ~may_lead
    copied, num_copies = find_copied(joint, np.lexsort((np.arange(len(joint)), is_last, is_later)))
    distinct = np.flatnonzero(num_copies)
    leaders = np.empty(len(joint), dtype=np.int64)
    keys = (is_last[distinct], is_later[distinct])
    vectors = joint if len(distinct) == len(joint) else joint[distinct]
    leaders[distinct] = distinct[_lead_distinct(vectors, num_copies[distinct], keys, threshold - ROUNDING, search)]
    leaders = leaders[copied]
    leaders[labelled] = labelled
    return NearDuplicates(leaders, labelled)


def find_copied(joint: Vectors, order: Rows) -> tuple[Rows, Rows]:
    """Find rows of equal bits, so that thousands of copies are searched once.

    Args:
        joint: (N, D) float32.
        order: (N,) rows; the first of equal ones stands for them.

    Returns:
        (N,) the row that stands for each, and (N,) how many rows each stands for.
    """
    hashes = np.empty(len(joint), dtype=np.uint64)
    factors = np.random.default_rng(0).integers(1, 2**63, joint.shape[1], dtype=np.uint64)
    for block in iter_blocks(len(joint), COUNTED_ROWS):
        bits = np.ascontiguousarray(joint[block], dtype=np.float32).view(np.uint32)
        hashes[block] = (bits * factors).sum(axis=1, dtype=np.uint64)
    _, first, groups = np.unique(hashes[order], return_index=True, return_inverse=True)
    copied = np.empty(len(joint), dtype=np.int64)
    copied[order] = order[first][groups]
    copies = np.flatnonzero(copied != np.arange(len(joint)))
    for block in iter_blocks(len(copies), COUNTED_ROWS):
        rows = copies[block]
        others = rows[(joint[rows] != joint[copied[rows]]).any(axis=1)]
        copied[others] = others  # rows of equal hashes
    return copied, np.bincount(copied, minlength=len(joint))


def _lead_distinct(
    joint: Vectors,
    num_copies: Rows,
    keys: tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]],
    threshold: float,
    search: NeighborConfig,
) -> Rows:
    """Return the leaders (n,) of distinct rows; `keys` say who leads last and who is not labelled."""
    index = build_index(joint, search)
    everyone = np.arange(len(joint), dtype=np.int64)
    num_near = np.zeros(len(joint), dtype=np.int64)
    for rows, limits, near in _find_near(index, joint, everyone, threshold):
        places = np.repeat(np.arange(len(rows)), np.diff(limits))
        num_near[rows] = np.bincount(places, num_copies[near], minlength=len(rows))
    order = np.lexsort((everyone, -num_near, *keys))
    order = order[num_near[order] > 1]
    is_labelled = ~keys[1]
    leaders = np.where(is_labelled, everyone, NO_LEADER)
    _take_turns(index, joint, order[is_labelled[order]], threshold, leaders)
    _join_nearest(joint, np.flatnonzero(is_labelled), threshold, leaders)
    _take_turns(index, joint, order[~is_labelled[order]], threshold, leaders)
    return np.where(leaders == NO_LEADER, everyone, leaders)


def _take_turns(index: Index, joint: Vectors, order: Rows, threshold: float, leaders: Rows) -> None:
    """Let rows lead in turn, in place."""
    place = 0
    while place < len(order):
        rows = order[place : place + TAKEN_ROWS]
        place += len(rows)
        leading = rows[(leaders[rows] == NO_LEADER) | (leaders[rows] == rows)]
        for own, limits, near in _find_near(index, joint, leading, threshold):
            for number, row in enumerate(own.tolist()):
                if leaders[row] in (NO_LEADER, row):
                    found = near[limits[number] : limits[number + 1]]
                    found = found[leaders[found] == NO_LEADER]
                    leaders[found[joint[found] @ joint[row] >= threshold]] = row  # an index may compress vectors
                    leaders[row] = row


def _join_nearest(joint: Vectors, labelled: Rows, threshold: float, leaders: Rows) -> None:
    """Let labelled rows lead what is near them and the index has missed, in place."""
    if len(labelled):
        free = np.flatnonzero(leaders == NO_LEADER)
        nearest = labelled[find_nearest_pick(joint, labelled)][free]
        is_near = 1 - measure_distances(joint, free, nearest) ** 2 / 2 >= threshold
        leaders[free[is_near]] = nearest[is_near]


def _find_near(index: Index, joint: Vectors, rows: Rows, threshold: float) -> Iterator[tuple[Rows, Rows, Rows]]:
    """Yield blocks of rows, where each one's near rows begin and end, and all near rows."""
    for block in iter_blocks(len(rows), COUNTED_ROWS):
        try:
            limits, _, near = index.range_search(np.ascontiguousarray(joint[rows[block]]), threshold)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise ConfigError(
                f"near_duplicates need an index with range search, got a search.index_key without ({reason}); write "
                "e.g. auto or IVF1024,Flat"
            ) from error
        yield rows[block], limits.astype(np.int64), near
