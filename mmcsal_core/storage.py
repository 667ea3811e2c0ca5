"""A folder of a run, local or in an object store.

A file appears whole or not at all: a local write goes to a hidden neighbour and is renamed over the name, an object
store's PUT is atomic by itself. Listings are never cached, since several processes write under one root.
"""

import hashlib
import io
import json
import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mmcsal_core.credentials import check_url
from mmcsal_core.errors import ArtifactError, ConfigError
from mmcsal_core.filesystems import open_filesystem
from mmcsal_core.settings import Settings

PARTIAL = ".partial"
"""Ending of a local file that is being written."""


class FileRecord(Settings):
    """What a manifest says of one file: `name` relative to the artifact, size in bytes, sha256 in hex."""

    name: str
    num_bytes: int
    sha256: str


def hash_bytes(data: bytes) -> str:
    """Return the sha256 of `data` in hex."""
    return hashlib.sha256(data).hexdigest()


@dataclass(frozen=True)
class Store:
    """A folder, local or in an object store.

    Args:
        url: a path or any URL that fsspec knows, e.g. `s3://bucket/prefix`.
        options: storage options for fsspec, e.g. `{"endpoint_url": "http://127.0.0.1:9000"}`; never written anywhere.

    Raises:
        ConfigError: the URL holds credentials.
    """

    url: str
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        try:
            check_url(self.url)
        except ValueError as error:
            raise ConfigError(str(error)) from error

    def child(self, *names: str) -> "Store":
        """Return the folder `names` below this one."""
        return Store("/".join([self.url.rstrip("/"), *names]), self.options)

    @property
    def filesystem(self) -> Any:
        """The fsspec filesystem of this folder."""
        return self._resolve()[0]

    @property
    def root(self) -> str:
        """The path of this folder as its filesystem spells it."""
        return self._resolve()[1]

    def _resolve(self) -> tuple[Any, str]:
        return open_filesystem(self.url, self.options)

    def path(self, name: str) -> str:
        """Return the full path of `name`, as the filesystem spells it."""
        return f"{self.root}/{name}"

    def exists(self, name: str) -> bool:
        """Say whether a file of this name is there; a store that cannot be asked is an error, not an absence."""
        try:
            return bool(self.filesystem.info(self.path(name))["type"] == "file")
        except (FileNotFoundError, NotADirectoryError):
            return False

    def list_files(self) -> list[str]:
        """Return the names of all files below this folder, sorted; an absent folder has none."""
        return [name for name in self._find() if not name.endswith(PARTIAL)]

    def remove_leftovers(self) -> None:
        """Delete what killed writers left behind; call it only while nobody writes below this folder."""
        for name in self._find():
            if name.endswith(PARTIAL):
                self.remove(name)

    def _find(self) -> list[str]:
        filesystem, root = self._resolve()
        filesystem.invalidate_cache()
        return sorted(os.path.relpath(path, root) for path in filesystem.find(root))

    def read_bytes(self, name: str) -> bytes:
        """Read a whole file.

        Raises:
            ArtifactError: there is no such file.
        """
        try:
            return bytes(self.filesystem.cat_file(self.path(name)))
        except FileNotFoundError as error:
            raise ArtifactError(
                f"a file of the run is missing: {self.url}/{name}; run the stage that writes it"
            ) from error

    def write_bytes(self, name: str, data: bytes) -> FileRecord:
        """Write a whole file, or none of it."""
        filesystem, target = self.filesystem, self.path(name)
        if "file" in _protocols(filesystem):
            _replace_local_file(Path(target), data)
        else:
            filesystem.pipe_file(target, data)
        return FileRecord(name=name, num_bytes=len(data), sha256=hash_bytes(data))

    def create_bytes(self, name: str, data: bytes) -> bool:
        """Write a whole file unless one of that name is there, in one step; say whether it was written.

        Object stores do this by a conditional PUT (`If-None-Match`), which some imitations of S3 accept and ignore:
        `mmcsal doctor` probes for it.
        """
        filesystem, target = self.filesystem, self.path(name)
        try:
            if "file" in _protocols(filesystem):
                _create_local_file(Path(target), data)
            else:
                filesystem.pipe_file(target, data, mode="create")
        except FileExistsError:
            return False
        return True

    def measure_age_s(self, name: str) -> float | None:
        """Return how long ago a file was written, by the store's own clock; None where it does not tell.

        A file is written for it, since a store tells the time of files only. The clocks of two machines may be minutes
        apart; that of the store they have in common.
        """
        probe = f"_clock-{uuid.uuid4().hex}"
        filesystem = self.filesystem
        try:
            self.write_bytes(probe, b"")
            now, then = (filesystem.modified(self.path(each)) for each in (probe, name))
        except NotImplementedError:  # what fsspec raises where a file system knows no times
            return None
        finally:
            self.remove(probe)
        return float((now - then).total_seconds())

    def read_json(self, name: str) -> Any:
        """Read a JSON file.

        Raises:
            ArtifactError: it is missing or is not JSON.
        """
        try:
            return json.loads(self.read_bytes(name))
        except ValueError as error:
            raise ArtifactError(f"{self.url}/{name} is not JSON ({error}); delete it and run again") from error

    def write_json(self, name: str, value: Any) -> FileRecord:
        """Write `value` as JSON, keys sorted, so that equal values give equal bytes."""
        return self.write_bytes(name, (json.dumps(value, indent=2, sort_keys=True) + "\n").encode())

    def read_table(self, name: str, columns: Sequence[str] | None = None) -> pa.Table:
        """Read one Parquet file, or some of its columns.

        Raises:
            ArtifactError: it is missing or is not Parquet.
        """
        source = io.BytesIO(self.read_bytes(name))
        try:
            return pq.read_table(source, columns=None if columns is None else list(columns))
        except (pa.ArrowInvalid, OSError) as error:  # a damaged page is an OSError to Arrow
            raise ArtifactError(
                f"{self.url}/{name} is not readable Parquet ({error}); delete it and run again"
            ) from error

    def write_table(self, name: str, table: pa.Table) -> FileRecord:
        """Write one Parquet file, or none of it."""
        return self.write_bytes(name, encode_parquet(table))

    def remove(self, name: str = "") -> None:
        """Delete a file or a folder; an absent one is fine."""
        filesystem, target = self.filesystem, self.path(name) if name else self.root
        filesystem.invalidate_cache()
        if filesystem.exists(target):
            with suppress(FileNotFoundError):  # somebody else was quicker
                filesystem.rm(target, recursive=True)


def encode_parquet(table: pa.Table) -> bytes:
    """Encode a table as every published file is: zstd, page index, byte-stream-split for float32 vectors only.

    Equal tables give equal bytes.
    """
    split = [f"{column.name}.list.element" for column in table.schema if _is_float_vector(column.type)]
    plain = [column.name for column in table.schema if not _is_float_vector(column.type)]
    sink = io.BytesIO()
    pq.write_table(
        table,
        sink,
        compression="zstd",
        use_dictionary=plain,
        use_byte_stream_split=split or False,
        write_page_index=True,
        store_schema=True,
    )
    return sink.getvalue()


def _is_float_vector(kind: pa.DataType) -> bool:
    return bool(pa.types.is_fixed_size_list(kind) and pa.types.is_float32(kind.value_type))


def _protocols(filesystem: Any) -> tuple[str, ...]:
    protocol = filesystem.protocol
    return (protocol,) if isinstance(protocol, str) else tuple(protocol)


def _create_local_file(target: Path, data: bytes) -> None:
    with _stage_file(target, uuid.uuid4().hex, data) as staged:
        os.link(staged, target)  # a link fails where the name is taken, and never shows half a file


def _replace_local_file(target: Path, data: bytes) -> None:
    with _stage_file(target, str(os.getpid()), data) as staged:
        staged.replace(target)


@contextmanager
def _stage_file(target: Path, mark: str, data: bytes) -> Iterator[Path]:
    """Write a file beside its place; nothing is left of it after the block, or where the disk is full."""
    target.parent.mkdir(parents=True, exist_ok=True)
    staged = target.with_name(f".{target.name}.{mark}{PARTIAL}")
    try:
        staged.write_bytes(data)
        yield staged
    finally:
        with suppress(OSError):
            staged.unlink(missing_ok=True)
