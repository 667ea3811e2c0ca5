"""Bad sources: each is an error that names it and says what to do. And that the tables hold what they should."""

import gzip
import re
import tarfile
from pathlib import Path

import pyarrow as pa
import pytest

from mmcsal_core.errors import ConfigError, DataError, MmcsalError
from tests.pipelines.bad_corpora import (
    FOLDER,
    INLINE,
    URIS,
    Source,
    WriteSource,
    latin_column,
    make_row,
    read_corpus,
    without_override,
    write_rows,
)
from tests.pipelines.ingested_source import Configs
from tests.pipelines.test_bad_files import FILES
from tests.pipelines.test_bad_rows import IDS, ROWS, TEXTS


def _broken_parquet(folder: Path) -> Source:
    source = write_rows(folder, [make_row("good")])
    content = (folder / "a.parquet").read_bytes()
    (folder / "b.parquet").write_bytes(content[: len(content) // 2])
    return {**source, "url": str(folder)}


def _forbidden_parquet(folder: Path) -> Source:
    source = write_rows(folder, [make_row("good")])
    (folder / "a.parquet").chmod(0)
    return source


def _empty_folder(folder: Path) -> Source:
    folder.mkdir()
    return {"kind": "parquet", "url": str(folder)}


def _text(name: str, content: bytes, kind: str = "manifest") -> WriteSource:
    def write(folder: Path) -> Source:
        folder.mkdir()
        (folder / name).write_bytes(content)
        return {"kind": kind, "url": str(folder / name)}

    return write


def _make_header_bomb() -> bytes:
    """Return an archive whose first member is said to have a name of 64 MiB, and has it."""
    header = tarfile.TarInfo("././@LongLink")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 2**26
    return header.tobuf(tarfile.GNU_FORMAT) + bytes(2**26 + 10_240)


ERRORS: list[tuple[str, Configs, WriteSource, type[MmcsalError], str]] = [
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
        lambda folder: write_rows(
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
        "a shard that may not be read",
        INLINE,
        _forbidden_parquet,
        DataError,
        r"source/a\.parquet is not readable as Parquet \(PermissionError",
    ),
    (
        "a column that is not there",
        {**INLINE, "text": {"column": "caption"}},
        lambda folder: write_rows(folder, [make_row("a")]),
        ConfigError,
        "did you mean",
    ),
    (
        "a column of another type",
        {"image": {"column": "text"}, "text": {"column": "image"}},
        lambda folder: write_rows(folder, [make_row("a")]),
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
        "a line that is nested without end",
        URIS,
        _text("m.jsonl", b"[" * 200_000),
        DataError,
        r"m\.jsonl, line 1 is not JSON",
    ),
    (
        "a line with half a character",
        URIS,
        _text("m.jsonl", b'{"path": "a", "text": "\\ud800"}'),
        DataError,
        r"m\.jsonl: the values of key 'text'",
    ),
    (
        "an archive of a header that would fill the memory",
        FOLDER,
        _text("a.tar.gz", gzip.compress(_make_header_bomb()), "webdataset"),
        DataError,
        r"a\.tar\.gz is not readable as a tar",
    ),
    (
        "a dictionary of text that is not UTF-8",
        INLINE,
        latin_column("text", by_dictionary=True),
        DataError,
        r"a\.parquet is not readable as Parquet",
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
    tmp_path: Path, modalities: Configs, write: WriteSource, kind: type[MmcsalError], words: str
) -> None:
    source = write(tmp_path / "source")
    with without_override(), pytest.raises(kind, match=words) as caught:
        read_corpus(source, modalities, tmp_path / "work")
    assert ";" in str(caught.value), "a message says what to do after a semicolon"
    assert kind is ConfigError or str(tmp_path / "source") in str(caught.value), "an error of the data names the file"


ELSEWHERE = {
    "one pair alone": "tests/integration/test_bad_input_runs.py::test_a_handful_of_pairs_is_a_run_or_a_clear_no",
    "a model file that would run code": (
        "tests/core/test_backbones_hugging_face.py::test_weights_that_would_run_code_are_refused_and_run_none"
    ),
    "a link that is dead": "tests/pipelines/test_bad_rows.py::test_a_dead_link_is_rejected",
    "a store that goes on failing": (
        "tests/pipelines/test_bad_rows.py::test_a_store_that_goes_on_failing_is_an_error_and_no_reject"
    ),
    "an output that may not be written": (
        "tests/integration/test_bad_input_runs.py::test_an_output_that_may_not_be_written_ends_the_command_in_one_line"
    ),
}
"""Kinds that are no row of a table, and the tests that show what becomes of them."""


def test_the_tables_name_at_least_forty_kinds() -> None:
    names = [row[0] for row in (*FILES, *ROWS, *TEXTS, *IDS, *ERRORS)] + list(ELSEWHERE)
    assert len(names) == len({*names, "a store that nobody knows"}) + 1
    assert len(names) >= 40
    for test in ELSEWHERE.values():
        path, _, name = test.partition("::")
        assert f"\ndef {name}(" in (Path(__file__).parents[2] / path).read_text()
    missing = {
        *("a caption of 1 MB", "a caption of HTML and script", "an id with slashes", "an id with a new line"),
        *("one pair alone", "a model file that would run code", "an archive cut in half"),
        *("a shard cut in half", "a shard that may not be read", "an output that may not be written"),
        *("a decompression bomb", "a text in Latin-1", "an id that stands twice", "a vector of NaN"),
    } - set(names)
    assert missing == set()


def test_every_reason_stands_in_the_data_dictionary() -> None:
    root = Path(__file__).parents[2]
    code = "".join(
        path.read_text() for folder in ("mmcsal_core", "pipelines") for path in (root / folder).rglob("*.py")
    )
    given = set(re.findall(r"(?:RejectPair|refuse)\(\s*f?\"([a-z0-9_{}]+)\"", code)) - {"unreadable_{kind}"}
    documented = (root / "docs" / "outputs.md").read_text()
    section = documented[documented.index("## rejects/") :].split("\n## ")[0]
    assert given - set(re.findall(r"`([a-z0-9_]+)`", section)) == set()
