"""Which columns of a source are used for what, checked against its schema before any work starts."""

import difflib
from collections.abc import Mapping, Sequence

import pyarrow as pa

from mmcsal_core.corpus.modality import ModalityConfig
from mmcsal_core.corpus.sources.config import STEM, Access, SourceConfig, find_access
from mmcsal_core.errors import ConfigError
from mmcsal_core.schema import (
    CONTENT_KEY,
    PAIR_ID,
    ROW,
    SOURCE,
    SOURCE_ROW,
    bytes_column,
    selection_schema,
    uri_column,
)

PROBLEM_REASON, PROBLEM_MESSAGE = "problem_reason", "problem_message"
"""Columns of the table of a tar archive: why a row is no pair, null where it may be one."""

FOLDER_VERSION = "files_version"
"""Column of a folder's listing: the versions of a stem's files."""

_EXPECTED: dict[Access, str] = {
    "inline": "text",
    "content": "bytes, or a struct of bytes and path",
    "uri": "text, a path or URL",
}


def files_column(modality: str) -> str:
    """Name the column of a folder's listing that holds a stem's files of one modality."""
    return f"{modality}_files"


def modality_column(modality: ModalityConfig) -> str:
    """Return the source column that a modality of a tabular source stands in."""
    column = modality.column if modality.column is not None else modality.uri_column
    if column is None:
        raise ConfigError("a modality of a tabular source needs column or uri_column; call check_source first")
    return column


def check_columns(source: SourceConfig, modalities: Mapping[str, ModalityConfig], schema: pa.Schema) -> None:
    """Check that every configured column is there, is of a usable type, and that no metadata takes one of our names.

    Raises:
        ConfigError: one of them is not so.
    """
    for name, modality in modalities.items():
        if find_access(source, modality) != "files":
            _check_modality(source, name, modality, schema)
    if source.pair_id_column is not None:
        field = _find_field(source.pair_id_column, "source.pair_id_column", schema)
        if not (_is_text(field.type) or pa.types.is_integer(field.type)):
            raise ConfigError(
                f"source.pair_id_column is text or whole numbers, but column {field.name!r} is {field.type}; "
                "name another column, or none"
            )
    for name in source.metadata_columns or ():
        _find_field(name, "source.metadata_columns", schema)
    _check_clashes(source, modalities, schema)


def metadata_fields(
    source: SourceConfig, modalities: Mapping[str, ModalityConfig], schema: pa.Schema
) -> list[pa.Field]:
    """Return the fields of the source that pass through, in the order configured, else in the source's own order."""
    if source.metadata_columns is not None:
        return [schema.field(name) for name in source.metadata_columns]
    own = {"webdataset": (PROBLEM_REASON, PROBLEM_MESSAGE), "folder": (FOLDER_VERSION,)}
    used = {source.pair_id_column, *own.get(source.kind, ())}
    for name, modality in modalities.items():
        is_file = find_access(source, modality) == "files"
        used.add(files_column(name) if is_file else modality_column(modality))
    return [field for field in schema if field.name not in used]


def folder_schema(modalities: Sequence[str]) -> pa.Schema:
    """Return the schema of a folder's listing: one row a stem, one list of files a modality, their versions."""
    lists = [pa.field(files_column(name), pa.list_(pa.string())) for name in modalities]
    return pa.schema([pa.field(STEM, pa.string()), *lists, pa.field(FOLDER_VERSION, pa.string())])


def _check_modality(source: SourceConfig, name: str, modality: ModalityConfig, schema: pa.Schema) -> None:
    key = f"modalities.{name}.{'column' if modality.column is not None else 'uri_column'}"
    field = _find_field(modality_column(modality), key, schema)
    access = find_access(source, modality)
    if access == "content" and modality.kind == "vector":
        is_usable, expected = _is_vector(field.type), "a list of numbers"
    elif access == "content":
        is_usable, expected = _is_content(field.type), _EXPECTED[access]
    else:
        is_usable, expected = _is_text(field.type), _EXPECTED[access]
    if not is_usable:
        advice = f"set modalities.{name}.uri_column if it holds paths" if _is_text(field.type) else "name another"
        raise ConfigError(f"{key} is {expected}, but column {field.name!r} is {field.type}; {advice}")


def _find_field(column: str, key: str, schema: pa.Schema) -> pa.Field:
    if column not in schema.names:
        nearest = difflib.get_close_matches(column, schema.names, n=1, cutoff=0)
        raise ConfigError(
            f"{key} names a column of the source, got {column!r}; did you mean {nearest[0]!r}? "
            f"The columns are: {', '.join(schema.names)}"
            if nearest
            else f"{key} names a column of the source, got {column!r}, but the source has no columns"
        )
    return schema.field(column)


def _check_clashes(source: SourceConfig, modalities: Mapping[str, ModalityConfig], schema: pa.Schema) -> None:
    reserved = {PAIR_ID, SOURCE, SOURCE_ROW, CONTENT_KEY, ROW, *selection_schema(list(modalities), ()).names}
    if source.kind == "webdataset":
        _check_keys(source, modalities)
    taken = reserved & set(modalities)
    if taken:
        raise ConfigError(f"a modality may not have the name of a column of the output, got {min(taken)!r}; rename it")
    for name in modalities:
        reserved |= {name, uri_column(name), bytes_column(name)}
    clashes = [field.name for field in metadata_fields(source, modalities, schema) if field.name in reserved]
    if clashes:
        raise ConfigError(
            f"a metadata column may not have the name of a column of the output, got {', '.join(clashes)}; "
            "rename it in the source, or list the others in source.metadata_columns"
        )


def _check_keys(source: SourceConfig, modalities: Mapping[str, ModalityConfig]) -> None:
    """Refuse keys of `.json` members that have the name of a column which the table of an archive has anyway."""
    keys = {source.pair_id_column, *(source.metadata_columns or ()), *(each.column for each in modalities.values())}
    taken = sorted({PROBLEM_REASON, PROBLEM_MESSAGE, *map(files_column, modalities)} & keys)
    if taken:
        raise ConfigError(f"a key of a .json member may not be called {taken[0]!r}; rename it in the archives")


def _value_type(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _is_text(kind: pa.DataType) -> bool:
    plain = _value_type(kind)
    return bool(pa.types.is_string(plain) or pa.types.is_large_string(plain))


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _is_content(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        names = [kind.field(i).name for i in range(kind.num_fields)]
        return "bytes" in names and _is_bytes(kind.field("bytes").type)
    return _is_bytes(kind)


def _is_vector(kind: pa.DataType) -> bool:
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return bool(is_list and (pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type)))
