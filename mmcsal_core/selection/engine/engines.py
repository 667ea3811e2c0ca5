"""Where the shards of an objective live: an engine opens them. `LocalEngine` keeps them in this process."""

import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from scipy import sparse

from mmcsal_core.errors import ConfigError
from mmcsal_core.neighbors.vectors import Floats, Rows, iter_blocks
from mmcsal_core.neighbors.whole_kernel import Whole
from mmcsal_core.selection.engine.cover import CoverShard
from mmcsal_core.selection.engine.cover_objective import Cover
from mmcsal_core.selection.engine.k_center import BLOCK_ROWS, KCenterShard
from mmcsal_core.selection.engine.lazy_blocks import Shards
from mmcsal_core.selection.engine.local_shards import LocalShards
from mmcsal_core.selection.engine.screening import Screening


class Engine(Protocol):
    """Opens the shards of objectives."""

    def open_cover(self, kernel: sparse.csr_array, objective: Cover, closed: Rows) -> Shards:
        """Return shards of `CoverShard`.

        Args:
            kernel: (N, N) int32, symmetric.
            objective: trust, repulsion and costs.
            closed: rows that may not be picked.
        """

    def open_k_center(self, vectors: npt.NDArray[np.floating], closed: Rows, costs: Floats | None) -> Shards:
        """Return shards of `KCenterShard`.

        Args:
            vectors: (N, D) of unit length.
            closed: rows that may not be picked.
            costs: (N,) above 0, or None.
        """


class LocalEngine:
    """Shards in this process. Their number and that of threads change no result.

    Args:
        num_shards: at most; by default one a thread.
        num_threads: shards worked on at once; by default the cores that this process may use.
        screening: how k-center finds the pairs of rows and picks that matter; it changes no result either.
        device: where k-center multiplies, e.g. `cuda`; None for numpy.

    Raises:
        ConfigError: a number is below 1.
    """

    def __init__(
        self,
        num_shards: int | None = None,
        num_threads: int | None = None,
        screening: Screening = "off",
        device: str | None = None,
    ) -> None:
        self._screening: Screening = screening
        self._device = device
        self._num_threads = _count_cores() if num_threads is None else num_threads
        self._num_shards = self._num_threads if num_shards is None else num_shards
        if min(self._num_threads, self._num_shards) < 1:
            raise ConfigError(
                f"num_shards and num_threads are 1 or more, got {num_shards} and {num_threads}; leave them out"
            )

    def open_cover(self, kernel: sparse.csr_array, objective: Cover, closed: Rows) -> Shards:
        """Return shards of `CoverShard`."""
        spans = split_rows(kernel.shape[0], self._num_shards)
        shards = [describe_cover_shard(kernel, span, objective, closed)() for span in spans]
        return LocalShards(shards, self._num_threads)

    def open_k_center(self, vectors: npt.NDArray[np.floating], closed: Rows, costs: Floats | None) -> Shards:
        """Return shards of `KCenterShard`."""
        shards = [
            KCenterShard(
                vectors[span],
                span.start,
                closed,
                None if costs is None else costs[span],
                screening=self._screening,
                device=self._device,
            )
            for span in split_rows(len(vectors), self._num_shards)
        ]
        return LocalShards(shards, self._num_threads)


def _count_cores() -> int:
    """Return the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def describe_cover_shard(
    kernel: sparse.csr_array, span: slice, objective: Cover, closed: Rows
) -> Callable[[], CoverShard]:
    """Return what opens the shard of a span of rows, holding views of their edges; arguments as in `open_cover`."""
    edges = slice(*kernel.indptr[[span.start, span.stop]].tolist())
    starts = kernel.indptr[span.start : span.stop + 1] - edges.start
    index_type = np.int32 if max(starts[-1], kernel.shape[1]) < 2**31 else np.int64
    indices, starts = (each.astype(index_type, copy=False) for each in (kernel.indices[edges], starts))
    known = {
        "trust": objective.trust[span],
        "lambda_div": objective.lambda_div,
        "closed": closed,
        "costs": None if objective.costs is None else objective.costs[span],
        "floor": objective.floor,
    }
    return partial(_open_cover_shard, (kernel.data[edges], indices, starts), kernel.shape[1], span.start, known)


def _open_cover_shard(
    arrays: tuple[Whole, Rows, Rows], num_columns: int, first_row: int, known: Mapping[str, Any]
) -> CoverShard:
    own = sparse.csr_array((len(arrays[2]) - 1, num_columns), dtype=np.int32)
    own.data, own.indices, own.indptr = arrays  # given to the constructor, views of less than half would be copied
    return CoverShard(own, first_row, **known)


def split_rows(num_rows: int, num_shards: int) -> list[slice]:
    """Split rows into at most `num_shards` spans of about equal length, each starting at a multiple of `BLOCK_ROWS`."""
    num_blocks = -(-num_rows // BLOCK_ROWS)
    rows_per_shard = -(-num_blocks // min(num_shards, num_blocks)) * BLOCK_ROWS
    return list(iter_blocks(num_rows, rows_per_shard))
