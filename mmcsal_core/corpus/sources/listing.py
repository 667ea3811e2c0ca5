"""What a source holds, learned from headers alone: files, rows, bytes, schema, and a fingerprint.

The fingerprint hashes the root, and every file's relative name, size and version: the store's entity tag, or the
modification time of a local file. Content is not read for it, so a local file that is touched counts as changed, and
one that is rewritten with the same size in the same instant does not. Files that a manifest only points to are not
looked at.

CSV, JSONL and folders are read whole, being small. `stage_tables` writes them as Parquet beside the pairs artifact, so
that every worker reads the same rows from the store, whatever happens to the source meanwhile. Of tar archives an index
is kept, which `tar_index` explains.
"""

import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa

from mmcsal_core.corpus.modality import ModalityConfig
from mmcsal_core.corpus.sources.columns import check_columns
from mmcsal_core.corpus.sources.config import SourceConfig, check_source, find_access
from mmcsal_core.corpus.sources.locations import (
    FoundFile,
    FoundFiles,
    describe_version,
    find_files,
    open_filesystem,
)
from mmcsal_core.corpus.sources.parquet import open_parquet
from mmcsal_core.corpus.sources.tables import pair_by_stem, parse_csv, parse_jsonl
from mmcsal_core.corpus.sources.tar_index import TarTable, find_missing_tables, find_tar_columns, list_tables
from mmcsal_core.corpus.sources.tars import COMPRESSIONS, is_tar
from mmcsal_core.errors import ConfigError, DataError
from mmcsal_core.filesystems import raise_outage, store_errors
from mmcsal_core.storage import Store

FOLDER_NAME = "."
"""The `source` of every pair of a folder source: the folder itself."""

_SUFFIXES = {
    "parquet": (".parquet", ".pq"),
    "manifest": (".csv", ".jsonl", ".ndjson", ".parquet", ".pq"),
    "webdataset": tuple(COMPRESSIONS),
}
_NUM_THREADS = 16


@dataclass(frozen=True)
class SourceFile:
    """One table of rows.

    Args:
        name: path relative to the source root.
        url: how workers open it.
        num_rows: rows in it.
        num_bytes: size; of all files, for a folder.
        version: what tells it from what the file held before; empty for a folder, whose table has one a stem.
        staged: name of the Parquet copy in the listing's staging store, where there is one.
        table: the rows of a source that is not Parquet, until they are staged.
    """

    name: str
    url: str
    num_rows: int
    num_bytes: int
    version: str = ""
    staged: str | None = None
    table: pa.Table | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class SourceListing:
    """A source as its headers describe it.

    Args:
        source: its configuration.
        root: URL of the folder that file names are relative to.
        files: its tables, sorted by name; global rows count through them in this order.
        schema: of all tables together; a column that some lack is null there.
        fingerprint: changes where a file is added, removed or changed.
        staging: where staged tables lie.
        is_estimated: tables of tar archives have yet to be made; until then numbers of rows are estimates, and no row
            can be read.
    """

    source: SourceConfig
    root: str
    files: tuple[SourceFile, ...]
    schema: pa.Schema
    fingerprint: str
    staging: Store | None = None
    is_estimated: bool = False

    @property
    def num_pairs(self) -> int:
        """Rows of all tables."""
        return sum(file.num_rows for file in self.files)

    @property
    def num_bytes(self) -> int:
        """Size of all files."""
        return sum(file.num_bytes for file in self.files)


def list_source(
    source: SourceConfig,
    modalities: Mapping[str, ModalityConfig],
    options: Mapping[str, Any],
    index: Store | None = None,
) -> SourceListing:
    """Describe a source without reading its content.

    Args:
        source: what to list.
        modalities: resolved, in config order.
        options: storage options for fsspec.
        index: where the tables of tar archives are, where any have been made.

    Raises:
        ConfigError: a configured column is absent or of a wrong type, or a modality cannot stand in such a source.
        DataError: the source is missing, empty or unreadable.
    """
    check_source(source, modalities)
    found = _choose_files(source, modalities, find_files(source.url, options))
    is_estimated = False
    if source.kind == "folder":
        files, schemas = _list_folder(found, modalities)
    elif source.kind == "webdataset":
        tables = list_tables(found.files, find_tar_columns(source, modalities), options, index)
        files, schemas = _list_archives(found, tables)
        is_estimated = not all(table.is_made for table in tables)
    else:
        files, schemas = _list_tables(source, found, modalities, options)
    listing = SourceListing(
        source=source,
        staging=index if source.kind == "webdataset" else None,
        is_estimated=is_estimated,
        root=found.root,
        files=tuple(files),
        schema=_unify_schemas(source, schemas),
        fingerprint=_hash_files(found),
    )
    if listing.num_pairs == 0:
        raise DataError(f"source {source.url} has no rows; check source.url")
    check_columns(source, modalities, listing.schema)
    return listing


def list_missing_tables(
    source: SourceConfig, modalities: Mapping[str, ModalityConfig], options: Mapping[str, Any], index: Store
) -> dict[str, str]:
    """Return the tar archives of a source whose tables have yet to be made: the tables' names by the archives' URLs.

    Raises:
        DataError: the source is missing or unreadable.
    """
    if source.kind != "webdataset":
        return {}
    found = _choose_files(source, modalities, find_files(source.url, options))
    return find_missing_tables(found.files, find_tar_columns(source, modalities), index)


def stage_tables(listing: SourceListing, staging: Store) -> SourceListing:
    """Write the tables of a source that is not Parquet to `staging`, and return a listing that workers can read."""
    if listing.source.kind == "webdataset":
        return listing
    files = []
    for index, file in enumerate(listing.files):
        name = f"table-{index:05d}.parquet"
        if file.table is not None:
            staging.write_table(name, file.table)
        files.append(file if file.table is None else replace(file, table=None, staged=name))
    return replace(listing, files=tuple(files), staging=staging)


def _choose_files(source: SourceConfig, modalities: Mapping[str, ModalityConfig], found: FoundFiles) -> FoundFiles:
    if source.kind == "parquet" and found.is_single:
        return found
    if source.kind == "folder":
        suffixes = tuple(suffix for modality in modalities.values() for suffix in modality.suffixes)
    else:
        suffixes = _SUFFIXES[source.kind]
    chosen = [file for file in found.files if _has_suffix(source, file.name, suffixes)]
    if source.kind != "folder":
        chosen = [file for file in chosen if not _is_mark(file.name)]
    if not chosen:
        raise DataError(
            f"source {source.url} holds no file that ends in {', '.join(suffixes)}; "
            "check source.url, source.kind and the suffixes of the modalities"
        )
    return replace(found, files=tuple(chosen))


def _list_folder(
    found: FoundFiles, modalities: Mapping[str, ModalityConfig]
) -> tuple[list[SourceFile], list[pa.Schema]]:
    table = pair_by_stem(found.files, modalities)
    num_bytes = sum(file.num_bytes for file in found.files)
    return [SourceFile(FOLDER_NAME, found.root, table.num_rows, num_bytes, table=table)], [table.schema]


def _list_archives(found: FoundFiles, tables: Sequence[TarTable]) -> tuple[list[SourceFile], list[pa.Schema]]:
    files = [
        SourceFile(file.name, file.url, table.num_rows, file.num_bytes, describe_version(file), staged=table.name)
        for file, table in zip(found.files, tables, strict=True)
    ]
    return files, [table.schema for table in tables if table.schema is not None]


def _list_tables(
    source: SourceConfig, found: FoundFiles, modalities: Mapping[str, ModalityConfig], options: Mapping[str, Any]
) -> tuple[list[SourceFile], list[pa.Schema]]:
    others = [file.url for file in found.files if not _is_parquet(source, file)]
    for name, modality in modalities.items():
        if others and find_access(source, modality) == "content":
            raise ConfigError(
                f"modality {name!r} has its content in a column, which needs Parquet, but the source holds "
                f"{others[0]}; set modalities.{name}.uri_column or convert the source"
            )
    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        listed = list(pool.map(lambda file: _list_table(source, file, options), found.files))
    return [file for file, _ in listed], [schema for _, schema in listed]


def _list_table(source: SourceConfig, file: FoundFile, options: Mapping[str, Any]) -> tuple[SourceFile, pa.Schema]:
    if _is_parquet(source, file):
        with open_parquet(file.url, options) as parquet:
            num_rows, schema = parquet.metadata.num_rows, parquet.schema_arrow
        return SourceFile(file.name, file.url, num_rows, file.num_bytes, describe_version(file)), schema
    data = _read_file(file.url, options)
    table = (parse_csv if file.name.lower().endswith(".csv") else parse_jsonl)(data, file.url)
    listed = SourceFile(file.name, file.url, table.num_rows, file.num_bytes, describe_version(file), table=table)
    return listed, table.schema


def _read_file(url: str, options: Mapping[str, Any]) -> bytes:
    filesystem, path = open_filesystem(url, options)
    try:
        return bytes(filesystem.cat_file(path))
    except store_errors() as error:
        raise_outage(error, url)
        raise DataError(f"source file {url} is not readable ({type(error).__name__}: {error}); restore it") from error


def _is_parquet(source: SourceConfig, file: FoundFile) -> bool:
    return source.kind == "parquet" or PurePosixPath(file.name).suffix.lower() in _SUFFIXES["parquet"]


def _has_suffix(source: SourceConfig, name: str, suffixes: Sequence[str]) -> bool:
    return is_tar(name) if source.kind == "webdataset" else PurePosixPath(name).suffix.lower() in suffixes


def _is_mark(name: str) -> bool:
    return any(part.startswith("_") for part in PurePosixPath(name).parts)


def _unify_schemas(source: SourceConfig, schemas: Sequence[pa.Schema]) -> pa.Schema:
    for schema in schemas:
        repeated = sorted({name for name in schema.names if schema.names.count(name) > 1})
        if repeated:
            raise DataError(f"source {source.url} has more than one column named {repeated[0]!r}; rename one")
    try:
        return pa.unify_schemas(list(schemas), promote_options="permissive").remove_metadata()
    except pa.ArrowException as error:
        raise DataError(
            f"the files of source {source.url} have one schema, but {error}; rewrite those that differ"
        ) from error


def _hash_files(found: FoundFiles) -> str:
    digest = hashlib.sha256(found.root.encode())
    for file in found.files:
        digest.update(f"\n{file.name}\n{describe_version(file)}".encode())
    return digest.hexdigest()[:32]
