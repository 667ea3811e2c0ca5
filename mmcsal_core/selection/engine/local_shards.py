"""The shards of one process, worked on by threads: what the tests and notebooks use, and any pool that fits a machine.

Every thread multiplies matrices with one BLAS thread; parallelism is over shards, which changes no result.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

import numpy as np

from mmcsal_core.neighbors.vectors import Rows
from mmcsal_core.selection.engine.blas_threads import use_one_blas_thread
from mmcsal_core.selection.engine.proposals import Proposal, merge_proposals, share_rows

Result = TypeVar("Result")


class Shard(Protocol):
    """Consecutive rows of the pool and their values."""

    first_row: int
    num_rows: int

    def propose(self, num_rows: int) -> Proposal:
        """Return the best open rows."""

    def fetch(self, rows: Rows) -> Any:
        """Return what a hot set needs to know of rows of this shard."""

    def apply(self, update: Any, closed: Rows) -> None:
        """Count picks of the whole pool, and close rows of the whole pool."""

    @staticmethod
    def join(parts: Sequence[Any], order: Rows) -> Any:
        """Join what several shards fetched, and put it in order."""


class LocalShards:
    """Shards that together are the pool, in the order of their rows.

    Args:
        shards: of one kind, consecutive.
        num_threads: shards worked on at once.
    """

    def __init__(self, shards: Sequence[Shard], num_threads: int = 1) -> None:
        self._shards = list(shards)
        self._starts = np.array([shard.first_row for shard in self._shards])
        self._num_threads = min(num_threads, len(self._shards))

    def propose(self, num_rows: int) -> Proposal:
        """Return the best open rows of all shards."""
        own_rows = share_rows(num_rows, len(self._shards))
        return merge_proposals(self._map(lambda shard: shard.propose(own_rows)), num_rows)

    def fetch(self, rows: Rows) -> Any:
        """Return what a hot set needs to know of rows, in their order."""
        return fetch_parts(rows, self._starts, self._fetch_own, type(self._shards[0]))

    def apply(self, update: Any, closed: Rows) -> None:
        """Tell every shard."""
        self._map(lambda shard: shard.apply(update, closed))

    def gather(self, method: str, *args: Any) -> list[Any]:
        """Call a method of every shard and return the answers in the order of their rows."""
        return self._map(lambda shard: getattr(shard, method)(*args))

    def _fetch_own(self, parts: Mapping[int, Rows]) -> list[Any]:
        return [self._shards[number].fetch(rows) for number, rows in parts.items()]

    def _map(self, action: Callable[[Shard], Result]) -> list[Result]:
        with use_one_blas_thread():
            if self._num_threads == 1:
                return [action(shard) for shard in self._shards]
            with ThreadPoolExecutor(self._num_threads) as threads:
                return list(threads.map(action, self._shards))


def fetch_parts(
    rows: Rows, starts: Rows, fetch_own: Callable[[Mapping[int, Rows]], Sequence[Any]], kind: type[Shard]
) -> Any:
    """Ask each shard for its rows and join the answers in the order of `rows`.

    Args:
        rows: distinct rows of the pool.
        starts: first row of every shard.
        fetch_own: given rows by the number of the shard that holds them, asks these shards.
        kind: of the shards.
    """
    owners = np.searchsorted(starts, rows, side="right") - 1
    numbers = np.unique(owners).tolist() if len(rows) else [0]
    parts = fetch_own({number: rows[owners == number] for number in numbers})
    places = np.concatenate([np.flatnonzero(owners == number) for number in numbers])
    return kind.join(parts, np.argsort(places))
