"""Labels and splits: every class is in the pool, nothing is in both, and nothing without a label is tested on."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmcsal_core.errors import DataError, GateError
from mmcsal_core.evaluation import NO_LABEL, EvaluateConfig, LabelledPool, encode_labels, make_splits, split_pool
from mmcsal_core.neighbors.vectors import Rows
from tests.core.labelled_pools import make_labelled_pool


@given(
    st.lists(st.integers(NO_LABEL, 4), min_size=4, max_size=60),
    st.floats(0.05, 0.95),
    st.integers(0, 5),
)
def test_a_split_is_stratified(codes: list[int], fraction: float, seed: int) -> None:
    labels = np.array([*codes, 0, 0, 1])
    for pool, test in split_pool(labels, 3, fraction, seed):
        assert sorted([*pool, *test]) == list(range(len(labels)))
        assert NO_LABEL not in labels[test]
        for code in set(codes) - {NO_LABEL} | {0, 1}:
            num_all, num_test = int((labels == code).sum()), int((labels[test] == code).sum())
            assert num_test == (0 if num_all == 1 else min(max(1, round(fraction * num_all)), num_all - 1))


def test_splits_differ_from_each_other_and_not_from_call_to_call() -> None:
    labels = make_labelled_pool().labels
    first, again = (split_pool(labels, 4, 0.3, 5) for _ in range(2))
    assert [pool.tolist() for pool, _ in first] == [pool.tolist() for pool, _ in again]
    assert len({tuple(pool) for pool, _ in first}) == 4
    assert split_pool(labels, 2, 0.3, 5)[1][1].tolist() == first[1][1].tolist()


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (np.zeros(9, np.int64), "two classes or more, got 1 in 9 pairs"),
        (np.full(9, NO_LABEL), "two classes or more, got 0"),
        (np.arange(9), "a class with two pairs"),
    ],
)
def test_labels_that_nothing_can_be_tested_with_are_refused(labels: Rows, words: str) -> None:
    with pytest.raises(GateError, match=words):
        split_pool(labels, 2, 0.3, 0)


def test_classes_become_codes_by_name() -> None:
    codes, names = encode_labels(["pear", None, "apple", "pear"])
    assert codes.tolist() == [1, NO_LABEL, 0, 1]
    assert names == ("apple", "pear")
    assert encode_labels([10, 9, None])[1] == ("10", "9")


def test_a_split_takes_everything_of_a_pair_along() -> None:
    pool = make_labelled_pool()
    split = make_splits(pool, EvaluateConfig(), 0)[0]
    rows = split_pool(pool.labels, 5, 0.3, 0)[0][1]
    assert split.test.num_pairs + split.pool.num_pairs == pool.num_pairs
    np.testing.assert_array_equal(split.test.embeddings["text"], pool.embeddings["text"][rows])
    np.testing.assert_array_equal(split.test.features["image"], pool.features["image"][rows])
    assert split.test.mispaired is not None
    np.testing.assert_array_equal(split.test.mispaired, rows % 7 == 0)


def test_labels_are_codes_of_the_same_pairs() -> None:
    pool = make_labelled_pool()
    with pytest.raises(DataError, match="encode them with encode_labels"):
        LabelledPool(pool.embeddings, pool.features, np.array(["a"] * pool.num_pairs))
    with pytest.raises(DataError, match=r"\[240\] rows and 239 labels"):
        LabelledPool(pool.embeddings, pool.features, pool.labels[1:])
