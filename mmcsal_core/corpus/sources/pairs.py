"""Rows of a source as rows of `pairs/`, and the reasons why some are not.

A row is rejected for the first reason that holds: in tar archives the problem of the sample, missing_id, duplicate_id,
not_utf8, then modality by modality missing_modality, ambiguous_file, empty_text; and, where content is read, what
reading it says. Ids are compared before anything else is looked at, so the first row of an id keeps it even where that
row is rejected itself.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from mmcsal_core.corpus.modality import ModalityConfig
from mmcsal_core.corpus.pair_id import build_pair_ids, cast_pair_ids
from mmcsal_core.corpus.references import make_reference, read_contents, store_content
from mmcsal_core.corpus.reject import RejectPair
from mmcsal_core.corpus.sources.columns import (
    FOLDER_VERSION,
    PROBLEM_MESSAGE,
    PROBLEM_REASON,
    files_column,
    metadata_fields,
    modality_column,
)
from mmcsal_core.corpus.sources.config import STEM, find_access
from mmcsal_core.corpus.sources.content_keys import hash_contents
from mmcsal_core.corpus.sources.invalid_text import blank_invalid_text
from mmcsal_core.corpus.sources.listing import FOLDER_NAME, SourceListing
from mmcsal_core.corpus.sources.locations import parent_url, resolve_uri
from mmcsal_core.corpus.sources.rows import find_missing_content, locate_rows, read_source_rows
from mmcsal_core.schema import (
    CONTENT_KEY,
    PAIR_ID,
    SOURCE,
    SOURCE_ROW,
    bytes_column,
    describe_field,
    reject_schema,
    uri_column,
)


class Verdicts:
    """Why rows of a range are rejected; the first reason of a row stays."""

    def __init__(self, stage: str) -> None:
        self._stage = stage
        self._found: dict[int, tuple[str | None, RejectPair]] = {}

    def reject(self, row: int, modality: str | None, reason: RejectPair) -> None:
        """Reject a row, counted within the range, unless it is rejected already."""
        self._found.setdefault(row, (modality, reason))

    def reject_where(self, mask: Any, modality: str | None, reason: RejectPair) -> None:
        """Reject all rows where `mask`, shape (n,), is true."""
        for row in np.flatnonzero(np.asarray(mask)):
            self.reject(int(row), modality, reason)

    def kept(self, num_rows: int) -> npt.NDArray[np.int64]:
        """Return the rows out of `num_rows` that are not rejected."""
        mask = np.ones(num_rows, np.bool_)
        mask[list(self._found)] = False
        return np.flatnonzero(mask)

    def to_table(self, places: pa.Table) -> pa.Table:
        """Return the rejected rows under `reject_schema`; `places` holds id, source and source row of every row."""
        rows = sorted(self._found)
        chosen = places.take(pa.array(rows, pa.int64()))
        found = [self._found[row] for row in rows]
        columns = {
            PAIR_ID: chosen[PAIR_ID],
            SOURCE: chosen[SOURCE],
            SOURCE_ROW: chosen[SOURCE_ROW],
            "modality": [modality for modality, _ in found],
            "stage": [self._stage] * len(rows),
            "reason": [reason.reason for _, reason in found],
            "message": [reason.message for _, reason in found],
        }
        return pa.table(columns, schema=reject_schema())


@dataclass(frozen=True)
class PairReader:
    """Reads rows of a source as pairs.

    Args:
        listing: the source.
        modalities: resolved, in config order.
        options: storage options of the source.
        with_bytes: also read the content into `<modality>_bytes`.
    """

    listing: SourceListing
    modalities: Mapping[str, ModalityConfig]
    options: Mapping[str, Any] = field(repr=False)
    with_bytes: bool = False

    def read_ids(self, start: int, stop: int) -> pa.Array:
        """Return the ids of the global rows [start, stop), null where the id column is null or blank."""
        source = self.listing.source
        if source.pair_id_column is not None:
            rows = read_source_rows(self.listing, start, stop, [source.pair_id_column], self.options)
            return cast_pair_ids(blank_invalid_text(rows[source.pair_id_column])[0])
        names, numbers, _ = self._locate(start, stop)
        if source.kind in ("folder", "webdataset"):
            stems = read_source_rows(self.listing, start, stop, [STEM], self.options)[STEM].to_pylist()
            return build_pair_ids([FOLDER_NAME] * len(stems) if source.kind == "folder" else names, stems)
        return build_pair_ids(names, [str(number) for number in numbers])

    def read_pairs(
        self, start: int, stop: int, duplicates: npt.NDArray[np.int64], stage: str
    ) -> tuple[pa.Table, pa.Table]:
        """Return the usable rows of [start, stop) under `pair_schema`, and the others under `reject_schema`.

        Args:
            start: first global row.
            stop: row after the last.
            duplicates: global rows whose id stands in an earlier row, rising.
            stage: who rejects.
        """
        verdicts = Verdicts(stage)
        places = self._read_places(start, stop)
        ids = places[PAIR_ID]
        if self.listing.source.kind == "webdataset":
            self._reject_problems(start, stop, verdicts)
        verdicts.reject_where(pc.is_null(ids), None, RejectPair("missing_id", self._explain_missing_id()))
        for row in duplicates[(duplicates >= start) & (duplicates < stop)] - start:
            message = f"pair_id {ids[int(row)].as_py()!r} stands in an earlier row of the source; make ids unique"
            verdicts.reject(int(row), None, RejectPair("duplicate_id", message))
        columns = self._read_columns(start, stop, verdicts)
        columns.update({name: places[name] for name in places.column_names})
        columns[CONTENT_KEY] = self._hash_contents(start, stop, columns)
        pairs = pa.table(columns, schema=pair_schema(self.listing, self.modalities))
        if self.with_bytes:
            pairs = self._add_bytes(pairs, verdicts)
        kept = verdicts.kept(stop - start)
        usable = pairs if len(kept) == pairs.num_rows else pairs.take(pa.array(kept))
        return usable, verdicts.to_table(places)

    def _reject_problems(self, start: int, stop: int, verdicts: Verdicts) -> None:
        """Reject the rows of tar archives that are no pairs, for the problem that their table names."""
        problems = read_source_rows(self.listing, start, stop, [PROBLEM_REASON, PROBLEM_MESSAGE], self.options)
        for row, (reason, message) in enumerate(zip(*(column.to_pylist() for column in problems.columns), strict=True)):
            if reason is not None:
                verdicts.reject(row, None, RejectPair(reason, message))

    def _reject_invalid_text(self, rows: pa.Table, verdicts: Verdicts) -> pa.Table:
        """Reject rows with text that is no UTF-8, and return all rows with null in its place."""
        owners = {each.column or each.uri_column: name for name, each in self.modalities.items()}
        columns = {}
        for name in rows.column_names:
            columns[name], invalid = blank_invalid_text(rows[name])
            message = f"column {name!r} holds text that is not UTF-8; write it anew, or as bytes"
            verdicts.reject_where(invalid, owners.get(name), RejectPair("not_utf8", message))
        return pa.table(columns, rows.schema)

    def _explain_missing_id(self) -> str:
        column = self.listing.source.pair_id_column
        return f"column {column!r} is null, blank or not UTF-8; fill it in, or configure no pair_id_column"

    def _locate(self, start: int, stop: int) -> tuple[list[str], list[int], list[str]]:
        names: list[str] = []
        numbers: list[int] = []
        urls: list[str] = []
        for part in locate_rows(self.listing, start, stop):
            count = part.stop - part.start
            names += [part.file.name] * count
            urls += [part.file.url] * count
            numbers += range(part.start, part.stop)
        return names, numbers, urls

    def _read_places(self, start: int, stop: int) -> pa.Table:
        names, numbers, _ = self._locate(start, stop)
        ids = self.read_ids(start, stop)
        return pa.table({PAIR_ID: ids, SOURCE: pa.array(names, pa.string()), SOURCE_ROW: pa.array(numbers, pa.int64())})

    def _read_columns(self, start: int, stop: int, verdicts: Verdicts) -> dict[str, Any]:
        source, schema = self.listing.source, self.listing.schema
        metadata = [field.name for field in metadata_fields(source, self.modalities, schema)]
        wanted = list(dict.fromkeys([*metadata, *self._read_ahead()]))
        rows = read_source_rows(self.listing, start, stop, wanted, self.options) if wanted else pa.table({})
        rows = self._reject_invalid_text(rows, verdicts)
        columns: dict[str, Any] = {}
        for name, modality in self.modalities.items():
            access = find_access(source, modality)
            if access == "inline":
                columns[name] = _check_text(rows[modality_column(modality)], name, verdicts)
            elif access == "files":
                columns[uri_column(name)] = _check_files(rows, name, modality, verdicts)
            elif access == "uri":
                columns[uri_column(name)] = self._check_uris(rows, start, name, verdicts)
            else:
                columns[uri_column(name)] = self._refer(start, stop, name, verdicts)
        columns.update({name: rows[name] for name in metadata})
        return columns

    def _hash_contents(self, start: int, stop: int, columns: Mapping[str, Any]) -> pa.Array:
        source = self.listing.source
        access = {name: find_access(source, modality) for name, modality in self.modalities.items()}
        contents = [columns[name if way == "inline" else uri_column(name)] for name, way in access.items()]
        versions: list[str | None] = [None] * (stop - start)
        if source.kind == "folder":
            versions = read_source_rows(self.listing, start, stop, [FOLDER_VERSION], self.options)[0].to_pylist()
        elif {"content", "files"} & set(access.values()):
            parts = locate_rows(self.listing, start, stop)
            versions = [part.file.version for part in parts for _ in range(part.start, part.stop)]
        return hash_contents(contents, versions)

    def _read_ahead(self) -> list[str]:
        source = self.listing.source
        access = {name: find_access(source, modality) for name, modality in self.modalities.items()}
        ahead = [modality_column(self.modalities[name]) for name, way in access.items() if way in ("inline", "uri")]
        if source.kind in ("folder", "webdataset"):
            ahead += [STEM, *(files_column(name) for name, way in access.items() if way == "files")]
        return ahead

    def _check_uris(self, rows: pa.Table, start: int, name: str, verdicts: Verdicts) -> pa.Array:
        column = modality_column(self.modalities[name])
        uris = pc.cast(rows[column], pa.string())
        _reject_blank(uris, name, RejectPair("missing_modality", _explain_null(column)), verdicts)
        _, _, urls = self._locate(start, start + rows.num_rows)
        folders = {url: parent_url(url) for url in dict.fromkeys(urls)}
        resolved = [
            None if uri is None else resolve_uri(uri, folders[url])
            for uri, url in zip(uris.to_pylist(), urls, strict=True)
        ]
        return pa.array(resolved, pa.string())

    def _refer(self, start: int, stop: int, name: str, verdicts: Verdicts) -> pa.Array:
        column = modality_column(self.modalities[name])
        missing = find_missing_content(self.listing, start, stop, column, self.options)
        verdicts.reject_where(missing, name, RejectPair("missing_modality", _explain_null(column)))
        _, numbers, urls = self._locate(start, stop)
        uris = [make_reference(url, column, number) for url, number in zip(urls, numbers, strict=True)]
        return pa.array(uris, pa.string())

    def _add_bytes(self, pairs: pa.Table, verdicts: Verdicts) -> pa.Table:
        for name, modality in self.modalities.items():
            if find_access(self.listing.source, modality) == "inline":
                continue
            kept = verdicts.kept(pairs.num_rows)
            stored: list[bytes | None] = [None] * pairs.num_rows
            contents = read_contents(pairs.take(pa.array(kept)), name, modality, self.options)
            for row, content in zip(kept, contents, strict=True):
                if isinstance(content, RejectPair):
                    verdicts.reject(int(row), name, content)
                else:
                    stored[row] = store_content(content)
            position = pairs.column_names.index(uri_column(name)) + 1
            pairs = pairs.add_column(position, _bytes_field(name), pa.array(stored, pa.large_binary()))
        return pairs


def pair_schema(listing: SourceListing, modalities: Mapping[str, ModalityConfig]) -> pa.Schema:
    """Return the schema of `pairs/` with references: our own columns, one a modality, then metadata unchanged."""
    fields = [
        describe_field(PAIR_ID, pa.string(), "unique id of the pair"),
        describe_field(SOURCE, pa.string(), "source file, relative to the source root"),
        describe_field(SOURCE_ROW, pa.int64(), "row in the source file", "row"),
        describe_field(CONTENT_KEY, pa.string(), "changes where the content of the pair may have changed"),
    ]
    for name, modality in modalities.items():
        if find_access(listing.source, modality) == "inline":
            fields.append(describe_field(name, pa.string(), f"{name} of the pair"))
        else:
            fields.append(describe_field(uri_column(name), pa.string(), f"where the {name} lies", "URI"))
    return pa.schema([*fields, *metadata_fields(listing.source, modalities, listing.schema)])


def _bytes_field(name: str) -> pa.Field:
    return describe_field(bytes_column(name), pa.large_binary(), f"{name} as encoded in the source", "bytes")


def _explain_null(column: str) -> str:
    return f"column {column!r} is null or blank; fill it in or leave the pair out"


def _check_text(column: pa.ChunkedArray, name: str, verdicts: Verdicts) -> pa.ChunkedArray:
    texts = pc.cast(column, pa.string())
    verdicts.reject_where(pc.is_null(texts), name, RejectPair("missing_modality", f"{name} is null; fill it in"))
    _reject_blank(texts, name, RejectPair("empty_text", f"{name} holds nothing but white space; write it"), verdicts)
    return texts


def _reject_blank(texts: pa.ChunkedArray, name: str, reason: RejectPair, verdicts: Verdicts) -> None:
    blank = pc.fill_null(pc.equal(pc.utf8_trim_whitespace(texts), ""), True)
    verdicts.reject_where(blank, name, reason)


def _check_files(rows: pa.Table, name: str, modality: ModalityConfig, verdicts: Verdicts) -> pa.Array:
    stems: Sequence[str] = rows[STEM].to_pylist()
    uris: list[str | None] = []
    for row, files in enumerate(rows[files_column(name)].to_pylist()):
        uris.append(files[0] if files else None)
        if not files:
            endings = ", ".join(modality.suffixes)
            message = f"stem {stems[row]!r} has no {name} file ({endings}); add it or take the others away"
            verdicts.reject(row, name, RejectPair("missing_modality", message))
        elif len(files) > 1:
            message = f"stem {stems[row]!r} has more than one {name} file: {', '.join(files)}; keep one"
            verdicts.reject(row, name, RejectPair("ambiguous_file", message))
    return pa.array(uris, pa.string())
