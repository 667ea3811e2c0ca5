"""Storage: a file appears whole or not at all, equal tables give equal bytes, everybody reads the Parquet."""

import json
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest

from mmcsal_core.errors import ArtifactError
from mmcsal_core.schema import vector_type
from mmcsal_core.storage import PARTIAL, Store, encode_parquet, hash_bytes
from tests.s3_server import REGION

DIM = 4


def make_table(num_rows: int = 5) -> pa.Table:
    vectors = np.arange(num_rows * DIM, dtype=np.float32)
    schema = pa.schema(
        [
            pa.field("pair_id", pa.string(), metadata={"comment": "unique id", "unit": ""}),
            pa.field("count", pa.int64()),
            pa.field("image_embedding", vector_type(DIM)),
            pa.field("weights", pa.list_(pa.float32())),
        ],
        metadata={"run_id": "r1"},
    )
    columns = [
        pa.array([f"p{i}" for i in range(num_rows)]),
        pa.array(range(num_rows), pa.int64()),
        pa.FixedSizeListArray.from_arrays(pa.array(vectors), DIM),
        pa.array([[0.5]] * num_rows, pa.list_(pa.float32())),
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def make_store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "run"))


def test_read_back_what_was_written(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    record = store.child("a", "b").write_bytes("c.bin", b"12345")
    assert (record.num_bytes, record.sha256) == (5, hash_bytes(b"12345"))
    assert store.read_bytes("a/b/c.bin") == b"12345"
    assert store.exists("a/b/c.bin")
    assert not store.exists("a/b")
    assert store.list_files() == ["a/b/c.bin"]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"run/none\.bin"):
        make_store(tmp_path).read_bytes("none.bin")


def test_an_absent_folder_has_no_files_and_removing_it_is_fine(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    assert store.list_files() == []
    store.remove()
    store.remove("x.bin")


def test_remove_takes_a_file_or_the_folder(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    store.write_bytes("a.bin", b"a")
    store.write_bytes("d/b.bin", b"b")
    store.remove("a.bin")
    assert store.list_files() == ["d/b.bin"]
    store.remove()
    assert store.list_files() == []


def test_a_local_write_replaces_and_leaves_no_partial_file(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    for data in (b"old", b"new"):
        store.write_bytes("a.bin", data)
    assert store.read_bytes("a.bin") == b"new"
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["a.bin"]


def test_a_failed_local_write_keeps_the_old_file(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    store.write_bytes("a.bin", b"old")
    with pytest.raises(TypeError):
        store.write_bytes("a.bin", 5)  # type: ignore[arg-type]
    assert store.read_bytes("a.bin") == b"old"


def test_a_leftover_of_a_killed_writer_is_not_listed_and_can_be_removed(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    store.write_bytes("data/part.parquet", b"whole")
    leftover = tmp_path / "run" / "data" / f".part.parquet.123{PARTIAL}"
    leftover.write_bytes(b"hal")
    assert store.list_files() == ["data/part.parquet"]
    store.remove_leftovers()
    assert not leftover.exists()
    assert store.read_bytes("data/part.parquet") == b"whole"


def test_a_file_is_created_once(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "new"))
    assert [store.create_bytes("lock", b"first"), store.create_bytes("lock", b"second")] == [True, False]
    assert store.read_bytes("lock") == b"first"


def test_an_object_is_created_once_where_the_store_honours_the_condition(s3_endpoint: str) -> None:
    options = {"endpoint_url": s3_endpoint}
    store = Store("s3://created-once/run", options)
    store.filesystem.mkdir("created-once", region_name=REGION)
    assert [store.create_bytes("lock", b"first"), store.create_bytes("lock", b"second")] == [True, False]
    assert store.read_bytes("lock") == b"first"


def test_json_keys_are_sorted(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    first, second = store.write_json("a.json", {"b": 1, "a": [2]}), store.write_json("b.json", {"a": [2], "b": 1})
    assert first.sha256 == second.sha256
    assert store.read_json("a.json") == {"a": [2], "b": 1}


def test_broken_json_and_parquet_are_named(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    store.write_bytes("a.json", b"{")
    store.write_bytes("a.parquet", b"PAR1 not really")
    with pytest.raises(ArtifactError, match=r"a\.json is not JSON"):
        store.read_json("a.json")
    with pytest.raises(ArtifactError, match=r"a\.parquet is not readable Parquet"):
        store.read_table("a.parquet")


def test_a_memory_store_works_like_a_folder() -> None:
    store = Store("memory://test_storage/run")
    store.write_json("x/a.json", {"a": 1})
    assert store.list_files() == ["x/a.json"]
    assert store.read_json("x/a.json") == {"a": 1}
    store.remove()
    assert store.list_files() == []


def test_options_stay_out_of_the_representation() -> None:
    assert "key" not in repr(Store("s3://bucket", {"secret": "key"}))


def test_equal_tables_give_equal_bytes() -> None:
    assert encode_parquet(make_table()) == encode_parquet(make_table())
    chunked = pa.concat_tables([make_table().slice(0, 2), make_table().slice(2)]).combine_chunks()
    assert encode_parquet(chunked) == encode_parquet(make_table())


def test_encoding_is_zstd_and_splits_byte_streams_of_float_vectors_only() -> None:
    row_group = pq.ParquetFile(pa.BufferReader(encode_parquet(make_table()))).metadata.row_group(0)
    columns = [row_group.column(i) for i in range(row_group.num_columns)]
    assert {column.compression for column in columns} == {"ZSTD"}
    split = [column.path_in_schema for column in columns if "BYTE_STREAM_SPLIT" in column.encodings]
    assert split == ["image_embedding.list.element"]


def test_metadata_and_columns_come_back(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    store.write_table("a.parquet", make_table())
    table = store.read_table("a.parquet")
    assert table.equals(make_table())
    assert table.schema.metadata == {b"run_id": b"r1"}
    assert table.schema.field("pair_id").metadata[b"comment"] == b"unique id"
    assert store.read_table("a.parquet", ["count"]).column_names == ["count"]


def test_every_reader_reads_the_table(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    for part in range(2):
        store.write_table(f"data/part-{part}.parquet", make_table())
    folder = tmp_path / "run" / "data"
    dataset = pyarrow.dataset.dataset(folder).to_table()
    assert dataset.num_rows == 10
    assert dataset.schema.field("image_embedding").type == vector_type(DIM)
    frame = pl.read_parquet(folder)
    assert frame.schema["image_embedding"] == pl.Array(pl.Float32, DIM)
    assert len(pd.read_parquet(folder)) == 10
    found = duckdb.connect().execute(f"SELECT count(*), sum(image_embedding[1]) FROM '{folder}/*.parquet'").fetchall()
    assert found == [(10, 2 * sum(range(0, 5 * DIM, DIM)))]


def test_records_are_json(tmp_path: Path) -> None:
    record = make_store(tmp_path).write_bytes("a", b"a")
    assert json.loads(record.model_dump_json())["name"] == "a"
