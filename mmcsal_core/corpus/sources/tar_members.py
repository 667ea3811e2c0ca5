"""The bytes of members of tar archives, by where an index says that they lie.

Of a plain archive only the members' own bytes are read, each with the header before it, which shows whether the archive
is still the one that was indexed. A compressed archive is unpacked from its start to the last member wanted.
"""

import tarfile
from collections.abc import Mapping
from typing import Any

from mmcsal_core.corpus.sources.locations import open_filesystem
from mmcsal_core.corpus.sources.tars import BLOCK, ForwardStream, MemberReference, find_compression, open_unpacked
from mmcsal_core.errors import DataError


def read_members(members: Mapping[str, MemberReference], options: Mapping[str, Any]) -> dict[str, bytes | Exception]:
    """Read members, or say why one cannot be read.

    Args:
        members: by any name of the caller's.
        options: storage options for fsspec.

    Returns:
        By the same names, the bytes or the error of the store or of the archive.
    """
    by_file: dict[str, dict[str, MemberReference]] = {}
    for key, member in members.items():
        by_file.setdefault(member.file, {})[key] = member
    found: dict[str, bytes | Exception] = {}
    for file, wanted in by_file.items():
        try:
            read = _read_ranges if find_compression(file) is None else _read_stream
            blocks = read(file, wanted, options)
        except Exception as error:  # noqa: BLE001  handed on for each member; the caller tells whose fault it is
            blocks = dict.fromkeys(wanted, error)
        found.update({key: _open_block(wanted[key], block) for key, block in blocks.items()})
    return found


def _read_ranges(
    file: str, wanted: Mapping[str, MemberReference], options: Mapping[str, Any]
) -> dict[str, bytes | Exception]:
    filesystem, path = open_filesystem(file, options)
    starts = [member.start - BLOCK for member in wanted.values()]
    stops = [member.start + member.size for member in wanted.values()]
    return dict(zip(wanted, filesystem.cat_ranges([path] * len(starts), starts, stops, on_error="return"), strict=True))


def _read_stream(
    file: str, wanted: Mapping[str, MemberReference], options: Mapping[str, Any]
) -> dict[str, bytes | Exception]:
    blocks: dict[str, bytes | Exception] = {}
    with open_unpacked(file, options) as unpacked:
        stream = ForwardStream(unpacked, BLOCK + max(member.size for member in wanted.values()))
        for key, member in sorted(wanted.items(), key=lambda item: item[1].start):
            stream.seek(member.start - BLOCK)
            blocks[key] = stream.read(BLOCK + member.size)
    return blocks


def _open_block(member: MemberReference, block: bytes | Exception) -> bytes | Exception:
    """Take the header off, having checked that it is that of the member."""
    if isinstance(block, Exception):
        return block
    try:
        header = tarfile.TarInfo.frombuf(block[:BLOCK], tarfile.ENCODING, "surrogateescape")
    except tarfile.TarError:
        header = None
    if header is None or header.size != member.size or len(block) != BLOCK + member.size:
        return DataError(f"the archive has no member {member.name!r} at byte {member.start} any more; run again")
    return block[BLOCK:]
