from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmcsal_core.corpus.modality import ModalityConfig, resolve_modality
from mmcsal_core.corpus.sources import SourceConfig, list_source, read_source_rows, stage_tables
from mmcsal_core.corpus.sources.locations import select_options
from mmcsal_core.errors import ConfigError, DataError
from mmcsal_core.storage import Store


def _modalities(**configs: dict[str, Any]) -> dict[str, ModalityConfig]:
    return {name: resolve_modality(name, ModalityConfig(**config)) for name, config in configs.items()}


IMAGE_TEXT = _modalities(image={"column": "image"}, text={"column": "caption"})
URIS = _modalities(image={"uri_column": "path"}, text={"column": "caption"})
FILES = _modalities(image={}, text={})


def _write(path: Path, start: int, stop: int, **more: Any) -> None:
    rows = range(start, stop)
    table = pa.table(
        {
            "image": pa.array([f"image {i}".encode() for i in rows]),
            "caption": [f"caption {i}" for i in rows],
            "number": pa.array(rows, pa.int32()),
            **more,
        }
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=4)


def _source(kind: str, url: Path | str, **more: Any) -> SourceConfig:
    return SourceConfig.model_validate({"kind": kind, "url": str(url), **more})


def test_parquet_folder_is_listed_by_name_and_read_by_global_row(tmp_path: Path) -> None:
    _write(tmp_path / "b.parquet", 10, 15)
    _write(tmp_path / "a" / "x.parquet", 0, 10)
    (tmp_path / "_SUCCESS").write_bytes(b"")
    listing = list_source(_source("parquet", tmp_path), IMAGE_TEXT, {})
    assert [(file.name, file.num_rows) for file in listing.files] == [("a/x.parquet", 10), ("b.parquet", 5)]
    assert listing.num_pairs == 15
    assert listing.num_bytes == sum(path.stat().st_size for path in tmp_path.rglob("*.parquet"))
    for start, stop in [(0, 15), (3, 5), (8, 12), (14, 15), (0, 4), (5, 5)]:
        table = read_source_rows(listing, start, stop, ["number", "caption"], {})
        assert table["number"].to_pylist() == list(range(start, stop))
        assert table["caption"].to_pylist() == [f"caption {i}" for i in range(start, stop)]
    with pytest.raises(DataError, match="15 rows"):
        read_source_rows(listing, 10, 16, ["number"], {})


@pytest.mark.parametrize("pattern", ["one.parquet", "o*.parquet", ".", ""])
def test_file_glob_and_folder_name_the_same_rows(tmp_path: Path, pattern: str) -> None:
    _write(tmp_path / "one.parquet", 0, 3)
    listing = list_source(_source("parquet", f"{tmp_path}/{pattern}"), IMAGE_TEXT, {})
    assert [file.name for file in listing.files] == ["one.parquet"]
    assert listing.root == str(tmp_path)


def test_a_column_that_some_files_lack_is_null_there(tmp_path: Path) -> None:
    _write(tmp_path / "a.parquet", 0, 2)
    _write(tmp_path / "b.parquet", 2, 4, score=pa.array([0.5, 1.5], pa.float32()))
    listing = list_source(_source("parquet", tmp_path), IMAGE_TEXT, {})
    assert read_source_rows(listing, 0, 4, ["score"], {})["score"].to_pylist() == [None, None, 0.5, 1.5]


def test_fingerprint_follows_the_files(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    _write(path, 0, 3)

    def fingerprint() -> str:
        return list_source(_source("parquet", tmp_path), IMAGE_TEXT, {}).fingerprint

    first = fingerprint()
    (tmp_path / "notes.txt").write_text("not part of the source")
    assert fingerprint() == first
    _write(tmp_path / "b.parquet", 3, 4)
    assert fingerprint() != first
    (tmp_path / "b.parquet").unlink()
    assert fingerprint() == first
    _write(path, 1, 4)
    assert fingerprint() != first


@pytest.mark.parametrize("ending", ["jsonl", "ndjson"])
def test_csv_stays_text_and_jsonl_keeps_its_types(tmp_path: Path, ending: str) -> None:
    (tmp_path / "m.csv").write_text('code,caption,path\n0012,"two\nlines",a.png\n,"",b.png\n')
    listing = list_source(_source("manifest", tmp_path / "m.csv"), URIS, {})
    rows = read_source_rows(listing, 0, 2, ["code", "caption"], {}).to_pylist()
    assert rows == [{"code": "0012", "caption": "two\nlines"}, {"code": None, "caption": ""}]
    (tmp_path / f"m.{ending}").write_text(
        '{"path": "a.png", "caption": "2020-01-01", "n": 1}\n\n{"path": "b.png", "tags": ["x"]}\n'
    )
    listing = list_source(_source("manifest", tmp_path / f"m.{ending}"), URIS, {})
    assert listing.schema.field("n").type == pa.int64()
    assert read_source_rows(listing, 0, 2, ["caption", "n", "tags"], {}).to_pylist() == [
        {"caption": "2020-01-01", "n": 1, "tags": None},
        {"caption": None, "n": None, "tags": ["x"]},
    ]


def test_folder_pairs_by_stem_below_the_root(tmp_path: Path) -> None:
    for name in ["b/1.png", "b/1.txt", "a.png", "a.JPG", "c.txt", "notes.pdf", ".hidden.png"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    listing = list_source(_source("folder", tmp_path), FILES, {})
    rows = read_source_rows(listing, 0, 3, ["stem", "image_files", "text_files"], {}).to_pylist()
    assert rows == [
        {"stem": "a", "image_files": [f"{tmp_path}/a.JPG", f"{tmp_path}/a.png"], "text_files": []},
        {"stem": "b/1", "image_files": [f"{tmp_path}/b/1.png"], "text_files": [f"{tmp_path}/b/1.txt"]},
        {"stem": "c", "image_files": [], "text_files": [f"{tmp_path}/c.txt"]},
    ]
    assert listing.num_bytes == 5


def test_staged_tables_read_the_same_without_the_source(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("path,caption\n" + "".join(f"{i}.png,c{i}\n" for i in range(20)))
    listing = list_source(_source("manifest", tmp_path / "m.csv"), URIS, {})
    staged = stage_tables(listing, Store(str(tmp_path / "run" / "_listing")))
    (tmp_path / "m.csv").unlink()
    assert all(file.table is None for file in staged.files)
    assert read_source_rows(staged, 7, 9, ["caption"], {}).equals(read_source_rows(listing, 7, 9, ["caption"], {}))


@pytest.mark.parametrize(
    ("kind", "name", "content", "message"),
    [
        ("parquet", "absent", None, "missing or holds no files"),
        ("folder", "absent", None, "missing or holds no files"),
        ("parquet", "a.parquet", b"PAR1 no", "not readable as Parquet"),
        ("manifest", "a.csv", b"", "not readable as CSV"),
        ("manifest", "a.csv", b"path,caption\n", "has no rows"),
        ("manifest", "a.csv", b"path,path\na,b\n", "more than one column named 'path'"),
        ("manifest", "a.jsonl", b'{"path": 1}\n{"path"\n', "line 2 is not JSON"),
        ("manifest", "a.jsonl", b"[1]\n", "line 1 is not a JSON object"),
        ("manifest", "a.jsonl", b'{"path": 1}\n{"path": "x"}\n', "values of key 'path'"),
        ("manifest", "a.xml", b"<x/>", "no file that ends in .csv"),
        ("folder", "a.pdf", b"x", "no file that ends in .png"),
    ],
)
def test_unreadable_source_is_a_data_error_that_names_it(
    tmp_path: Path, kind: str, name: str, content: bytes | None, message: str
) -> None:
    url = tmp_path / name
    if content is not None:
        url.write_bytes(content)
    modalities = {"parquet": IMAGE_TEXT, "manifest": URIS, "folder": FILES}[kind]
    with pytest.raises(DataError, match=message) as error:
        list_source(_source(kind, url if kind != "folder" or content is None else tmp_path), modalities, {})
    assert str(tmp_path) in str(error.value)


@pytest.mark.parametrize(
    ("more", "modalities", "message"),
    [
        ({}, _modalities(image={"column": "imag"}, text={"column": "caption"}), "did you mean 'image'"),
        ({}, _modalities(image={"column": "caption"}, text={"column": "caption"}), "modalities.image.uri_column"),
        ({}, _modalities(image={"uri_column": "number"}, text={"column": "caption"}), "int32"),
        ({}, _modalities(image={"column": "image"}, text={"column": "image"}), "binary"),
        ({}, _modalities(image={}, text={"column": "caption"}), "got neither"),
        ({}, _modalities(vector={"column": "image"}, text={"column": "caption"}), "a list of numbers"),
        ({}, _modalities(vector={"uri_column": "caption"}, text={"column": "caption"}), "vectors stand in a column"),
        ({"pair_id_column": "nummer"}, IMAGE_TEXT, "did you mean 'number'"),
        ({"pair_id_column": "score"}, IMAGE_TEXT, "whole numbers"),
        ({"metadata_columns": ("scor",)}, IMAGE_TEXT, "did you mean 'score'"),
        ({"metadata_columns": None}, _modalities(number={"kind": "image", "column": "image"}), "number"),
        ({"metadata_columns": None}, IMAGE_TEXT, "rank"),
    ],
)
def test_configuration_is_checked_against_the_schema(
    tmp_path: Path, more: dict[str, Any], modalities: dict[str, ModalityConfig], message: str
) -> None:
    _write(tmp_path / "a.parquet", 0, 2, score=[0.5, 1.5], rank=[1, 2])
    with pytest.raises(ConfigError, match=message):
        list_source(_source("parquet", tmp_path, **{"metadata_columns": (), **more}), modalities, {})


@pytest.mark.parametrize(
    ("more", "modalities", "message"),
    [
        ({}, IMAGE_TEXT, "has no columns"),
        ({}, _modalities(vector={}), "holds none"),
        ({"pair_id_column": "id"}, FILES, "one column, 'stem'"),
        ({"metadata_columns": ("label",)}, FILES, "label"),
        ({}, _modalities(front={"kind": "image"}, back={"kind": "image"}), "both take '.png'"),
    ],
)
def test_configuration_is_checked_against_a_folder(
    tmp_path: Path, more: dict[str, Any], modalities: dict[str, ModalityConfig], message: str
) -> None:
    (tmp_path / "a.png").write_bytes(b"x")
    with pytest.raises(ConfigError, match=message):
        list_source(_source("folder", tmp_path, **more), modalities, {})


def test_content_in_a_csv_and_an_unknown_protocol_are_config_errors(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("image,caption\na,b\n")
    with pytest.raises(ConfigError, match="needs Parquet"):
        list_source(_source("manifest", tmp_path), IMAGE_TEXT, {})
    with pytest.raises(ConfigError, match="protocol"):
        list_source(_source("parquet", "nosuch://bucket/a.parquet"), IMAGE_TEXT, {})
    with pytest.raises(ValueError, match="named once"):
        _source("parquet", "x", metadata_columns=("a", "a"))


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("s3://bucket/a", {"anon": True}),
        ("abfs://bucket/a", {"anon": True, "account_name": "team"}),
        ("gcs://bucket/a", {"anon": True, "token": "cloud"}),
        ("/folder/a", {}),
        ("https://host/a", {"timeout": 5}),
    ],
)
def test_options_are_those_of_the_store_whichever_way_its_protocol_is_spelt(url: str, options: dict[str, Any]) -> None:
    given = {"anon": True, "az": {"account_name": "team"}, "gs": {"token": "cloud"}, "https": {"timeout": 5}}
    assert select_options(url, given) == options


def test_files_that_disagree_on_a_type_are_a_data_error(tmp_path: Path) -> None:
    _write(tmp_path / "a.parquet", 0, 2, tag=["x", "y"])
    _write(tmp_path / "b.parquet", 0, 2, tag=[1, 2])
    with pytest.raises(DataError, match="have one schema"):
        list_source(_source("parquet", tmp_path), IMAGE_TEXT, {})
