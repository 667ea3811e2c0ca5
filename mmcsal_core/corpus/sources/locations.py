"""Where source files lie: URLs, storage options, and listings with a size and a version for every file.

Storage options come from the configuration and are never written anywhere. They are given flat, for the object store
of the source (`{"endpoint_url": ...}`), or nested under a protocol where a corpus mixes stores
(`{"s3": {...}, "https": {...}}`). Flat options never reach local files or plain web addresses, which know none of them.
"""

import posixpath
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import fsspec
from fsspec.utils import get_protocol

from mmcsal_core import filesystems
from mmcsal_core.errors import ConfigError, DataError

_WITHOUT_SHARED_OPTIONS = (*filesystems.LOCAL, "http", "https")
_VERSION_KEYS = ("ETag", "etag", "md5Hash", "mtime", "LastModified", "last_modified", "updated", "created")
_MAGIC = frozenset("*?[")


@dataclass(frozen=True)
class FoundFile:
    """One file of a source.

    Args:
        name: path relative to the source root.
        url: how workers open it; a plain path for a local file.
        num_bytes: size.
        version: entity tag where the store has one, else the modification time.
    """

    name: str
    url: str
    num_bytes: int
    version: str


@dataclass(frozen=True)
class FoundFiles:
    """The files of a source, sorted by name.

    Args:
        root: URL of the folder that names are relative to.
        files: what was found.
        is_single: the URL named one file, not a folder or a glob.
    """

    root: str
    files: tuple[FoundFile, ...]
    is_single: bool = False


def describe_version(file: FoundFile) -> str:
    """Return what tells a file from what its name stood for before: its size and version."""
    return f"{file.num_bytes}\n{file.version}"


def select_options(url: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the storage options that apply to `url`: those under its protocol, and the flat ones on object stores.

    Options under a synonym of the protocol apply too: a file that was listed under `az://` is named `abfs://`.
    """
    known = frozenset(fsspec.available_protocols())
    flat = {key: value for key, value in options.items() if key not in known}
    chosen = {} if get_protocol(url) in _WITHOUT_SHARED_OPTIONS else flat
    for protocol in filesystems.list_synonyms(url):
        chosen |= options.get(protocol, {})
    return chosen


def open_filesystem(url: str, options: Mapping[str, Any]) -> tuple[Any, str]:
    """Return the file system of `url` and the path in it.

    Raises:
        ConfigError: the protocol is unknown, the package that speaks it is not installed, or it is no file or folder.
    """
    if filesystems.is_endless(url):
        raise ConfigError(f"{url} must be a file or a folder, got a pipe, a socket or a device; copy it to a file")
    return filesystems.open_filesystem(url, select_options(url, options))


def resolve_uri(uri: str, folder_url: str) -> str:
    """Return `uri` as it is where it is absolute, else below `folder_url`."""
    if "://" in uri or uri.startswith("/"):
        return uri
    protocol, separator, path = folder_url.rpartition("://")
    return f"{protocol}{separator}{posixpath.normpath(posixpath.join(path, uri))}"


def parent_url(url: str) -> str:
    """Return the URL of the folder that a file lies in."""
    protocol, separator, path = url.rpartition("://")
    return f"{protocol}{separator}{posixpath.dirname(path)}"


def find_files(url: str, options: Mapping[str, Any]) -> FoundFiles:
    """List a file, the files below a folder, or those that a glob matches; hidden ones are left out.

    Raises:
        ConfigError: the protocol is unknown.
        DataError: there is nothing at `url`, or it cannot be listed.
        StoreError: the store is out of reach.
    """
    filesystem, path = open_filesystem(url, options)
    path = posixpath.normpath(path) if _is_local(filesystem) else path
    try:
        root, infos = _list_infos(filesystem, path, url)
    except filesystems.store_errors() as error:
        filesystems.raise_outage(error, url)
        raise DataError(
            f"source {url} cannot be listed ({type(error).__name__}: {error}); "
            "check source.url, the storage options and your rights"
        ) from error
    files = [_describe_file(filesystem, root, file, info) for file, info in infos.items() if info["type"] == "file"]
    visible = sorted((file for file in files if not _is_hidden(file.name)), key=lambda file: file.name)
    if not visible:
        raise DataError(f"source {url} is missing or holds no files; check source.url")
    return FoundFiles(_url_of(filesystem, root), tuple(visible), is_single=list(infos) == [path])


def _list_infos(filesystem: Any, path: str, url: str) -> tuple[str, dict[str, Any]]:
    filesystem.invalidate_cache()
    info = _find_info(filesystem, path, url)
    if info is not None and info["type"] == "file":
        return posixpath.dirname(path), {path: info}
    if _MAGIC & set(path):
        return _plain_prefix(path), dict(filesystem.glob(path, detail=True))
    infos = dict(filesystem.find(path, detail=True))
    return posixpath.dirname(path) if list(infos) == [path] else path.rstrip("/"), infos


def _find_info(filesystem: Any, path: str, url: str) -> Mapping[str, Any] | None:
    """Return what the store says of a path, None where it holds none or refuses to say; the listing then decides.

    `isfile` takes every error for a no. Who may list a folder and nothing else of a bucket is refused there, too.
    """
    try:
        info: Mapping[str, Any] = filesystem.info(path)
    except filesystems.store_errors() as error:
        # fsspec's web client calls missing, too, what did not answer
        is_missing = isinstance(error, FileNotFoundError) and not filesystems.is_outage(error, url)
        if not is_missing and not filesystems.is_refusal(error, url):
            raise
        return None
    return info


def _plain_prefix(pattern: str) -> str:
    parts = pattern.split("/")
    first = next(i for i, part in enumerate(parts) if _MAGIC & set(part))
    return "/".join(parts[:first])


def _describe_file(filesystem: Any, root: str, path: str, info: Mapping[str, Any]) -> FoundFile:
    version = next((str(info[key]) for key in _VERSION_KEYS if info.get(key) is not None), "")
    return FoundFile(
        name=posixpath.relpath(path, root) if root else path,
        url=_url_of(filesystem, path),
        num_bytes=int(info.get("size") or 0),
        version=version,
    )


def _url_of(filesystem: Any, path: str) -> str:
    return path if _is_local(filesystem) else str(filesystem.unstrip_protocol(path))


def _is_local(filesystem: Any) -> bool:
    protocol = filesystem.protocol
    return "file" in ((protocol,) if isinstance(protocol, str) else protocol)


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") for part in PurePosixPath(name).parts)
