"""The content of pairs, from wherever `pairs/` says that it lies.

Content inside a Parquet file is referenced as `<file url>#column=<column>&row=<row in the file>`, a member of a tar
archive as `<file url>#member=<name>&start=<first byte>&size=<bytes>`; anything else is a path or a URL that fsspec
opens. A row whose content cannot be read becomes a `RejectPair` in its place. A store that cannot be reached at all (no
credentials, no such endpoint) or refuses everything (an expired token, a wrong clock) is no row's fault: that is
raised, so that the stage fails and can be resumed, and does not reject a whole corpus.

Not chosen: copying content into `pairs/` by default, which doubles the corpus, and one request a row, which reads a
row group as often as it has rows.
"""

import asyncio
import errno
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn
from urllib.parse import quote, unquote

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from aiohttp import ClientError

from mmcsal_core.corpus.modality import ModalityConfig
from mmcsal_core.corpus.reject import RejectPair
from mmcsal_core.corpus.sources.locations import open_filesystem, parent_url, resolve_uri
from mmcsal_core.corpus.sources.parquet import open_parquet, take_rows
from mmcsal_core.corpus.sources.tar_members import read_members
from mmcsal_core.corpus.sources.tars import parse_member_reference
from mmcsal_core.errors import ConfigError, DataError, StoreError
from mmcsal_core.filesystems import is_outage, is_refusal, raise_outage
from mmcsal_core.schema import bytes_column, uri_column

Content = bytes | str | npt.NDArray[Any] | RejectPair
"""Encoded bytes, text, a float32 vector, or why there is none."""

_REFERENCE = re.compile(r"(?s)(.+)#column=([^&#]+)&row=(\d+)")
_FILE_ERRORS = (
    *(FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError),
    *(ConfigError, DataError, pa.ArrowException, ValueError),
)
_FILE_ERRNOS = (None, errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL)
"""Of a plain OSError. Arrow raises one without a number for a damaged page."""
_WEB_ERRORS = (OSError, ClientError, asyncio.TimeoutError)


@dataclass(frozen=True)
class Reference:
    """A cell of a Parquet file: its URL, a column, and a row counted from the start of the file."""

    file: str
    column: str
    row: int


def make_reference(file_url: str, column: str, row: int) -> str:
    """Return the URI form of a cell of a Parquet file."""
    return f"{file_url}#column={quote(column, safe='')}&row={row}"


def parse_reference(uri: str) -> Reference | None:
    """Return the cell that `uri` refers to, or None where it is the URL of a file."""
    match = _REFERENCE.fullmatch(uri)
    return Reference(match[1], unquote(match[2]), int(match[3])) if match else None


def read_contents(pairs: pa.Table, name: str, modality: ModalityConfig, options: Mapping[str, Any]) -> list[Content]:
    """Read the content of one modality for every row of `pairs`, in order.

    Args:
        pairs: rows of `pairs/`.
        name: the modality.
        modality: its configuration.
        options: storage options of the source; see `corpus.sources.locations` for which URIs they reach.

    Returns:
        One entry a row: text, encoded bytes, a float32 vector of shape (d,), or a `RejectPair`.

    Raises:
        StoreError: an object store cannot be reached, or refuses what it should not.
        botocore.exceptions.BotoCoreError: there are no credentials.
    """
    if name in pairs.column_names:
        return [_or_missing(text, name) for text in pairs[name].to_pylist()]
    if bytes_column(name) in pairs.column_names:
        stored = pairs[bytes_column(name)].to_pylist()
        return [_restore(data, name, modality) for data in stored]
    return _read_uris(pairs[uri_column(name)].to_pylist(), options)


def store_content(content: bytes | str | npt.NDArray[Any]) -> bytes:
    """Return content as a `<modality>_bytes` column holds it: text in UTF-8, a vector as float32, low byte first."""
    if isinstance(content, str):
        return content.encode()
    return content if isinstance(content, bytes) else content.astype("<f4").tobytes()


def _restore(data: bytes | None, name: str, modality: ModalityConfig) -> Content:
    if data is not None and modality.kind == "vector":
        return np.frombuffer(data, "<f4")
    return _or_missing(data, name)


def _or_missing(content: Any, where: str) -> Content:
    return _missing(where) if content is None else content


def _missing(where: str) -> RejectPair:
    return RejectPair("missing_modality", f"{where} is null; fill it in or leave the pair out")


def _read_uris(uris: Sequence[str | None], options: Mapping[str, Any]) -> list[Content]:
    distinct = {uri: parse_reference(uri) for uri in uris if uri is not None}
    cells = {uri: reference for uri, reference in distinct.items() if reference is not None}
    parsed = {uri: parse_member_reference(uri) for uri, reference in distinct.items() if reference is None}
    members = {uri: member for uri, member in parsed.items() if member is not None}
    contents = _read_files([uri for uri, member in parsed.items() if member is None], options)
    contents.update(_read_cells(cells, options))
    for uri, result in read_members(members, options).items():
        if _is_refused(result, uri):
            _raise_refusal(uri, result)
        contents[uri] = _accept(uri, result)
    return [_missing("the URI") if uri is None else contents[uri] for uri in uris]


def _read_files(uris: Iterable[str], options: Mapping[str, Any]) -> dict[str, Content]:
    contents: dict[str, Content] = {}
    batches: dict[int, tuple[Any, dict[str, str]]] = {}
    for uri in uris:
        try:
            filesystem, path = open_filesystem(uri, options)
        except ConfigError as error:
            contents[uri] = _reject(uri, error)
        else:
            batches.setdefault(id(filesystem), (filesystem, {}))[1][uri] = path
    for filesystem, paths in batches.values():
        results = dict(zip(paths, _read_whole(filesystem, list(paths.values())), strict=True))
        refused = [uri for uri, result in results.items() if _is_refused(result, uri)]
        if refused:
            results.update(_ask_again(filesystem, {uri: paths[uri] for uri in refused}, results, paths))
        contents.update({uri: _accept(uri, result) for uri, result in results.items()})
    return contents


def _read_whole(filesystem: Any, paths: Sequence[str]) -> list[Any]:
    """Return the bytes or the error of each file."""
    return list(filesystem.cat_ranges(list(paths), None, None, on_error="return"))


def _is_refused(result: Any, uri: str) -> bool:
    return isinstance(result, BaseException) and not _is_web(uri) and is_refusal(result, uri)


def _ask_again(
    filesystem: Any, refused: Mapping[str, str], results: Mapping[str, Any], paths: Mapping[str, str]
) -> dict[str, Any]:
    """Tell objects that may not be read from a store that refuses everything, at least for a while.

    What was refused is asked for once more, after an object that could be read: it counts as refused itself where that
    object still can be.

    Args:
        filesystem: of all these paths.
        refused: paths by URI.
        results: of the first try, by URI.
        paths: of all URIs of the first try.

    Returns:
        The bytes or the error of each refused object, by URI.

    Raises:
        StoreError: nothing else can be read either.
    """
    served = next((paths[uri] for uri, result in results.items() if not isinstance(result, BaseException)), None)
    again = _read_whole(filesystem, [*([] if served is None else [served]), *refused.values()])
    if served is None or isinstance(again[0], BaseException):
        _raise_refusal(next(iter(refused)), results[next(iter(refused))])
    return dict(zip(refused, again[1:], strict=True))


def _raise_refusal(uri: str, error: Any) -> NoReturn:
    raise StoreError(
        f"the store refuses {uri} ({type(error).__name__}: {error}), and nothing shows that it is this object alone; "
        "renew the credentials, set the clock right or ask for the right to read it, and run again"
    ) from error


def _accept(uri: str, result: Any) -> Content:
    if not isinstance(result, BaseException):
        return bytes(result)
    if not _is_about_the_file(result, uri):
        raise_outage(result, uri)
        raise result
    return _reject(uri, result)


def _is_web(uri: str) -> bool:
    return uri.startswith(("http://", "https://"))


def _is_about_the_file(error: BaseException, uri: str) -> bool:
    """Say whether a pair is to be rejected for an error, or the shard to be tried again.

    A store that is out of reach or overloaded for a moment must not reject pairs; on the open web a dead link is the
    normal case, and every error counts as one.
    """
    if _is_web(uri):
        return isinstance(error, (*_FILE_ERRORS, *_WEB_ERRORS))
    return isinstance(error, _FILE_ERRORS) or (type(error) is OSError and error.errno in _FILE_ERRNOS)


def _reject(uri: str, error: BaseException) -> RejectPair:
    if isinstance(error, FileNotFoundError) and not is_outage(error, uri):
        return RejectPair("missing_file", f"there is no file {uri}; restore it or leave the pair out")
    if isinstance(error, PermissionError):
        return RejectPair("permission_denied", f"{uri} may not be read ({error}); ask for the right to read it")
    return RejectPair("unreadable_file", f"{uri} cannot be read ({type(error).__name__}: {error}); replace it")


def _read_cells(cells: Mapping[str, Reference], options: Mapping[str, Any]) -> dict[str, Content]:
    groups: dict[tuple[str, str], dict[int, str]] = {}
    for uri, cell in cells.items():
        groups.setdefault((cell.file, cell.column), {})[cell.row] = uri
    contents: dict[str, Content] = {}
    for (file, column), uris in groups.items():
        try:
            cells = _read_column(file, column, uris, options)
        except StoreError as error:
            if not _is_web(file):
                raise
            contents.update({uri: _reject(uri, error) for uri in uris.values()})
        except (ConfigError, DataError) as error:
            cause = error.__cause__
            if _is_refused(cause, file):
                _raise_refusal(file, error)
            if cause is not None and not _is_about_the_file(cause, file):
                raise cause from None
            contents.update({uri: _reject(uri, cause or error) for uri in uris.values()})
        else:
            contents.update(_follow_paths(cells, file, options))
    return contents


def _read_column(file: str, column: str, uris: Mapping[int, str], options: Mapping[str, Any]) -> dict[str, Any]:
    with open_parquet(file, options) as parquet:
        if column not in parquet.schema_arrow.names:
            raise DataError(f"the file has no column {column!r} any more")
        rows = sorted(row for row in uris if row < parquet.metadata.num_rows)
        values = take_rows(parquet, rows, [column])[column] if rows else pa.chunked_array([], pa.null())
    contents = dict(zip((uris[row] for row in rows), _convert_cells(values, [uris[row] for row in rows]), strict=True))
    past = {uri: row for row, uri in uris.items() if row >= parquet.metadata.num_rows}
    contents.update({uri: _reject(uri, DataError("the file has fewer rows now")) for uri in past})
    return contents


@dataclass(frozen=True)
class _Path:
    uri: str


def _convert_cells(values: pa.ChunkedArray, uris: Sequence[str]) -> list[Any]:
    if pa.types.is_struct(values.type):
        return [_open_struct(cell, uri) for cell, uri in zip(values.to_pylist(), uris, strict=True)]
    if pa.types.is_list(values.type) or pa.types.is_large_list(values.type) or pa.types.is_fixed_size_list(values.type):
        with np.errstate(over="ignore"):  # a number beyond float32 becomes infinite, which no vector may hold
            return [
                np.asarray(cell.values.to_numpy(zero_copy_only=False), np.float32) if cell.is_valid else _missing(uri)
                for cell, uri in zip(values, uris, strict=True)
            ]
    return [_or_missing(cell, uri) for cell, uri in zip(values.to_pylist(), uris, strict=True)]


def _open_struct(cell: Mapping[str, Any] | None, uri: str) -> Any:
    if cell is None:
        return _missing(uri)
    if cell.get("bytes") is not None:
        return cell["bytes"]
    return _Path(cell["path"]) if cell.get("path") else _missing(uri)


def _follow_paths(contents: Mapping[str, Any], file: str, options: Mapping[str, Any]) -> dict[str, Content]:
    targets = {
        uri: resolve_uri(content.uri, parent_url(file))
        for uri, content in contents.items()
        if isinstance(content, _Path)
    }
    files = _read_files(dict.fromkeys(targets.values()), options)
    return {uri: files[targets[uri]] if uri in targets else content for uri, content in contents.items()}
