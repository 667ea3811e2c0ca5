"""Reading some rows of a Parquet file: only the row groups and columns that hold them, streamed in small batches."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mmcsal_core.corpus.sources.locations import open_filesystem
from mmcsal_core.errors import DataError
from mmcsal_core.filesystems import raise_outage, store_errors

_BUFFER_BYTES = 4 * 2**20
_BATCH_ROWS = 256


@contextmanager
def open_parquet(url: str, options: Mapping[str, Any]) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file for the length of a `with`; a column chunk is never held whole.

    Raises:
        DataError: it is missing, forbidden or not Parquet, or becomes so while it is read.
        StoreError: its store is out of reach.
    """
    filesystem, path = open_filesystem(url, options)
    try:
        with filesystem.open(path, "rb") as file:
            yield pq.ParquetFile(file, buffer_size=_BUFFER_BYTES)
    except (*store_errors(), pa.ArrowException) as error:
        raise_outage(error, url)
        raise DataError(
            f"source file {url} is not readable as Parquet ({type(error).__name__}: {error}); restore it or take it out"
        ) from error


def take_rows(parquet: pq.ParquetFile, rows: Sequence[int], columns: Sequence[str]) -> pa.Table:
    """Read some rows of some columns.

    Args:
        parquet: an open file.
        rows: row numbers in the file, rising, at least one.
        columns: names of top-level columns, at least one, each in the file.

    Returns:
        One row for each of `rows`, in order.
    """
    wanted = np.asarray(rows, np.int64)
    batches: list[pa.RecordBatch] = []
    offset = 0
    for group in range(parquet.num_row_groups):
        num_rows = parquet.metadata.row_group(group).num_rows
        inside = wanted[(wanted >= offset) & (wanted < offset + num_rows)] - offset
        if len(inside):
            batches += _take_from_group(parquet, group, inside, columns)
        offset += num_rows
    return pa.Table.from_batches(batches).select(list(columns))


def _take_from_group(
    parquet: pq.ParquetFile, group: int, inside: np.ndarray[Any, Any], columns: Sequence[str]
) -> Iterator[pa.RecordBatch]:
    offset = 0
    for batch in parquet.iter_batches(_BATCH_ROWS, row_groups=[group], columns=list(columns)):
        here = inside[(inside >= offset) & (inside < offset + batch.num_rows)] - offset
        if len(here) == batch.num_rows:
            yield batch
        elif len(here) and here[-1] - here[0] + 1 == len(here):
            yield batch.slice(int(here[0]), len(here))
        elif len(here):
            yield batch.take(pa.array(here))
        offset += batch.num_rows
        if offset > inside[-1]:
            return
