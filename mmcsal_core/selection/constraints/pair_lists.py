"""Lists of pair ids: written in the configuration, or read from Parquet, CSV or text, locally or by an fsspec URL."""

import io
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mmcsal_core.corpus.sources.locations import open_filesystem
from mmcsal_core.corpus.sources.tables import parse_csv
from mmcsal_core.errors import DataError
from mmcsal_core.filesystems import raise_outage, store_errors
from mmcsal_core.neighbors.vectors import Rows
from mmcsal_core.schema import PAIR_ID
from mmcsal_core.storage import hash_bytes

ENDINGS = (".parquet", ".csv", ".txt")


def read_pair_list(listed: str | Sequence[str], options: Mapping[str, Any]) -> pa.Array:
    """Read pair ids.

    Args:
        listed: the ids themselves, or a path, pattern or URL of files: Parquet or CSV with a column `pair_id`, or text
            with one id a line.
        options: storage options for fsspec.

    Returns:
        Distinct ids, sorted.

    Raises:
        DataError: a file is missing, unreadable, has no column of ids, or has NULL among them.
    """
    parts = _read_files(listed, options) if isinstance(listed, str) else [pa.array(listed, pa.string())]
    ids = pa.concat_arrays(parts).unique()
    return ids.take(pc.sort_indices(ids))


def hash_pair_list(ids: pa.Array) -> str:
    """Hash a list, so that a selection is made again where its content has changed."""
    return hash_bytes("\n".join(ids.to_pylist()).encode())


def find_listed_rows(key: str, listed: pa.Array, ids: pa.ChunkedArray) -> Rows:
    """Return the rows of listed pairs, sorted.

    Args:
        key: of the configuration, for the message.
        listed: (L,) distinct pair ids.
        ids: (N,) pair ids by row.

    Raises:
        DataError: a listed id is not in the pool.
    """
    is_known = pc.is_in(listed, value_set=ids.combine_chunks())
    unknown = listed.filter(pc.invert(is_known))
    if len(unknown):
        raise DataError(
            f"selection.{key} must list pairs of the pool, but {len(unknown)} of {len(listed)} ids are not in it, "
            f"first {unknown[0].as_py()!r}; take them out of the list"
        )
    return np.flatnonzero(pc.is_in(ids, value_set=listed).to_numpy())


def _read_files(url: str, options: Mapping[str, Any]) -> list[pa.Array]:
    filesystem, path = open_filesystem(url, options)
    try:
        paths = sorted(filesystem.glob(path)) if any(sign in path for sign in "*?[") else [path]
        contents = {name: bytes(filesystem.cat_file(name)) for name in paths}
    except store_errors() as error:
        raise_outage(error, url)
        raise DataError(
            f"a list of pairs cannot be read at {url} ({type(error).__name__}: {error}); check path and source_options"
        ) from error
    if not contents:
        raise DataError(f"a list of pairs must be at least one file, but nothing matches {url}; check the pattern")
    return [_parse(name, data) for name, data in contents.items()]


def _parse(name: str, data: bytes) -> pa.Array:
    ending = PurePosixPath(name).suffix.lower()
    if ending == ".txt":
        lines = [line.strip() for line in data.decode("utf-8-sig", errors="replace").splitlines()]
        return pa.array([line for line in lines if line], pa.string())
    if ending == ".csv":
        return _choose_column(name, parse_csv(data, name))
    if ending == ".parquet":
        try:
            table = pq.read_table(io.BytesIO(data))
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{name} is not readable as Parquet ({error}); restore it") from error
        return _choose_column(name, table)
    raise DataError(f"a list of pairs ends in {', '.join(ENDINGS)}, got {name}; rename or convert it")


def _choose_column(name: str, table: pa.Table) -> pa.Array:
    names = table.column_names
    if PAIR_ID not in names:  # not taken for granted: a CSV without a header would lose its first id
        raise DataError(
            f"{name} must have a column {PAIR_ID}, but has {', '.join(names)}; name the column of ids so, in CSV by a "
            "header, or write a .txt with one id a line"
        )
    column = table[PAIR_ID]
    if column.null_count:
        raise DataError(
            f"{name}: every row must have a {PAIR_ID}, but {column.null_count} of {len(column)} have none; drop these "
            "rows, or mend the join that made them"
        )
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if len(column) == 0:  # an empty column may be of any type
        return pa.array([], pa.string())
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_integer(kind)):
        raise DataError(f"{name}: pair ids are text or whole numbers, got {kind}; correct the column")
    return pc.cast(column, pa.string()).combine_chunks()
