"""Bad rows: each is a reject with a reason, and the good row beside it goes on; strange texts and ids are none."""

import os
import sys
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from mmcsal_core.corpus.decode import decode_content
from mmcsal_core.corpus.modality import ModalityConfig, resolve_modality
from mmcsal_core.storage import Store
from tests.fault_proxy import open_fault_proxy
from tests.pipelines.bad_corpora import (
    FOLDER,
    GOOD_IMAGE,
    GOOD_JPEG,
    INLINE,
    URIS,
    VECTORS,
    Found,
    Source,
    WriteSource,
    latin_column,
    make_row,
    read_corpus,
    without_override,
    write_files,
    write_rows,
)
from tests.pipelines.ingested_source import Configs
from tests.s3_server import REGION
from tests.servers import run_server
from tests.tar_files import write_tar


def _third_file(folder: Path) -> Source:
    write_files(folder, "bad", image=GOOD_IMAGE, text=b"t")
    (folder / "bad.jpg").write_bytes(GOOD_JPEG)
    write_files(folder, "good", image=GOOD_IMAGE, text=b"t")
    return {"kind": "folder", "url": str(folder), "pair_id_column": "stem"}


def _vectors(bad: list[float] | None) -> WriteSource:
    good = [1.0, 2.0, 3.0]
    return lambda folder: write_rows(folder, [make_row("good", vector=good), make_row("bad", vector=bad)])


def _write_paths(folder: Path, paths: Mapping[str, str]) -> Source:
    return write_rows(folder, [{"id": name, "path": path, "text": "a red square"} for name, path in paths.items()])


def _uris(bad: Callable[[Path], str]) -> WriteSource:
    def write(folder: Path) -> Source:
        folder.mkdir()
        (folder / "good.png").write_bytes(GOOD_IMAGE)
        return _write_paths(folder, {"good": "good.png", "bad": bad(folder)})

    return write


def _forbidden(folder: Path) -> str:
    (folder / "forbidden.png").write_bytes(GOOD_IMAGE)
    (folder / "forbidden.png").chmod(0)
    return "forbidden.png"


def _pipe(suffix: str) -> Callable[[Path], str]:
    def write(folder: Path) -> str:
        os.mkfifo(folder / "pipe")
        os.mkfifo(folder / "pipe.tar")
        return f"pipe{suffix}"

    return write


def _tar(members: list[tuple[str, bytes]]) -> WriteSource:
    def write(folder: Path) -> Source:
        folder.mkdir()
        good = [("good.png", GOOD_IMAGE), ("good.txt", b"t")]
        return {
            "kind": "webdataset",
            "url": str(write_tar(folder / "a.tar", [*members, *good])),
            "pair_id_column": "stem",
        }

    return write


def _cut_tar(folder: Path) -> Source:
    source = _tar([])(folder)
    good = [("good.png", GOOD_IMAGE), ("good.txt", b"t")]
    archive = write_tar(folder / "a.tar", [*good, ("bad.txt", b"t"), ("bad.jpg", GOOD_JPEG)])
    archive.write_bytes(archive.read_bytes()[: archive.stat().st_size // 2])
    return source


def _forged(name: str) -> Callable[[Path], str]:
    def write(folder: Path) -> str:
        write_tar(folder / "a.tar", [("a.png", GOOD_IMAGE)])
        return f"{name}#member=a.png&start=0&size=9"

    return write


def _tar_link(kind: bytes) -> WriteSource:
    def write(folder: Path) -> Source:
        source = _tar([("bad.txt", b"t")])(folder)
        with tarfile.open(source["url"], "a") as archive:
            member = tarfile.TarInfo("bad.png")
            member.type, member.linkname = kind, "/etc/passwd"
            archive.addfile(member)
        return source

    return write


ROWS: list[tuple[str, Configs, WriteSource, Found]] = [
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
        lambda folder: write_rows(folder, [make_row("good"), make_row("bad"), make_row("bad", text="2nd")]),
        {"bad": "duplicate_id"},
    ),
    ("no id", INLINE, lambda folder: write_rows(folder, [make_row("good"), make_row(None)]), {None: "missing_id"}),
    ("a blank id", INLINE, lambda folder: write_rows(folder, [make_row("good"), make_row("  ")]), {None: "missing_id"}),
    (
        "no bytes",
        INLINE,
        lambda folder: write_rows(folder, [make_row("good"), make_row("bad", image=None)]),
        {"bad": "missing_modality"},
    ),
    (
        "no text",
        INLINE,
        lambda folder: write_rows(folder, [make_row("good"), make_row("bad", text=None)]),
        {"bad": "missing_modality"},
    ),
    ("a file that is not there", URIS, _uris(lambda _: "gone.png"), {"bad": "missing_file"}),
    ("a path that is a folder", URIS, _uris(str), {"bad": "unreadable_file"}),
    ("a path with a NUL", URIS, _uris(lambda _: "a\0b.png"), {"bad": "unreadable_file"}),
    ("a path that is too long", URIS, _uris(lambda _: "a" * 5_000 + ".png"), {"bad": "unreadable_file"}),
    ("a store that nobody knows", URIS, _uris(lambda _: "nosuch://a/b.png"), {"bad": "unreadable_file"}),
    ("a file that may not be read", URIS, _uris(_forbidden), {"bad": "permission_denied"}),
    ("a pipe", URIS, _uris(_pipe("")), {"bad": "unreadable_file"}),
    ("a cell of a pipe", URIS, _uris(_pipe("#column=a&row=0")), {"bad": "unreadable_file"}),
    ("a member of a pipe", URIS, _uris(_pipe(".tar#member=a.png&start=512&size=3")), {"bad": "unreadable_file"}),
    ("a device", URIS, _uris(lambda _: "/dev/zero"), {"bad": "unreadable_file"}),
    ("a device behind a cache", URIS, _uris(lambda _: "simplecache::file:///dev/zero"), {"bad": "unreadable_file"}),
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
    (
        "JSON that is nested without end",
        {"image": {"image_size": 32}, "text": {"column": "caption"}},
        _tar([("good.json", b'{"caption": "t"}'), ("bad.png", GOOD_IMAGE), ("bad.json", b"[" * 200_000)]),
        {"bad": "unreadable_json"},
    ),
    (
        "a member that is too large",
        FOLDER,
        lambda folder: {**_tar([("bad.png", bytes(9_000)), ("bad.txt", b"t")])(folder), "max_member_bytes": 8_000},
        {"bad": "oversized_member"},
    ),
    ("an archive cut in half", FOLDER, _cut_tar, {"bad": "truncated_member", "(rest of the archive)": "truncated_tar"}),
    ("a reference to a member of no archive", URIS, _uris(_forged("good.png")), {"bad": "missing_file"}),
    ("a reference to a member that is not there", URIS, _uris(_forged("a.tar")), {"bad": "unreadable_file"}),
    ("a reference to a cell of no table", URIS, _uris(lambda _: "good.png#column=a&row=7"), {"bad": "unreadable_file"}),
    ("a text column that is not UTF-8", INLINE, latin_column("text"), {"bad": "not_utf8"}),
    ("metadata that are not UTF-8", INLINE, latin_column("note"), {"bad": "not_utf8"}),
    ("an id that is not UTF-8", INLINE, latin_column("id"), {None: "missing_id"}),
]


@pytest.mark.parametrize(("modalities", "write", "rejects"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_a_bad_row_is_rejected(tmp_path: Path, modalities: Configs, write: WriteSource, rejects: Found) -> None:
    source = write(tmp_path / "source")
    with without_override():
        kept, found = read_corpus(source, modalities, tmp_path / "work")
    assert found == rejects
    assert "good" in kept


def test_a_dead_link_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "www").mkdir()
    (tmp_path / "www" / "good.png").write_bytes(GOOD_IMAGE)
    serve = [*(sys.executable, "-m", "http.server", "--bind", "127.0.0.1"), "--directory", str(tmp_path / "www")]
    with run_server(lambda port: [*serve, str(port)]) as port:
        source = _write_paths(
            tmp_path / "source", {name: f"http://127.0.0.1:{port}/{name}.png" for name in ("good", "bad")}
        )
        found = read_corpus(source, URIS, tmp_path / "work")
    assert found == (["good"], {"bad": "missing_file"})


def test_a_store_that_goes_on_failing_is_an_error_and_no_reject(tmp_path: Path, s3_endpoint: str) -> None:
    with open_fault_proxy(s3_endpoint) as proxy:
        options = {"endpoint_url": proxy.endpoint, "config_kwargs": {"retries": {"max_attempts": 1}}}
        store = Store("s3://bad-rows", options)
        store.filesystem.mkdir("bad-rows", region_name=REGION)
        for name in ("good", "other"):
            store.write_bytes(f"{name}.png", GOOD_IMAGE)
        names = ("good", "other", "bad")
        source = _write_paths(tmp_path / "source", {name: f"{store.url}/{name}.png" for name in names})
        proxy.plan("500", "GET", "other.png", times=2)
        with pytest.raises(OSError, match="internal error"):
            read_corpus(source, URIS, tmp_path / "work", options)
        assert proxy.is_empty
        proxy.plan("500", "GET", "other.png")
        assert read_corpus(source, URIS, tmp_path / "again", options) == (["good", "other"], {"bad": "missing_file"})
        assert proxy.is_empty


TEXTS: list[tuple[str, str, str]] = [
    ("a caption of 1 MB", "x" * 2**20, "x" * 10_000),
    (
        "a caption of HTML and script",
        "<script>alert(1)</script><img src=x onerror=alert(1)>",
        "<script>alert(1)</script><img src=x onerror=alert(1)>",
    ),
    ("a caption with NUL inside", "a\0b", "ab"),
    ("a caption of any Unicode", "\ufeffa\u202e\U0001f600", "\ufeffa\u202e\U0001f600"),
]


@pytest.mark.parametrize(("content", "decoded"), [row[1:] for row in TEXTS], ids=[row[0] for row in TEXTS])
def test_a_strange_text_is_a_text(tmp_path: Path, content: str, decoded: str) -> None:
    source = write_rows(tmp_path / "source", [make_row("good", text=content)])
    assert read_corpus(source, INLINE, tmp_path / "work") == (["good"], {})
    modality = resolve_modality("text", ModalityConfig())
    assert decode_content(content, modality) == decoded


IDS: list[tuple[str, str]] = [
    ("an id with slashes", "a/b/../c"),
    ("an id with a new line", "a\nb"),
    ("an id with quotes", "a'b\"c"),
    ("an id with an accent", "\u00e9"),
    ("an id beyond the basic plane", "\U0001f600"),
    ("an id with outer spaces", " a "),
    ("an id of 4000 characters", "a" * 4_000),
    ("an id that leads to another folder", "../../etc/passwd"),
]


@pytest.mark.parametrize("name", [row[1] for row in IDS], ids=[row[0] for row in IDS])
def test_a_strange_id_is_an_id(tmp_path: Path, name: str) -> None:
    source = write_rows(tmp_path / "source", [make_row(name), make_row("other")])
    assert read_corpus(source, INLINE, tmp_path / "work") == ([name, "other"], {})


def test_texts_and_names_that_are_no_unicode_stay_apart(tmp_path: Path) -> None:
    members = [(f"{name}.png", GOOD_IMAGE) for name in ("Gr\udcf6", "Gr\udce4")]
    members += [(f"{name}.json", b'{"caption": "a \\ud800 b"}') for name in ("Gr\udcf6", "Gr\udce4")]
    archive = write_tar(tmp_path / "a.tar", members)
    source = {"kind": "webdataset", "url": str(archive), "pair_id_column": "stem"}
    configs: Configs = {"image": {"image_size": 32}, "text": {"column": "caption"}}
    assert read_corpus(source, configs, tmp_path / "work") == (["Gr\\xf6", "Gr\\xe4"], {})
