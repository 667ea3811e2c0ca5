r"""Tar archives of samples, as WebDataset and img2dataset write and clip-retrieval reads them, as tables of members.

Members of one sample share their name up to the first dot of its last part: `000/07.jpg`, `000/07.txt` and
`000/07.json` are the sample `000/07`. An archive is read once, front to back, and nothing is unpacked: its table says
where each member's bytes lie, so that a worker later reads those of its own pairs alone. A compressed archive cannot
be entered in the middle; there the place counts in the unpacked stream. Names need not be UTF-8: a byte that is none
is spelt as `\xff` in a stem, and kept in a reference.

What an archive holds and cannot be used is a row with a problem, never left out silently: a sample with a member that
is a link or that leaves the archive, and, where an archive ends early, one row that stands for what is lost.
"""

import io
import json
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote, unquote

import pyarrow as pa

from mmcsal_core.corpus.reject import RejectPair
from mmcsal_core.corpus.sources.columns import PROBLEM_MESSAGE, PROBLEM_REASON, files_column
from mmcsal_core.corpus.sources.config import MAX_MEMBER_BYTES, STEM
from mmcsal_core.corpus.sources.locations import open_filesystem
from mmcsal_core.errors import DataError
from mmcsal_core.filesystems import raise_outage, store_errors

COMPRESSIONS = {".tar": None, ".tar.gz": "gzip", ".tgz": "gzip", ".tar.zst": "zstd", ".tar.bz2": "bz2"}
"""Archives by their ending, and how each is compressed."""

REST = "(rest of the archive)"
"""Stem of the row that stands for what is lost where an archive ends early."""

MAX_JSON_BYTES = 2**20
"""Largest `.json` member that is read."""

MAX_HEADER_BYTES = 2**24
"""Largest header of a member, names and attributes included, that is read."""

BLOCK = tarfile.BLOCKSIZE
_JSON = ".json"
_SAMPLE = re.compile(r"((?:.*/)?[^./][^./]*)(\.[^/]*)", re.DOTALL)
_REFERENCE = re.compile(r"(?s)(.+)#member=([^&#]*)&start=(\d+)&size=(\d+)")
_BUFFER_BYTES = 2**20


@dataclass(frozen=True)
class MemberReference:
    """The bytes of one member: URL of its archive, its name, and where its data start in the unpacked archive."""

    file: str
    name: str
    start: int
    size: int


@dataclass(frozen=True)
class TarColumns:
    """What is looked for in an archive.

    Args:
        suffixes: endings of the members of each modality that stands in members of its own, lower case, with the dot.
        texts: keys of a sample's `.json` member that hold a text modality.
        metadata: keys of it that are passed through.
        max_bytes: of a member of a modality; a larger one is not read.
    """

    suffixes: Mapping[str, Sequence[str]]
    texts: Sequence[str] = ()
    metadata: Sequence[str] = ()
    max_bytes: int = MAX_MEMBER_BYTES

    @property
    def keys(self) -> list[str]:
        """All keys that are looked up in `.json` members."""
        return list(dict.fromkeys([*self.texts, *self.metadata]))


@dataclass
class _Sample:
    members: dict[str, list[str]] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)
    problem: RejectPair | None = None

    def refuse(self, reason: str, message: str) -> None:
        self.problem = self.problem or RejectPair(reason, message)


def find_compression(name: str) -> str | None:
    """Return how an archive is compressed, by its name, None where it is not."""
    return COMPRESSIONS[next(ending for ending in COMPRESSIONS if name.lower().endswith(ending))]


def is_tar(name: str) -> bool:
    """Say whether a file of this name is an archive."""
    return name.lower().endswith(tuple(COMPRESSIONS))


def make_member_reference(member: MemberReference) -> str:
    """Return the URI form of a member."""
    return (
        f"{member.file}#member={quote(member.name, errors='surrogateescape')}&start={member.start}&size={member.size}"
    )


def parse_member_reference(uri: str) -> MemberReference | None:
    """Return the member that `uri` refers to, or None where it refers to something else."""
    match = _REFERENCE.fullmatch(uri)
    if match is None or not is_tar(match[1]):
        return None
    return MemberReference(match[1], unquote(match[2], errors="surrogateescape"), int(match[3]), int(match[4]))


def index_tar(url: str, columns: TarColumns, options: Mapping[str, Any]) -> pa.Table:
    """Read an archive front to back and say which samples it holds, and where.

    Args:
        url: of the archive.
        columns: what to look for.
        options: storage options for fsspec.

    Returns:
        One row a sample, in the order of their first members: its `stem`, one list of member references a modality,
        one column a key, and the problem columns.

    Raises:
        DataError: it is missing, forbidden, or no archive at all.
        StoreError: its store is out of reach.
    """
    samples: dict[str, _Sample] = {}
    try:
        with open_unpacked(url, options) as stream:
            _read_samples(url, ForwardStream(stream, MAX_HEADER_BYTES), columns, samples)
    except (*store_errors(), tarfile.TarError, EOFError, pa.ArrowException) as error:
        raise_outage(error, url)
        raise DataError(
            f"source file {url} is not readable as a tar archive ({type(error).__name__}: {error}); restore it or take "
            "it out"
        ) from error
    return _tabulate(samples, columns)


@contextmanager
def open_unpacked(url: str, options: Mapping[str, Any]) -> Iterator[Any]:
    """Open an archive for reading front to back, unpacked as it is read."""
    filesystem, path = open_filesystem(url, options)
    compression = find_compression(url)
    with filesystem.open(path, "rb") as file:
        if compression is None:
            yield file
        else:
            with pa.input_stream(pa.PythonFile(file, mode="r"), compression, _BUFFER_BYTES) as stream:
                yield stream


class ForwardStream(io.RawIOBase):
    """A stream that can be sought forward, and that remembers the last block it gave out.

    tarfile takes a damaged header after the first for the end of the archive; the last block tells which it was. It
    also reads as much as a header says that its names take, which a few packed bytes can make more than the memory.

    Args:
        stream: the archive, unpacked.
        max_read: bytes that are read at once, at most; more is an error.
    """

    def __init__(self, stream: Any, max_read: int) -> None:
        self._stream = stream
        self._max_read = max_read
        self._position = 0
        self.last = b""

    def tell(self) -> int:
        """Return the place in the unpacked archive."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go forward to a place, or to the end where that comes first."""
        if whence != io.SEEK_SET or offset < self._position:
            raise io.UnsupportedOperation("an archive is read front to back")
        if self._stream.seekable():
            self._stream.seek(offset)
            self._position = offset
        while self._position < offset:
            skipped = len(self._stream.read(min(offset - self._position, _BUFFER_BYTES)))
            if skipped == 0:
                break
            self._position += skipped
        return self._position

    def read(self, size: int = -1) -> bytes:
        """Read so many bytes, fewer at the end."""
        if not 0 <= size <= self._max_read:
            raise tarfile.ReadError(f"at most {self._max_read} bytes are read at once, got {size}")
        self.last = bytes(self._stream.read(size))
        self._position += len(self.last)
        return self.last


def _read_samples(url: str, stream: ForwardStream, columns: TarColumns, samples: dict[str, _Sample]) -> None:
    """Fill `samples`; where the archive ends early, keep those before and add the row for the rest."""
    sample, broken = None, ""
    archive = tarfile.open(fileobj=stream, mode="r:")  # noqa: SIM115  the stream is closed by who opened it
    try:
        for member in archive:
            sample = _note_member(url, stream, member, columns, samples)
    except (tarfile.TarError, EOFError, OSError) as error:
        if not _is_about_content(error):
            raise
        broken = f" ({type(error).__name__}: {error})"
    if broken and sample is not None:
        sample.refuse("truncated_member", f"{url} ends inside of this sample{broken}; restore the archive")
    if broken or stream.last != bytes(BLOCK):
        message = (
            f"{url} has no end-of-archive mark after its {len(samples)} samples, at byte {stream.tell()}{broken}; "
            "what came after is lost, restore the archive"
        )
        samples.setdefault(REST, _Sample()).refuse("truncated_tar", message)


def _is_about_content(error: BaseException) -> bool:
    """Say whether the archive is damaged, or its store failed, which is no reason to give up what it holds.

    Arrow raises a plain OSError without a number for a stream that cannot be unpacked.
    """
    return isinstance(error, tarfile.TarError | EOFError) or (type(error) is OSError and error.errno is None)


def _note_member(
    url: str, stream: ForwardStream, member: tarfile.TarInfo, columns: TarColumns, samples: dict[str, _Sample]
) -> _Sample | None:
    """Note a member of a sample, and return that sample; None where it is a folder or belongs to no sample."""
    match = _SAMPLE.fullmatch(_spell(member.name))
    if match is None or member.isdir():
        return None
    stem, suffix = match[1], match[2].lower()
    modalities = [name for name, suffixes in columns.suffixes.items() if suffix in suffixes]
    if not modalities and not (suffix == _JSON and columns.keys):
        return samples.get(stem)
    sample = samples.setdefault(stem, _Sample())
    if not member.isreg() or member.issparse():
        kind = "a link" if member.islnk() or member.issym() else "no plain file"
        sample.refuse("unsafe_member", f"a member must be a plain file, but {member.name!r} is {kind}; write it out")
        return sample
    if member.name.startswith("/") or ".." in PurePosixPath(member.name).parts:
        sample.refuse("unsafe_member", f"a member must stay in the archive, got {member.name!r}; rename it")
    if modalities and member.size > columns.max_bytes:
        sample.refuse(
            "oversized_member",
            f"a member may have {columns.max_bytes} bytes, {member.name!r} has {member.size}; shrink it or raise "
            "source.max_member_bytes",
        )
    reference = make_member_reference(MemberReference(url, member.name, member.offset_data, member.size))
    for name in modalities:
        sample.members.setdefault(name, []).append(reference)
    if suffix == _JSON and columns.keys:
        _read_values(stream, member, columns, sample)
    return sample


def _read_values(stream: ForwardStream, member: tarfile.TarInfo, columns: TarColumns, sample: _Sample) -> None:
    if member.size > MAX_JSON_BYTES:
        sample.refuse(
            "oversized_json", f"{member.name!r} may have {MAX_JSON_BYTES} bytes, got {member.size}; shorten it"
        )
        return
    stream.seek(member.offset_data)
    try:
        values = json.loads(stream.read(member.size))
    except (ValueError, RecursionError) as error:
        sample.refuse("unreadable_json", f"{member.name!r} is not JSON ({error}); correct it")
        return
    if not isinstance(values, dict):
        sample.refuse("unreadable_json", f"{member.name!r} must hold an object, got {values!r:.60}; correct it")
        return
    sample.values = {key: values.get(key) for key in columns.keys}


def _spell(name: str) -> str:
    r"""Return a member's name with the bytes that are no UTF-8 as `\xff`, so that different names stay different."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _tabulate(samples: Mapping[str, _Sample], columns: TarColumns) -> pa.Table:
    rows = list(samples.values())
    fields: dict[str, Any] = {STEM: pa.array(list(samples), pa.string())}
    for name in columns.suffixes:
        fields[files_column(name)] = pa.array([row.members.get(name, []) for row in rows], pa.list_(pa.string()))
    for key in columns.keys:
        values = [row.values.get(key) for row in rows]
        fields[key] = pa.array([_write_text(value) for value in values], pa.string())
        if key not in columns.texts:
            fields[key] = _make_column(values, fields[key])
    problems = [row.problem for row in rows]
    fields[PROBLEM_REASON] = pa.array([problem and problem.reason for problem in problems], pa.string())
    fields[PROBLEM_MESSAGE] = pa.array([problem and problem.message for problem in problems], pa.string())
    return pa.table(fields)


def _make_column(values: Sequence[Any], as_text: pa.Array) -> pa.Array:
    """Return values of one type as they are, all others as text."""
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {int, float} or kinds == {bool}:
        try:
            return pa.array([float(value) if value is not None and float in kinds else value for value in values])
        except (pa.ArrowException, OverflowError):
            return as_text
    return as_text


def _write_text(value: Any) -> str | None:
    """Return a value as text, JSON where it is none; a lone surrogate, which no text may hold, becomes `?`."""
    if value is None:
        return None
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False)
    return text.encode("utf-8", "replace").decode()
