"""Modalities whose halves do not find each other are named, and no others."""

from typing import Any

import numpy as np
import pytest

from mmcsal_core.metrics import Vectors, diagnose_embeddings
from mmcsal_core.pair_agreement import Unrelated, list_unrelated


def _embed(num_pairs: int, noise: float, seed: int = 0) -> dict[str, Vectors]:
    """Return three modalities: two of one meaning, and one of another."""
    rng = np.random.default_rng(seed)
    shared, other = (rng.normal(size=(num_pairs, 16)) for _ in range(2))
    vectors = {"image": shared, "text": shared + noise * rng.normal(size=(num_pairs, 16)), "audio": other}
    return {name: np.float32(x / np.linalg.norm(x, axis=1, keepdims=True)) for name, x in vectors.items()}


def _make_metrics(embeddings: dict[str, Vectors], measured_on: str = "held-back pairs") -> dict[str, Any]:
    return {"after": diagnose_embeddings(embeddings, 0), "measured_on": measured_on}


@pytest.mark.parametrize("seed", range(5))
def test_a_modality_that_says_nothing_of_the_others_is_named_with_each(seed: int) -> None:
    found = list_unrelated(_make_metrics(_embed(300, 3.0, seed)))
    assert [couple.modalities for couple in found] == [("image", "audio"), ("text", "audio")]
    assert all(couple.num_pairs == 300 and 3 <= couple.found <= 20 for couple in found)


def test_pairs_joined_one_row_off_do_not_find_each_other() -> None:
    embeddings = _embed(300, 0.1)
    pairs = {"image": embeddings["image"], "text": embeddings["text"]}
    assert list_unrelated(_make_metrics(pairs)) == []
    (found,) = list_unrelated(_make_metrics({**pairs, "text": np.roll(pairs["text"], 1, axis=0)}))
    assert found.modalities == ("image", "text")


@pytest.mark.parametrize(("hits", "is_named"), [(21, True), (22, False)])
def test_one_way_must_find_more_partners_than_chance_once_in_a_thousand(hits: int, is_named: bool) -> None:
    retrieval = {"image->text": {"r@10": hits / 200}, "text->image": {"r@10": 0.0}}
    after = {"num_pairs": 200, "uniformity": {"image": 0.0, "text": 0.0}, "retrieval": retrieval}
    expected = [Unrelated(("image", "text"), hits, 200)] if is_named else []
    assert list_unrelated({"after": after, "measured_on": "held-back pairs"}) == expected


def test_few_pairs_and_pairs_that_were_learned_are_not_judged() -> None:
    assert list_unrelated(_make_metrics(_embed(99, 3.0))) == []
    assert list_unrelated(_make_metrics(_embed(300, 3.0), "training pairs")) == []


def test_the_message_says_what_was_found_and_what_to_do() -> None:
    assert Unrelated(("image", "text"), 7, 200).describe() == (
        "image and text must agree better than pairs put together at random, but of 200 held-back pairs 7 find their "
        "partner among the 10 nearest, and chance alone finds about 10; check how the pairs were joined, and if one of "
        "the two says nothing of the other, give it less in selection.modality_weights (0 leaves it out)"
    )
