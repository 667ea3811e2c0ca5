import hashlib

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from mmcsal_core.corpus.pair_id import build_pair_ids, cast_pair_ids, find_duplicate_rows, hash_pair_id, hash_pair_ids


def test_id_is_what_the_documentation_says() -> None:
    expected = hashlib.sha256(b"2024/a.parquet\n17").hexdigest()[:32]
    assert hash_pair_id("2024/a.parquet", "17") == expected
    assert build_pair_ids(["2024/a.parquet"], ["17"]).to_pylist() == [expected]


def test_places_give_distinct_ids() -> None:
    places = [("a", "1"), ("a", "11"), ("a1", "1"), ("b", "1")]
    assert len({hash_pair_id(source, key) for source, key in places}) == len(places)


def test_column_ids_stay_as_they_are_but_for_blanks() -> None:
    column = pa.chunked_array([["0012", " x "], [None, "", "  "]])
    assert cast_pair_ids(column).to_pylist() == ["0012", " x ", None, None, None]
    assert cast_pair_ids(pa.chunked_array([pa.array([7, None])])).to_pylist() == ["7", None]
    coded = pa.chunked_array([pa.array(["a", "b", "a"]).dictionary_encode()])
    assert cast_pair_ids(coded).to_pylist() == ["a", "b", "a"]


@given(st.lists(st.one_of(st.none(), st.sampled_from("abcdefg")), max_size=40), st.integers(0, 5))
def test_duplicates_are_all_but_the_first_of_each_id(ids: list[str | None], offset: int) -> None:
    hashes = hash_pair_ids(pa.array(["a"] * offset + ids, pa.string())).slice(offset)
    seen: set[str] = set()
    expected = []
    for row, text in enumerate(ids):
        if text is not None and text in seen:
            expected.append(row)
        seen |= {text} - {None}  # type: ignore[arg-type]
    assert find_duplicate_rows(hashes).tolist() == expected


def test_no_ids_have_no_duplicates() -> None:
    found = find_duplicate_rows(hash_pair_ids(pa.array([], pa.string())))
    assert found.dtype == np.int64
    assert found.size == 0
