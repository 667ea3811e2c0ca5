"""Tar archives: what is found in them, what is refused, and what stands for what is lost."""

import gc
import io
import tarfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import webdataset

from mmcsal_core.corpus.sources.tar_members import read_members
from mmcsal_core.corpus.sources.tars import (
    BLOCK,
    REST,
    TarColumns,
    index_tar,
    make_member_reference,
    parse_member_reference,
)
from mmcsal_core.errors import DataError
from tests.tar_files import make_members, pack, write_tar

COLUMNS = TarColumns({"image": (".png", ".jpg"), "text": (".txt",)}, metadata=("width", "mixed", "exif"))


def read_column(table: pa.Table, name: str) -> list[Any]:
    """Read the one member of each row of a modality."""
    uris = [files[0] for files in table[f"{name}_files"].to_pylist()]
    found = read_members({uri: parse_member_reference(uri) for uri in uris}, {})  # type: ignore[misc]
    return [found[uri] for uri in uris]


@pytest.mark.parametrize("ending", [".tar", ".tar.gz", ".tgz", ".tar.zst", ".tar.bz2"])
def test_members_are_found_and_read_again_whatever_the_compression(tmp_path: Path, ending: str) -> None:
    members = make_members(5)
    plain = write_tar(tmp_path / "a.tar", members)
    archive = plain if ending == ".tar" else pack(plain, ending)
    table = index_tar(str(archive), COLUMNS, {})
    assert table["stem"].to_pylist() == [f"d/{i:03d}" for i in range(5)]
    assert read_column(table, "image") == [data for name, data in members if name.endswith(".jpg")]
    assert read_column(table, "text") == [f"text {i}".encode() for i in range(5)]
    assert table["width"].to_pylist() == list(range(5))
    assert table["mixed"].to_pylist() == ["<0>", "1", "<2>", "3", "<4>"]
    assert table["exif"].to_pylist() == [f'{{"a": [{i}], "b": 1}}' for i in range(5)]
    assert "other" not in table.column_names
    assert table["problem_reason"].null_count == 5


def test_samples_and_their_bytes_are_those_of_webdataset(tmp_path: Path) -> None:
    pattern = f"{tmp_path}/%02d.tar"
    with webdataset.ShardWriter(pattern, maxcount=3, verbose=0) as writer:
        for i in range(7):
            writer.write({"__key__": f"k.{i}/s{i}", "jpg": f"picture {i}".encode(), "seg.png": b"mask", "txt": f"t{i}"})
    columns = TarColumns({"image": (".jpg",), "mask": (".seg.png",), "text": (".txt",)})
    files = sorted(str(path) for path in tmp_path.glob("*.tar"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # webdataset leaves closing its files to the collector
        expected = list(webdataset.WebDataset(files, shardshuffle=False, empty_check=False))
        gc.collect()
    tables = [index_tar(file, columns, {}) for file in files]
    assert [table.num_rows for table in tables] == [3, 3, 1]
    assert [stem for table in tables for stem in table["stem"].to_pylist()] == [each["__key__"] for each in expected]
    for name, suffix in (("image", "jpg"), ("mask", "seg.png"), ("text", "txt")):
        assert [data for table in tables for data in read_column(table, name)] == [each[suffix] for each in expected]


def test_a_member_may_serve_two_modalities_and_members_of_a_sample_may_lie_apart(tmp_path: Path) -> None:
    archive = write_tar(tmp_path / "a.tar", [("1.mp4", b"film"), ("2.mp4", b"more"), ("1.txt", b"one")])
    table = index_tar(str(archive), TarColumns({"video": (".mp4",), "sound": (".mp4",), "text": (".txt",)}), {})
    assert table["video_files"].to_pylist() == table["sound_files"].to_pylist()
    assert [len(files) for files in table["text_files"].to_pylist()] == [1, 0]


def test_folders_hidden_members_and_other_endings_belong_to_no_sample(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        folder = tarfile.TarInfo("d.jpg")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for name in ("._1.jpg", "d/.hidden.jpg", "README", "1.pkl", "1.JPG"):
            archive.addfile(tarfile.TarInfo(name), io.BytesIO())
    assert index_tar(str(tmp_path / "a.tar"), COLUMNS, {})["stem"].to_pylist() == ["1"]


def _link(kind: bytes) -> tarfile.TarInfo:
    member = tarfile.TarInfo("1.jpg")
    member.type, member.linkname = kind, "/etc/passwd"
    return member


@pytest.mark.parametrize(
    "member",
    [
        *(tarfile.TarInfo(name) for name in ("/etc/1.jpg", "../1.jpg", "d/../../1.jpg")),
        *(_link(kind) for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE)),
    ],
    ids=lambda member: f"{member.name} {member.type!r}",
)
def test_members_that_leave_the_archive_or_are_no_files_are_refused(tmp_path: Path, member: tarfile.TarInfo) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("0.jpg"))
        archive.addfile(member)
    table = index_tar(str(tmp_path / "a.tar"), COLUMNS, {})
    assert table["problem_reason"].to_pylist() == [None, "unsafe_member"]
    assert member.name in table["problem_message"][1].as_py()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"{", "unreadable_json"),
        (b"[1]", "unreadable_json"),
        (b"\xff\xfe", "unreadable_json"),
        (b'"' + b"a" * 2**20 + b'"', "oversized_json"),
    ],
)
def test_json_that_cannot_be_used_is_a_problem_of_its_sample(tmp_path: Path, data: bytes, reason: str) -> None:
    archive = write_tar(tmp_path / "a.tar", [("1.json", data), ("2.json", b'{"width": 2}')])
    table = index_tar(str(archive), COLUMNS, {})
    assert table["problem_reason"].to_pylist() == [reason, None]
    assert table["width"].to_pylist() == [None, 2]


@pytest.mark.parametrize("ending", [".tar", ".tar.gz"])
def test_an_archive_cut_anywhere_keeps_what_is_whole_and_says_that_it_was_cut(tmp_path: Path, ending: str) -> None:
    plain = write_tar(tmp_path / "a.tar", make_members(4))
    whole = plain if ending == ".tar" else pack(plain, ending)
    data, cut = whole.read_bytes(), tmp_path / f"cut{ending}"
    expected = index_tar(str(whole), COLUMNS, {})
    end = len(data) if ending != ".tar" else len(data.rstrip(b"\0")) // BLOCK * BLOCK + BLOCK
    for length in {1, BLOCK - 1, BLOCK, BLOCK + 1, end // 3, end // 2, end - 1, end}:
        if length >= len(data):
            continue
        cut.write_bytes(data[:length])
        try:
            table = index_tar(str(cut), COLUMNS, {})
        except DataError as error:
            assert "cut" in str(error)  # noqa: PT017  most cuts are no error
            assert length < 2 * BLOCK
            continue
        stems = table["stem"].to_pylist()
        if stems == expected["stem"].to_pylist():  # all that is cut lies behind the end-of-archive mark
            assert length == end - 1
            continue
        assert stems[-1] == REST
        assert table["problem_reason"][-1].as_py() == "truncated_tar"
        assert stems[:-1] == expected["stem"].to_pylist()[: len(stems) - 1]
        good = [i for i, reason in enumerate(table["problem_reason"].to_pylist()) if reason is None]
        for i in good[:-1]:  # the last one may lack members, which is found out where they are looked for
            assert table["image_files"][i].as_py() == [
                uri.replace(str(whole), str(cut)) for uri in expected["image_files"][i].as_py()
            ]


def test_garbage_after_the_first_members_is_not_taken_for_the_end(tmp_path: Path) -> None:
    data = bytearray(write_tar(tmp_path / "a.tar", make_members(4)).read_bytes())
    start = 1 + 1 + 1 + 1 + 1 + 1  # blocks of the three members of the first sample
    data[start * BLOCK : (start + 1) * BLOCK] = b"x" * BLOCK
    (tmp_path / "a.tar").write_bytes(data)
    table = index_tar(str(tmp_path / "a.tar"), COLUMNS, {})
    assert table["stem"].to_pylist() == ["d/000", REST]


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("a.tar", lambda path: path.write_bytes(b"")),
        ("a.tar", lambda path: path.write_bytes(b"no archive " * 100)),
        ("a.tar.gz", lambda path: path.write_bytes(b"no archive " * 100)),
        ("a.tar.zst", lambda path: path.write_bytes(b"no archive " * 100)),
        ("a.tar", lambda path: path.mkdir()),
        ("a.tar", lambda path: None),
    ],
)
def test_what_is_no_archive_is_an_error_that_names_it(
    tmp_path: Path, name: str, write: Callable[[Path], object]
) -> None:
    write(tmp_path / name)
    with pytest.raises(DataError, match=f"{name} is not readable as a tar archive"):
        index_tar(str(tmp_path / name), COLUMNS, {})


def test_a_reference_is_read_back_whatever_the_names(tmp_path: Path) -> None:
    folder = tmp_path / "a b#c&d"
    folder.mkdir()
    name = "ü #&=?/\n.jpg"
    archive = write_tar(folder / "x#member=y.tar", [(name, b"data")])
    (uri,) = index_tar(str(archive), COLUMNS, {})["image_files"][0].as_py()
    member = parse_member_reference(uri)
    assert member is not None
    assert (member.file, member.name, make_member_reference(member)) == (str(archive), name, uri)
    assert read_members({"it": member}, {}) == {"it": b"data"}
    assert parse_member_reference("s3://bucket/a.png") is None


@pytest.mark.parametrize("ending", [".tar", ".tar.gz"])
def test_an_archive_that_was_replaced_gives_errors_and_no_other_bytes(tmp_path: Path, ending: str) -> None:
    plain = write_tar(tmp_path / "a.tar", make_members(3))
    archive = plain if ending == ".tar" else pack(plain, ending)
    table = index_tar(str(archive), COLUMNS, {})
    write_tar(plain, make_members(3)[1:])
    if ending != ".tar":
        pack(plain, ending)
    assert all(isinstance(found, DataError) for found in read_column(table, "image"))
    archive.unlink()
    assert all(isinstance(found, FileNotFoundError) for found in read_column(table, "image"))
