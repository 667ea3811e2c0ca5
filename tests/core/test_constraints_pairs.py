"""Which pairs a selection is about: conditions in SQL and lists of ids."""

from datetime import datetime
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
DATED = TABLE.append_column("taken", pa.array([datetime(2024, 1, day) for day in (1, 2, 3, 4)]))


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
        ("columns(*) IS NOT NULL", "where must be one condition"),
    ],
)
def test_what_is_no_condition_on_a_row_is_refused(condition: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        match_rows(TABLE, condition)


@pytest.mark.parametrize(
    ("condition", "culprit"),
    [
        ("random() < 0.5", "random"),
        ('"random"() < 0.5 AND width > 1', "random"),
        ("width > 1 OR kind = uuid()::VARCHAR", "uuid"),
        ("list_sum(list_transform([width], x -> x * random())) > 1", "random"),
        ("taken < now()", "now"),
        ("taken < today() - INTERVAL 3 DAY", "today"),
        ("taken > CURRENT_DATE", "current_date"),
        ("taken < current_timestamp", "current_timestamp"),
        ("taken < localtimestamp", "localtimestamp"),
        ("taken > pg_conf_load_time()", "pg_conf_load_time"),
        ("age(taken) > INTERVAL 1 YEAR", "age"),
        ("current_setting('threads') > 1", "current_setting"),
        ("width > (SELECT r FROM range(100) s(r) USING SAMPLE 1)", "SAMPLE"),
        ("width > (SELECT max(r) FROM range(100) s(r) TABLESAMPLE 10%)", "SAMPLE"),
    ],
)
def test_a_condition_whose_answer_changes_from_call_to_call_is_refused(condition: str, culprit: str) -> None:
    with pytest.raises(ConfigError, match=rf"where must give the same answer at every call, .* uses {culprit};"):
        match_rows(DATED, condition)


@pytest.mark.parametrize(
    "condition",
    [
        "kind = 'random() < now()'",
        "random > 3 OR current_timestamp = 1",
        "age(taken, DATE '2020-01-01') > INTERVAL 1 DAY",
        "hash(kind) % 2 = 0 OR md5(kind) < '8' OR user = 'somebody'",
        "width > (SELECT max(r) FROM range(100) s(r))  -- random()",
        "if(width > 1, list_any_value([width]) IS NULL, split_part(kind, 'a', 1) = 'c')",
    ],
)
def test_columns_and_texts_that_are_named_like_such_functions_are_no_functions(condition: str) -> None:
    table = DATED.append_column("random", pa.array([1, 2, 3, 4])).append_column("current_timestamp", pa.array([1] * 4))
    assert len(match_rows(table, condition)) == 4


def test_columns_of_types_that_duckdb_lacks_stand_in_no_way_of_a_condition() -> None:
    half = pa.array(np.array([0.5, 1.5, 2.5, np.nan], np.float16))
    huge = pa.array([1, 2, 3, None]).cast(pa.decimal256(50, 2))
    table = TABLE.append_column("half", half).append_column("huge", huge)
    table = table.append_column("halves", pa.ListArray.from_arrays([0, 1, 2, 3, 4], half))
    assert match_rows(table, "width > 200").tolist() == [False, True, False, True]
    assert match_rows(table, "half < 2").tolist() == [True, True, False, False]
    words = r"the columns are kind, width, two words, half; of types that DuckDB does not read: huge .*256.*, halves "
    for condition in ("huge > 1", "halves IS NULL"):
        with pytest.raises(ConfigError, match=words):
            match_rows(table, condition)


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
    pq.write_table(pa.table({"pair_id": ["b", "a"]}), tmp_path / "one.parquet")
    (tmp_path / "ids.csv").write_text("rank,pair_id\n0,b\n1,a\n")
    (tmp_path / "ids.txt").write_text("b\n\n a \n")
    (tmp_path / "mark.txt").write_text("b\na\n", encoding="utf-8-sig")
    for name in ("ids.parquet", "one.parquet", "ids.csv", "ids.txt", "mark.txt", "ids.*"):
        assert read_pair_list(str(tmp_path / name), {}).to_pylist() == ["a", "b"]
    assert read_pair_list(("b", "a", "a"), {}).to_pylist() == ["a", "b"]
    pq.write_table(pa.table({"pair_id": pa.array([], pa.null())}), tmp_path / "none.parquet")
    (tmp_path / "none.csv").write_text("pair_id\n")
    for listed in ((), str(tmp_path / "none.parquet"), str(tmp_path / "none.csv")):
        assert read_pair_list(listed, {}).to_pylist() == []


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
        ("ids.csv", b"a,b\n1,2\n", "must have a column pair_id, but has a, b; .* in CSV by a header, or write a .txt"),
        ("ids.csv", b"a\nb\nc\n", "must have a column pair_id, but has a; "),
    ],
)
def test_an_unreadable_list_is_named(tmp_path: Path, name: str, content: bytes | None, words: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=words):
        read_pair_list(str(tmp_path / name), {})


def test_a_single_column_of_another_name_is_not_taken_for_ids(tmp_path: Path) -> None:
    pq.write_table(pa.table({"label": ["cat", "dog"]}), tmp_path / "labels.parquet")
    with pytest.raises(DataError, match=r"labels\.parquet must have a column pair_id, but has label"):
        read_pair_list(str(tmp_path / "labels.parquet"), {})


@pytest.mark.parametrize(
    ("column", "words"),
    [
        (pa.array(["a", None, None]), r"every row must have a pair_id, but 2 of 3 have none; drop these rows"),
        (pa.array([None, None]), r"but 2 of 2 have none"),
        (pa.array([1e6, 1.5]), r"pair ids are text or whole numbers, got double"),
    ],
)
def test_a_column_that_is_not_all_ids_is_refused(tmp_path: Path, column: pa.Array, words: str) -> None:
    pq.write_table(pa.table({"pair_id": column}), tmp_path / "ids.parquet")
    with pytest.raises(DataError, match=words):
        read_pair_list(str(tmp_path / "ids.parquet"), {})


def test_unknown_ids_are_counted_and_the_first_is_named() -> None:
    ids = pa.chunked_array([["a", "b"], ["c", "d"]])
    np.testing.assert_array_equal(find_listed_rows("labelled", pa.array(["b", "d"]), ids), [1, 3])
    with pytest.raises(DataError, match=r"selection.labelled must list pairs of the pool, but 2 of 3 ids .* first 'x'"):
        find_listed_rows("labelled", pa.array(["b", "x", "y"]), ids)


def test_the_hash_is_of_the_content_whatever_its_order_and_form() -> None:
    first, second = read_pair_list(("b", "a"), {}), read_pair_list(("a", "b", "b"), {})
    assert hash_pair_list(first) == hash_pair_list(second) != hash_pair_list(read_pair_list(("a", "c"), {}))


def test_times_are_those_of_utc_wherever_the_machine_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "America/New_York")
    new_year = pa.table({"t": pa.array([datetime(2024, 1, 1)], pa.timestamp("us", "UTC"))})
    assert match_rows(new_year, "t >= '2024-01-01'").tolist() == [True]
