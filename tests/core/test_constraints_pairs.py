"""Which pairs a selection is about: conditions in SQL and lists of ids."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmcsal_core.errors import ConfigError, DataError
from mmcsal_core.selection.constraints.metadata_filter import match_rows
from mmcsal_core.selection.constraints.pair_lists import find_listed_rows, hash_pair_list, read_pair_list

TABLE = pa.table(
    {
        "kind": pa.array(["cat", None, "dog", "cat"]).dictionary_encode(),
        "width": pa.array([100, 300, None, 400]),
        "two words": pa.array(["a", "b", "c", "d"]),
    }
)


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("width > 200", [False, True, False, True]),
        ("NOT (width > 200)", [True, False, False, False]),
        ("kind = 'cat' AND width >= 100", [True, False, False, True]),
        ("kind IS NULL OR width IS NULL", [False, True, True, False]),
        ("kind <> 'cat'", [False, False, True, False]),
        ("kind IN ('dog', 'cow') OR \"two words\" LIKE 'd%'", [False, False, True, True]),
        ("coalesce(width, 0) BETWEEN 0 AND 150", [True, False, True, False]),
    ],
)
def test_null_is_neither_true_nor_false(condition: str, expected: list[bool]) -> None:
    assert match_rows(TABLE, condition).tolist() == expected


@pytest.mark.parametrize(
    ("condition", "words"),
    [
        ("colour = 'red'", "the columns are kind, width, two words"),
        ("width", "must be true or false for each pair, 'width' is BIGINT"),
        ("width >", "must be a condition in SQL"),
        ("", "must be a condition in SQL"),
        ("width > 1; DROP TABLE x", "must be a condition in SQL"),
        ("true) OR (true", "must be a condition in SQL"),
        ("width > 'wide'", "Could not convert string 'wide'"),
        ("count(*) > 1", "where must"),
        ("width > 1, width > 2", "where must"),
    ],
)
def test_what_is_no_condition_on_a_row_is_refused(condition: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        match_rows(TABLE, condition)


def test_a_condition_reaches_no_file_and_no_object_of_this_process(tmp_path: Path) -> None:
    secret = tmp_path / "secret.csv"
    secret.write_text("a\n1\n")
    outside = pa.table({"a": [1]})
    assert outside.num_rows == 1
    for source in (f"read_csv('{secret}')", f"'{secret}'", f"read_text('{secret}')", "glob('/*')", "outside", "TABLE"):
        with pytest.raises(ConfigError, match="where must be a condition"):
            match_rows(TABLE, f"(SELECT count(*) FROM {source}) > 0")
    with pytest.raises(ConfigError, match="where must be a condition"):
        match_rows(TABLE, "getenv('HOME') IS NOT NULL")


def test_lists_of_every_form_read_the_same(tmp_path: Path) -> None:
    table = pa.table({"pair_id": ["b", "a", "b"], "rank": [0, 1, 2]})
    pq.write_table(table, tmp_path / "ids.parquet")
    pq.write_table(pa.table({"name": ["b", "a"]}), tmp_path / "one.parquet")
    (tmp_path / "ids.csv").write_text("rank,pair_id\n0,b\n1,a\n")
    (tmp_path / "ids.txt").write_text("b\n\n a \n")
    for name in ("ids.parquet", "one.parquet", "ids.csv", "ids.txt", "ids.*"):
        assert read_pair_list(str(tmp_path / name), {}).to_pylist() == ["a", "b"]
    assert read_pair_list(("b", "a", "a"), {}).to_pylist() == ["a", "b"]
    assert read_pair_list((), {}).to_pylist() == []


def test_ids_that_are_whole_numbers_are_text(tmp_path: Path) -> None:
    pq.write_table(pa.table({"pair_id": [12, 7]}), tmp_path / "ids.parquet")
    assert read_pair_list(str(tmp_path / "ids.parquet"), {}).to_pylist() == ["12", "7"]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("absent.txt", None, "cannot be read at"),
        ("absent*.txt", None, "nothing matches"),
        ("ids.json", b"[]", "ends in .parquet, .csv, .txt"),
        ("ids.parquet", b"no", "not readable as Parquet"),
        ("ids.csv", b"a,b\n1,2\n", "must have a column pair_id or a single column, but has a, b"),
    ],
)
def test_an_unreadable_list_is_named(tmp_path: Path, name: str, content: bytes | None, words: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=words):
        read_pair_list(str(tmp_path / name), {})


def test_unknown_ids_are_counted_and_the_first_is_named() -> None:
    ids = pa.chunked_array([["a", "b"], ["c", "d"]])
    np.testing.assert_array_equal(find_listed_rows("labelled", pa.array(["b", "d"]), ids), [1, 3])
    with pytest.raises(DataError, match=r"selection.labelled must list pairs of the pool, but 2 of 3 ids .* first 'x'"):
        find_listed_rows("labelled", pa.array(["b", "x", "y"]), ids)


def test_the_hash_is_of_the_content_whatever_its_order_and_form() -> None:
    first, second = read_pair_list(("b", "a"), {}), read_pair_list(("a", "b", "b"), {})
    assert hash_pair_list(first) == hash_pair_list(second) != hash_pair_list(read_pair_list(("a", "c"), {}))
