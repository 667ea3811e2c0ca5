"""What a source is, and the rules between a source and the modalities that need no look at the data."""

from collections.abc import Mapping
from typing import Literal

from pydantic import Field, field_validator

from mmcsal_core.corpus.modality import ModalityConfig
from mmcsal_core.credentials import check_url
from mmcsal_core.errors import ConfigError
from mmcsal_core.settings import Settings

STEM = "stem"
"""Column of a folder or of tar archives: what the files of a pair have in common, their path without the suffix."""

MAX_MEMBER_BYTES = 2**28
"""Largest member of a tar archive that is read, unless configured otherwise."""

Access = Literal["inline", "content", "uri", "files"]
"""How a modality's content is reached: text in a column, bytes or a vector in a column, a URI, files of a folder."""


class SourceConfig(Settings):
    """Where the pairs come from.

    `parquet` holds the content itself, or URIs. `manifest` is CSV, JSONL or Parquet with URIs. `folder` is files that
    belong together by stem: `cats/07.png` and `cats/07.txt` are one pair. `webdataset` is tar archives (plain, gz, zst
    or bz2) whose members belong together in the same way, up to the first dot of the name; columns are keys of a
    sample's `.json` member there. Relative URIs start at the folder of the file that they stand in. CSV has no types,
    so its columns stay text.
    """

    kind: Literal["parquet", "manifest", "folder", "webdataset"]
    url: str = Field(
        min_length=1, description="a file, a folder or a glob; a path or any fsspec URL, without credentials"
    )
    pair_id_column: str | None = Field(None, description="column with unique ids; by default a hash of the place")
    metadata_columns: tuple[str, ...] | None = Field(
        None,
        description="columns that pass through; by default all that are neither a modality nor the id, of a webdataset "
        "source none but the stem",
    )

    max_member_bytes: int = Field(
        MAX_MEMBER_BYTES, ge=1, description="largest member of a tar archive that is read; others reject their pair"
    )

    @field_validator("url")
    @classmethod
    def _check_url(cls, url: str) -> str:
        return check_url(url)

    @field_validator("metadata_columns")
    @classmethod
    def _check_metadata_columns(cls, columns: tuple[str, ...] | None) -> tuple[str, ...] | None:
        repeated = sorted({name for name in columns or () if (columns or ()).count(name) > 1})
        if repeated:
            raise ValueError(f"a metadata column is named once, got {repeated} more than once; delete the repetition")
        return columns


def find_access(source: SourceConfig, modality: ModalityConfig) -> Access:
    """Say how the content of a modality is reached in this source."""
    if source.kind == "folder" or (source.kind == "webdataset" and modality.column is None):
        return "files"
    if modality.column is None:
        return "uri"
    return "inline" if modality.resolved_kind == "text" else "content"


def check_source(source: SourceConfig, modalities: Mapping[str, ModalityConfig]) -> None:
    """Check every modality against the kind of source.

    Raises:
        ConfigError: a modality cannot stand in such a source.
    """
    for name, modality in modalities.items():
        if source.kind == "folder":
            _check_folder_modality(name, modality)
        elif source.kind == "webdataset":
            _check_member_modality(name, modality)
        else:
            _check_table_modality(source, name, modality)
    if source.kind == "folder":
        _check_folder_columns(source)
    if source.kind in ("folder", "webdataset"):
        _check_suffixes({name: each for name, each in modalities.items() if find_access(source, each) == "files"})


def _check_table_modality(source: SourceConfig, name: str, modality: ModalityConfig) -> None:
    if modality.column is None and modality.uri_column is None:
        raise ConfigError(
            f"modality {name!r} of a {source.kind} source needs column or uri_column, got neither; "
            f"set modalities.{name}.column (the content itself) or modalities.{name}.uri_column (a path or URL)"
        )
    if modality.kind == "vector" and modality.uri_column is not None:
        raise ConfigError(
            f"modality {name!r} is a vector, and vectors stand in a column, got uri_column "
            f"{modality.uri_column!r}; put the vectors into a Parquet column and set modalities.{name}.column"
        )


def _check_folder_modality(name: str, modality: ModalityConfig) -> None:
    column = modality.column or modality.uri_column
    if column is not None:
        raise ConfigError(
            f"a folder source has no columns, but modality {name!r} names {column!r}; "
            f"delete it, files are found by modalities.{name}.suffixes"
        )
    if modality.kind == "vector":
        raise ConfigError(f"modality {name!r} is a vector, and a folder holds none; use a Parquet source")
    if not modality.suffixes:
        raise ConfigError(f"modality {name!r} of a folder source needs suffixes; set modalities.{name}.suffixes")


def _check_member_modality(name: str, modality: ModalityConfig) -> None:
    if modality.uri_column is not None:
        raise ConfigError(
            f"a webdataset source holds no URIs, but modality {name!r} names uri_column {modality.uri_column!r}; "
            f"delete it, members are found by modalities.{name}.suffixes"
        )
    if modality.column is not None and modality.resolved_kind != "text":
        raise ConfigError(
            f"only a text stands in the .json member of a webdataset source, but modality {name!r} is of kind "
            f"{modality.resolved_kind} and names column {modality.column!r}; delete it and set "
            f"modalities.{name}.suffixes"
        )
    if modality.column is None and not modality.suffixes:
        raise ConfigError(
            f"modality {name!r} of a webdataset source needs suffixes; set modalities.{name}.suffixes; vectors stand "
            "in a Parquet source"
        )


def _check_folder_columns(source: SourceConfig) -> None:
    named = [*([source.pair_id_column] if source.pair_id_column else []), *(source.metadata_columns or ())]
    wrong = [name for name in named if name != STEM]
    if wrong:
        raise ConfigError(
            f"a folder source has one column, {STEM!r}, got {wrong}; delete them from source.pair_id_column and "
            "source.metadata_columns, or use a manifest"
        )


def _check_suffixes(modalities: Mapping[str, ModalityConfig]) -> None:
    owners: dict[tuple[str, str], str] = {}
    for name, modality in modalities.items():
        for suffix in modality.suffixes:
            owner = owners.setdefault((modality.resolved_kind, suffix), name)
            if owner != name:
                raise ConfigError(
                    f"a suffix belongs to one {modality.kind} modality, but {owner!r} and {name!r} both take "
                    f"{suffix!r}; give them different suffixes or use a manifest"
                )
