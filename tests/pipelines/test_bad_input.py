"""What corpora really hold: every kind of bad input is a reject with a reason or an error that names the file.

Each row of the tables stands for one kind. A reject's row has a good pair beside the bad one; the good pair goes on,
decoded, and the two counts add up. Nothing here is mocked: files are written, read by the workers of ingest and
decoded as the features stage decodes them.
"""

import gzip
import io
import os
import pickle
import re
import struct
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from PIL import Image

from mmcsal_core.artifacts import Artifact, ShardRange, plan_ranges
from mmcsal_core.corpus.decode_chunk import ChunkDecoder, find_vector_dim
from mmcsal_core.corpus.modality import ModalityConfig, resolve_modality
from mmcsal_core.corpus.pair_id import find_duplicate_rows, hash_pair_ids
from mmcsal_core.corpus.sources import SourceConfig, list_source, stage_tables
from mmcsal_core.corpus.sources.pairs import PairReader
from mmcsal_core.corpus.sources.tar_index import find_tar_columns
from mmcsal_core.errors import ConfigError, DataError, MmcsalError
from mmcsal_core.schema import ROW
from mmcsal_core.storage import Store
from pipelines.ingest import INDEX, STAGE, PairWorker, TarIndexer
from tests.core.test_decode import encode_film, encode_image, encode_wav
from tests.core.test_tars import write_tar

Modalities = dict[str, dict[str, Any]]
Found = dict[str | None, str]

GOOD_IMAGE = encode_image(Image.new("RGB", (20, 20), "red"))
GOOD_JPEG = encode_image(Image.effect_noise((200, 200), 50), "JPEG")
GOOD_SOUND = encode_wav(np.full((4_000, 1), 0.5), 8_000)
GOOD: dict[str, bytes] = {"image": GOOD_IMAGE, "text": b"a red square", "audio": GOOD_SOUND}
SUFFIX = {"image": ".png", "text": ".txt", "audio": ".wav", "video": ".mp4"}

FOLDER: Modalities = {"image": {"image_size": 32, "max_pixels": 1_000_000}, "text": {}}
SOUNDS: Modalities = {"audio": {"sample_rate": 8_000, "window_s": 0.5}, "text": {}}
FILMS: Modalities = {"video": {"image_size": 32}, "audio": {"suffixes": (".mp4",)}}
VECTORS: Modalities = {"image": {"column": "image", "image_size": 32}, "vector": {"column": "vector"}}
INLINE: Modalities = {"image": {"column": "image", "image_size": 32}, "text": {"column": "text"}}
URIS: Modalities = {"image": {"uri_column": "path", "image_size": 32}, "text": {"column": "text"}}


def read_corpus(source: dict[str, Any], modalities: Modalities, work: Path) -> tuple[list[str], Found]:
    """Ingest and decode a corpus in this process; return the ids that go on, and the reasons of the others by id."""
    config = SourceConfig.model_validate(source)
    resolved = {name: resolve_modality(name, ModalityConfig(**values)) for name, values in modalities.items()}
    index = Store(str(work)).child(INDEX)
    missing = list_source(config, resolved, {}, index).not_indexed
    for number in range(len(missing)):
        indexer = TarIndexer(missing, find_tar_columns(config, resolved), {}, index)
        indexer.run_shard(ShardRange(index=number, start=0, stop=1))
    listing = stage_tables(list_source(config, resolved, {}, index), Store(str(work)).child("_listing"))
    reader = PairReader(listing, resolved, {})
    out = Artifact(Store(str(work)), "pairs", STAGE)
    plan = out.begin("f", lambda: plan_ranges(listing.num_pairs, 256))
    worker = PairWorker(reader, find_duplicate_rows(hash_pair_ids(reader.read_ids(0, listing.num_pairs))), out, plan)
    for shard in plan.shards:
        worker.run_shard(shard)
    out.finish(plan)
    pairs, rejects = out.read_table(), [pq.read_table(work / "rejects" / "data" / "ingest.parquet")]
    kept: list[str] = []
    if pairs.num_rows:
        dims = {
            name: find_vector_dim(iter([pairs]), name, each, {})
            for name, each in resolved.items()
            if each.kind == "vector"
        }
        numbered = pairs.add_column(0, ROW, pa.array(range(pairs.num_rows), pa.int64()))
        chunk, undecoded = ChunkDecoder(resolved, {}, dims).decode_chunk(numbered, "features")
        kept, rejects = chunk["pair_id"].to_pylist(), [*rejects, undecoded.drop_columns([ROW])]
    refused = pa.concat_tables(rejects)
    assert len(kept) + refused.num_rows == listing.num_pairs
    for message in refused["message"].to_pylist():
        assert ";" in message, "a message says what to do after a semicolon"
        assert " at 0x" not in message
    return kept, dict(zip(refused["pair_id"].to_pylist(), refused["reason"].to_pylist(), strict=True))


def write_files(folder: Path, stem: str, **contents: bytes | None) -> None:
    """Write the files of one pair, None where it has none; a content of another ending is given as `name__ending`."""
    for name, content in contents.items():
        if content is not None:
            path = folder / f"{stem}{SUFFIX[name]}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


def _cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


class _Canary:
    """Unpickling it creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self.path, "w")


def _make_bomb() -> bytes:
    """Return a small PNG that claims to be 50 000 x 50 000."""
    content = bytearray(GOOD_IMAGE)
    content[16:24] = struct.pack(">II", 50_000, 50_000)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    return bytes(content)


def _with_rate(rate: int) -> bytes:
    content = bytearray(GOOD_SOUND)
    content[24:28] = struct.pack("<I", rate)
    return bytes(content)


def _float_wav(value: float) -> bytes:
    sink = io.BytesIO()
    soundfile.write(sink, np.full(4_000, value), 8_000, format="WAV", subtype="FLOAT")
    return sink.getvalue()


FILES: list[tuple[str, Modalities, dict[str, bytes | None], str]] = [
    ("a PNG cut in half", FOLDER, {"image": _cut(encode_image(Image.effect_noise((99, 99), 9)))}, "unreadable_image"),
    ("a JPEG cut in half", FOLDER, {"image": _cut(GOOD_JPEG)}, "unreadable_image"),
    ("a picture of 0 bytes", FOLDER, {"image": b""}, "unreadable_image"),
    ("a text that is called .png", FOLDER, {"image": b"I am a text"}, "unreadable_image"),
    ("a sound that is called .png", FOLDER, {"image": GOOD_SOUND}, "unreadable_image"),
    ("HTML that is called .png", FOLDER, {"image": b"<html><script>alert(1)</script></html>"}, "unreadable_image"),
    ("an SVG that is called .png", FOLDER, {"image": b"<svg xmlns='http://www.w3.org/2000/svg'/>"}, "unreadable_image"),
    ("a decompression bomb", FOLDER, {"image": _make_bomb()}, "too_many_pixels"),
    (
        "a picture of too many pixels",
        FOLDER,
        {"image": encode_image(Image.new("1", (1_001, 1_000)))},
        "too_many_pixels",
    ),
    ("a pickle that is called .png", FOLDER, {"image": pickle.dumps({"a": 1})}, "unreadable_image"),
    ("a pair without its picture", FOLDER, {"image": None}, "missing_modality"),
    ("a pair without its text", FOLDER, {"text": None}, "missing_modality"),
    ("a text of 0 bytes", FOLDER, {"text": b""}, "empty_text"),
    ("a text of white space", FOLDER, {"text": " \n\t\u00a0".encode()}, "empty_text"),
    ("a text of NUL", FOLDER, {"text": b"\0\0\0"}, "empty_text"),
    ("a text in Latin-1", FOLDER, {"text": "Größe".encode("latin-1")}, "not_utf8"),
    ("a text in UTF-16", FOLDER, {"text": "text".encode("utf-16")}, "not_utf8"),
    ("a picture that is called .txt", FOLDER, {"text": GOOD_IMAGE}, "not_utf8"),
    ("a sound of 0 bytes", SOUNDS, {"audio": b""}, "unreadable_audio"),
    ("a sound of 0 samples", SOUNDS, {"audio": encode_wav(np.zeros((0, 1)), 8_000)}, "empty_audio"),
    ("a silent sound", SOUNDS, {"audio": encode_wav(np.zeros((4_000, 1)), 8_000)}, "silent_audio"),
    ("a sound of NaN", SOUNDS, {"audio": _float_wav(np.nan)}, "unreadable_audio"),
    ("a sound of infinity", SOUNDS, {"audio": _float_wav(np.inf)}, "unreadable_audio"),
    ("a sound of 0 samples a second", SOUNDS, {"audio": _with_rate(0)}, "unreadable_audio"),
    ("a sound that is cut in its header", SOUNDS, {"audio": GOOD_SOUND[:20]}, "unreadable_audio"),
    ("a text that is called .wav", SOUNDS, {"audio": b"I am a text"}, "unreadable_audio"),
    ("a film without pictures", FILMS, {"video": encode_film("mp4", pictures=False)}, "no_video_frames"),
    ("a film without sound", FILMS, {"video": encode_film("mp4", sound=False)}, "no_sound"),
    ("a film cut in half", FILMS, {"video": _cut(encode_film("mp4"))}, "unreadable_video"),
    ("a film of 0 bytes", FILMS, {"video": b""}, "unreadable_video"),
]


@pytest.mark.parametrize(
    ("modalities", "contents", "reason"), [row[1:] for row in FILES], ids=[row[0] for row in FILES]
)
@pytest.mark.parametrize("kind", ["folder", "webdataset"])
def test_a_bad_file_is_rejected(
    tmp_path: Path, kind: str, modalities: Modalities, contents: dict[str, bytes | None], reason: str
) -> None:
    good = {"video": encode_film("mp4")} if modalities is FILMS else {name: GOOD[name] for name in modalities}
    folder = tmp_path / "source"
    write_files(folder, "bad", **{**good, **contents})
    write_files(folder, "good", **good)
    if kind == "webdataset":
        members = [(path.name, path.read_bytes()) for path in sorted(folder.iterdir())]
        folder = write_tar(tmp_path / "source.tar", members)
    source = {"kind": kind, "url": str(folder), "pair_id_column": "stem"}
    assert read_corpus(source, modalities, tmp_path / "work") == (["good"], {"bad": reason})


def _third_file(folder: Path) -> dict[str, Any]:
    write_files(folder, "bad", image=GOOD_IMAGE, text=b"t")
    (folder / "bad.jpg").write_bytes(GOOD_JPEG)
    write_files(folder, "good", image=GOOD_IMAGE, text=b"t")
    return {"kind": "folder", "url": str(folder), "pair_id_column": "stem"}


def _write_rows(folder: Path, rows: list[dict[str, Any]], schema: pa.Schema | None = None) -> dict[str, Any]:
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema), folder / "a.parquet")
    return {"kind": "parquet", "url": str(folder / "a.parquet"), "pair_id_column": "id"}


def _row(number: Any, **changes: Any) -> dict[str, Any]:
    return {"id": number, "image": GOOD_IMAGE, "text": "a red square", **changes}


def _vectors(bad: list[float] | None) -> Callable[[Path], dict[str, Any]]:
    good = [1.0, 2.0, 3.0]
    return lambda folder: _write_rows(folder, [_row("good", vector=good), _row("bad", vector=bad)])


def _uris(bad: Callable[[Path], str]) -> Callable[[Path], dict[str, Any]]:
    def write(folder: Path) -> dict[str, Any]:
        folder.mkdir()
        (folder / "good.png").write_bytes(GOOD_IMAGE)
        rows = [_row("good", path="good.png"), _row("bad", path=bad(folder))]
        return _write_rows(folder, [{key: row[key] for key in ("id", "path", "text")} for row in rows])

    return write


def _forbidden(folder: Path) -> str:
    (folder / "forbidden.png").write_bytes(GOOD_IMAGE)
    (folder / "forbidden.png").chmod(0)
    return "forbidden.png"


def _tar(members: list[tuple[str, bytes]]) -> Callable[[Path], dict[str, Any]]:
    def write(folder: Path) -> dict[str, Any]:
        folder.mkdir()
        good = [("good.png", GOOD_IMAGE), ("good.txt", b"t")]
        return {
            "kind": "webdataset",
            "url": str(write_tar(folder / "a.tar", [*members, *good])),
            "pair_id_column": "stem",
        }

    return write


def _tar_link(kind: bytes) -> Callable[[Path], dict[str, Any]]:
    def write(folder: Path) -> dict[str, Any]:
        source = _tar([("bad.txt", b"t")])(folder)
        with tarfile.open(source["url"], "a") as archive:
            member = tarfile.TarInfo("bad.png")
            member.type, member.linkname = kind, "/etc/passwd"
            archive.addfile(member)
        return source

    return write


ROWS: list[tuple[str, Modalities, Callable[[Path], dict[str, Any]], Found]] = [
    ("three files for two modalities", FOLDER, _third_file, {"bad": "ambiguous_file"}),
    ("a vector of NaN", VECTORS, _vectors([1.0, np.nan, 0.0]), {"bad": "bad_vector"}),
    ("a vector of infinity", VECTORS, _vectors([1.0, np.inf, 0.0]), {"bad": "bad_vector"}),
    ("a vector of zeros", VECTORS, _vectors([0.0, 0.0, 0.0]), {"bad": "bad_vector"}),
    ("a vector that is too short", VECTORS, _vectors([1.0, 2.0]), {"bad": "bad_vector"}),
    ("a vector without numbers", VECTORS, _vectors([]), {"bad": "bad_vector"}),
    ("no vector", VECTORS, _vectors(None), {"bad": "missing_modality"}),
    ("a vector beyond float32", VECTORS, _vectors([1e300, 1.0, 1.0]), {"bad": "bad_vector"}),
    (
        "an id that stands twice",
        INLINE,
        lambda folder: _write_rows(folder, [_row("good"), _row("bad"), _row("bad", text="2nd")]),
        {"bad": "duplicate_id"},
    ),
    ("no id", INLINE, lambda folder: _write_rows(folder, [_row("good"), _row(None)]), {None: "missing_id"}),
    ("a blank id", INLINE, lambda folder: _write_rows(folder, [_row("good"), _row("  ")]), {None: "missing_id"}),
    (
        "no bytes",
        INLINE,
        lambda folder: _write_rows(folder, [_row("good"), _row("bad", image=None)]),
        {"bad": "missing_modality"},
    ),
    (
        "no text",
        INLINE,
        lambda folder: _write_rows(folder, [_row("good"), _row("bad", text=None)]),
        {"bad": "missing_modality"},
    ),
    ("a file that is not there", URIS, _uris(lambda _: "gone.png"), {"bad": "missing_file"}),
    ("a path that is a folder", URIS, _uris(str), {"bad": "unreadable_file"}),
    ("a path with a NUL", URIS, _uris(lambda _: "a\0b.png"), {"bad": "unreadable_file"}),
    ("a path that is too long", URIS, _uris(lambda _: "a" * 5_000 + ".png"), {"bad": "unreadable_file"}),
    ("a store that nobody knows", URIS, _uris(lambda _: "nosuch://a/b.png"), {"bad": "unreadable_file"}),
    ("a file that may not be read", URIS, _uris(_forbidden), {"bad": "permission_denied"}),
    ("a blank path", URIS, _uris(lambda _: " "), {"bad": "missing_modality"}),
    (
        "a member that leaves the archive",
        FOLDER,
        _tar([("../bad.png", b""), ("../bad.txt", b"t")]),
        {"../bad": "unsafe_member"},
    ),
    ("a member of an absolute path", FOLDER, _tar([("/bad.png", b""), ("/bad.txt", b"t")]), {"/bad": "unsafe_member"}),
    ("a symbolic link in an archive", FOLDER, _tar_link(tarfile.SYMTYPE), {"bad": "unsafe_member"}),
    ("a hard link in an archive", FOLDER, _tar_link(tarfile.LNKTYPE), {"bad": "unsafe_member"}),
    ("a device in an archive", FOLDER, _tar_link(tarfile.CHRTYPE), {"bad": "unsafe_member"}),
    (
        "JSON that is none in an archive",
        {"image": {"image_size": 32}, "text": {"column": "caption"}},
        _tar([("good.json", b'{"caption": "t"}'), ("bad.png", GOOD_IMAGE), ("bad.json", b"{")]),
        {"bad": "unreadable_json"},
    ),
]


@contextmanager
def _as_nobody(folder: Path) -> Iterator[None]:
    """Give up the rights of root, to whom nothing is forbidden, while the block runs."""
    if os.geteuid() != 0:
        yield
        return
    for path in (folder, *folder.rglob("*")):
        os.chown(path, 65_534, 65_534)
    os.seteuid(65_534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize(("modalities", "write", "rejects"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_a_bad_row_is_rejected(
    tmp_path: Path, modalities: Modalities, write: Callable[[Path], dict[str, Any]], rejects: Found
) -> None:
    source = write(tmp_path / "source")
    if "permission_denied" not in rejects.values():
        kept, found = read_corpus(source, modalities, tmp_path / "work")
    else:
        for folder in (tmp_path, *tmp_path.parents[:-2]):
            folder.chmod(folder.stat().st_mode | 0o055)
        (tmp_path / "work").mkdir()
        with _as_nobody(tmp_path):
            kept, found = read_corpus(source, modalities, tmp_path / "work")
    assert found == rejects
    assert "good" in kept


@pytest.mark.parametrize(
    ("content", "decoded"),
    [
        ("x" * 2**20, "x" * 10_000),
        (
            "<script>alert(1)</script><img src=x onerror=alert(1)>",
            "<script>alert(1)</script><img src=x onerror=alert(1)>",
        ),
        ("a\0b", "ab"),
        ("\ufeffa\u202e\U0001f600", "\ufeffa\u202e\U0001f600"),
    ],
    ids=["1 MB", "HTML and script", "NUL inside", "any Unicode"],
)
def test_a_strange_text_is_a_text(tmp_path: Path, content: str, decoded: str) -> None:
    source = _write_rows(tmp_path / "source", [_row("good", text=content)])
    assert read_corpus(source, INLINE, tmp_path / "work") == (["good"], {})
    modality = resolve_modality("text", ModalityConfig())
    from mmcsal_core.corpus.decode import decode_content

    assert decode_content(content, modality) == decoded


@pytest.mark.parametrize(
    "name", ["a/b/../c", "a\nb", "a'b\"c", "\u00e9", "\U0001f600", " a ", "a" * 4_000, "../../etc/passwd"]
)
def test_a_strange_id_is_an_id(tmp_path: Path, name: str) -> None:
    source = _write_rows(tmp_path / "source", [_row(name), _row("other")])
    assert read_corpus(source, INLINE, tmp_path / "work") == ([name, "other"], {})


def test_a_pickle_is_never_opened(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    poison = pickle.dumps(_Canary(canary))
    write_files(tmp_path / "source", "bad", image=poison, text=b"t")
    write_files(tmp_path / "source", "good", image=GOOD_IMAGE, text=b"t")
    (tmp_path / "source" / "good.pkl").write_bytes(poison)
    source = {"kind": "folder", "url": str(tmp_path / "source"), "pair_id_column": "stem"}
    assert read_corpus(source, FOLDER, tmp_path / "work") == (["good"], {"bad": "unreadable_image"})
    members = [(path.name, path.read_bytes()) for path in sorted((tmp_path / "source").iterdir())]
    archive = write_tar(tmp_path / "a.tar", members)
    source = {"kind": "webdataset", "url": str(archive), "pair_id_column": "stem"}
    assert read_corpus(source, FOLDER, tmp_path / "tar") == (["good"], {"bad": "unreadable_image"})
    assert not canary.exists()


def _broken_parquet(folder: Path) -> dict[str, Any]:
    source = _write_rows(folder, [_row("good")])
    content = (folder / "a.parquet").read_bytes()
    (folder / "b.parquet").write_bytes(content[: len(content) // 2])
    return {**source, "url": str(folder)}


def _empty_folder(folder: Path) -> dict[str, Any]:
    folder.mkdir()
    return {"kind": "parquet", "url": str(folder)}


def _text(name: str, content: bytes, kind: str = "manifest") -> Callable[[Path], dict[str, Any]]:
    def write(folder: Path) -> dict[str, Any]:
        folder.mkdir()
        (folder / name).write_bytes(content)
        return {"kind": kind, "url": str(folder / name)}

    return write


ERRORS: list[tuple[str, Modalities, Callable[[Path], dict[str, Any]], type[MmcsalError], str]] = [
    ("no source", INLINE, lambda folder: {"kind": "parquet", "url": str(folder)}, DataError, "source .*source"),
    (
        "a source without files",
        INLINE,
        _empty_folder,
        DataError,
        "no files",
    ),
    (
        "a source without rows",
        INLINE,
        lambda folder: _write_rows(
            folder, [], pa.schema([("id", pa.string()), ("image", pa.binary()), ("text", pa.string())])
        ),
        DataError,
        "has no rows",
    ),
    ("a shard cut in half", INLINE, _broken_parquet, DataError, r"b\.parquet is not readable as Parquet"),
    (
        "a shard of 0 bytes",
        INLINE,
        _text("a.parquet", b"", "parquet"),
        DataError,
        r"a\.parquet is not readable as Parquet",
    ),
    (
        "a shard that is JSON",
        INLINE,
        _text("a.parquet", b"{}", "parquet"),
        DataError,
        r"a\.parquet is not readable as Parquet",
    ),
    (
        "a column that is not there",
        {**INLINE, "text": {"column": "caption"}},
        lambda folder: _write_rows(folder, [_row("a")]),
        ConfigError,
        "did you mean",
    ),
    (
        "a column of another type",
        {"image": {"column": "text"}, "text": {"column": "image"}},
        lambda folder: _write_rows(folder, [_row("a")]),
        ConfigError,
        "but column 'text' is string",
    ),
    (
        "a line that is no JSON",
        URIS,
        _text("m.jsonl", b'{"path": "a", "text": "b"}\n{'),
        DataError,
        r"m\.jsonl, line 2 is not JSON",
    ),
    (
        "a line that is no object",
        URIS,
        _text("m.jsonl", b"[1, 2]"),
        DataError,
        r"m\.jsonl, line 1 is not a JSON object",
    ),
    ("a CSV of ragged lines", URIS, _text("m.csv", b"path,text\na,b,c\n"), DataError, r"m\.csv is not readable as CSV"),
    ("a CSV in UTF-16", URIS, _text("m.csv", "path,text\na,b\n".encode("utf-16")), MmcsalError, "m.csv|path"),
    (
        "no archive",
        FOLDER,
        _text("a.tar", b"no archive" * 99, "webdataset"),
        DataError,
        r"a\.tar is not readable as a tar",
    ),
    ("an archive of 0 bytes", FOLDER, _text("a.tar", b"", "webdataset"), DataError, r"a\.tar is not readable as a tar"),
    (
        "a gzip that is none",
        FOLDER,
        _text("a.tar.gz", b"none", "webdataset"),
        DataError,
        r"a\.tar\.gz is not readable as a tar",
    ),
    (
        "a gzip of no archive",
        FOLDER,
        _text("a.tar.gz", gzip.compress(b"none" * 999), "webdataset"),
        DataError,
        r"a\.tar\.gz is not readable as a tar",
    ),
    ("an archive without members", FOLDER, _text("a.tar", bytes(10_240), "webdataset"), DataError, "has no rows"),
    (
        "a store that nobody knows",
        INLINE,
        lambda folder: {"kind": "parquet", "url": "nosuch://a/b"},
        ConfigError,
        "nosuch",
    ),
]


@pytest.mark.parametrize(
    ("modalities", "write", "kind", "words"), [row[1:] for row in ERRORS], ids=[row[0] for row in ERRORS]
)
def test_a_bad_source_is_an_error_that_names_it(
    tmp_path: Path, modalities: Modalities, write: Callable[[Path], dict[str, Any]], kind: type[MmcsalError], words: str
) -> None:
    source = write(tmp_path / "source")
    with pytest.raises(kind, match=words) as caught:
        read_corpus(source, modalities, tmp_path / "work")
    assert ";" in str(caught.value), "a message says what to do after a semicolon"


def test_the_tables_name_at_least_forty_kinds() -> None:
    names = [row[0] for row in (*FILES, *ROWS, *ERRORS)]
    assert len(names) == len({*names, "a store that nobody knows"}) + 1
    assert len(names) >= 40


def test_every_reason_stands_in_the_data_dictionary() -> None:
    root = Path(__file__).parents[2]
    code = "".join(
        path.read_text() for folder in ("mmcsal_core", "pipelines") for path in (root / folder).rglob("*.py")
    )
    given = set(re.findall(r"(?:RejectPair|refuse)\(\s*f?\"([a-z0-9_{}]+)\"", code)) - {"unreadable_{kind}"}
    documented = (root / "docs" / "outputs.md").read_text()
    section = documented[documented.index("## rejects/") :].split("\n## ")[0]
    assert given - set(re.findall(r"`([a-z0-9_]+)`", section)) == set()
