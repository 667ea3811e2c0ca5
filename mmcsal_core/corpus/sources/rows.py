"""Rows of a listed source by their global number: files in order of name, rows in file order."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mmcsal_core.corpus.sources.listing import SourceFile, SourceListing
from mmcsal_core.corpus.sources.parquet import open_parquet, take_rows
from mmcsal_core.errors import DataError


@dataclass(frozen=True)
class FileRows:
    """Rows [start, stop) of one file, numbered in the file."""

    file: SourceFile
    start: int
    stop: int


def locate_rows(listing: SourceListing, start: int, stop: int) -> list[FileRows]:
    """Cut the global rows [start, stop) by file, in order.

    Raises:
        DataError: the source has fewer rows.
    """
    if stop > listing.num_pairs:
        raise DataError(
            f"source {listing.source.url} has {listing.num_pairs} rows, but rows {start} to {stop} were planned; "
            "it changed during the run, run again"
        )
    located, offset = [], 0
    for file in listing.files:
        first, last = max(start, offset), min(stop, offset + file.num_rows)
        if first < last:
            located.append(FileRows(file, first - offset, last - offset))
        offset += file.num_rows
    return located


def read_source_rows(
    listing: SourceListing, start: int, stop: int, columns: Sequence[str], options: Mapping[str, Any]
) -> pa.Table:
    """Read some columns of the global rows [start, stop), from the row groups that hold them and no others.

    Args:
        listing: from `list_source`.
        start: first row.
        stop: row after the last.
        columns: names in `listing.schema`, at least one.
        options: storage options of the source.

    Raises:
        DataError: a file is missing, unreadable or changed.
    """
    schema = pa.schema([listing.schema.field(name) for name in columns])
    tables = [_read_part(listing, part, schema, options) for part in locate_rows(listing, start, stop)]
    return pa.concat_tables([schema.empty_table(), *tables]).combine_chunks()


def find_missing_content(
    listing: SourceListing, start: int, stop: int, column: str, options: Mapping[str, Any]
) -> npt.NDArray[np.bool_]:
    """Say which of the global rows [start, stop) have no content in `column`, for a Parquet source.

    The column is read only in row groups whose footer reports nulls. Where a footer reports nothing, the rows count as
    present, and whoever reads the content finds out.

    Returns:
        Shape (stop - start,).
    """
    parts = [_find_missing_part(part, column, options) for part in locate_rows(listing, start, stop)]
    return np.concatenate([np.zeros(0, np.bool_), *parts])


def _read_part(listing: SourceListing, part: FileRows, schema: pa.Schema, options: Mapping[str, Any]) -> pa.Table:
    file = part.file
    if file.table is not None:
        return _conform(file.table.slice(part.start, part.stop - part.start), schema)
    if file.staged is not None and listing.staging is not None:
        url, options = f"{listing.staging.url}/{file.staged}", listing.staging.options
    else:
        url = file.url
    with open_parquet(url, options) as parquet:
        present = [name for name in schema.names if name in parquet.schema_arrow.names]
        rows = range(part.start, part.stop)
        if not present:
            return pa.table([pa.nulls(len(rows), field.type) for field in schema], schema=schema)
        _check_length(parquet, file)
        return _conform(take_rows(parquet, rows, present), schema)


def _conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    columns = [
        table[field.name].cast(field.type) if field.name in table.column_names else pa.nulls(table.num_rows, field.type)
        for field in schema
    ]
    return pa.table(columns, schema=schema)


def _check_length(parquet: pq.ParquetFile, file: SourceFile) -> None:
    if parquet.metadata.num_rows != file.num_rows:
        raise DataError(
            f"source file {file.url} had {file.num_rows} rows and now has {parquet.metadata.num_rows}; "
            "it changed during the run, run again"
        )


def _find_missing_part(part: FileRows, column: str, options: Mapping[str, Any]) -> npt.NDArray[np.bool_]:
    missing = np.zeros(part.stop - part.start, np.bool_)
    with open_parquet(part.file.url, options) as parquet:
        if column not in parquet.schema_arrow.names:
            return ~missing
        _check_length(parquet, part.file)
        for first, last in _groups_with_nulls(parquet, column):
            rows = range(max(first, part.start), min(last, part.stop))
            if rows:
                content = take_rows(parquet, rows, [column])[column]
                missing[rows.start - part.start : rows.stop - part.start] = _is_missing(content)
    return missing


def _groups_with_nulls(parquet: pq.ParquetFile, column: str) -> Iterator[tuple[int, int]]:
    kind = parquet.schema_arrow.field(column).type
    prefix = f"{column}.bytes" if pa.types.is_struct(kind) else column
    offset = 0
    for index in range(parquet.num_row_groups):
        group = parquet.metadata.row_group(index)
        leaves = [group.column(i) for i in range(group.num_columns)]
        chosen = [
            leaf for leaf in leaves if leaf.path_in_schema == prefix or leaf.path_in_schema.startswith(f"{prefix}.")
        ]
        if any(leaf.is_stats_set and leaf.statistics.null_count for leaf in chosen):
            yield offset, offset + group.num_rows
        offset += group.num_rows


def _is_missing(content: pa.ChunkedArray) -> npt.NDArray[np.bool_]:
    if not pa.types.is_struct(content.type):
        return np.asarray(pc.is_null(content))
    missing = np.asarray(pc.is_null(pc.struct_field(content, "bytes")))
    if "path" in [content.type.field(i).name for i in range(content.type.num_fields)]:
        paths = pc.struct_field(content, "path")
        missing &= np.asarray(pc.fill_null(pc.equal(paths, ""), True))
    return missing
