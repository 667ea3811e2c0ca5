"""Features as a fit reads them: rows by number, as float32, from an array or from a file that is larger than memory.

Whatever reads features goes batch by batch or block by block; nothing copies a whole modality. A memory-mapped array is
a source as good as one in memory, and gives the same bits.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]

BLOCK_ROWS = 4096


class RowSource(Protocol):
    """One modality's features, (n, in_dim): what numpy arrays and memory maps are."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of rows, length of each."""

    def __getitem__(self, rows: Rows, /) -> npt.NDArray[Any]:
        """Return these rows, in this order."""


Features = Mapping[str, RowSource]
"""One source a modality, rows in the same order."""


@dataclass(frozen=True, eq=False)
class RowSubset:
    """Some rows of a source, in the order given, without a copy."""

    source: RowSource
    rows: Rows

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of rows, length of each."""
        return (len(self.rows), *self.source.shape[1:])

    def __getitem__(self, rows: Rows, /) -> npt.NDArray[Any]:
        """Return these rows of the subset, in this order."""
        return self.source[self.rows[rows]]


def restrict_rows(features: Features, rows: Rows) -> dict[str, RowSubset]:
    """Return the features of some pairs only, in the order of `rows`."""
    return {name: RowSubset(source, rows) for name, source in features.items()}


def count_rows(features: Features) -> int:
    """Return the number of pairs, that of the shortest modality."""
    return min((source.shape[0] for source in features.values() if source.shape), default=0)


def read_rows(source: RowSource, rows: Rows) -> Vectors:
    """Read rows (n,) of a source as float32, (n, in_dim); what is too large for float32 becomes infinite."""
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(source[rows], dtype=np.float32)


def iter_blocks(rows: Rows, size: int = BLOCK_ROWS) -> Iterator[Rows]:
    """Cut row numbers into blocks of `size`, the last one shorter."""
    for start in range(0, len(rows), size):
        yield rows[start : start + size]
