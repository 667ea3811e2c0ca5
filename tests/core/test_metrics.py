"""The measures against brute force, and against embeddings whose values are known."""

import json

import numpy as np
import numpy.typing as npt
import pytest

from mmcsal_core import metrics
from mmcsal_core.errors import DataError
from mmcsal_core.reporting.page import MEASURES

Vectors = npt.NDArray[np.float32]


def make_units(num_rows: int, seed: int, dim: int = 8) -> Vectors:
    vectors = np.random.default_rng(seed).normal(size=(num_rows, dim))
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), dtype=np.float32)


def make_embeddings(num_rows: int = 60) -> dict[str, Vectors]:
    a = make_units(num_rows, 0)
    b = a + 0.5 * make_units(num_rows, 1)
    return {"image": a, "text": (b / np.linalg.norm(b, axis=1, keepdims=True)).astype(np.float32)}


def plain_similarity(embeddings: dict[str, Vectors], i: int, j: int) -> float:
    return float(np.mean([vectors[i].astype(float) @ vectors[j] for vectors in embeddings.values()]))


def plain_distance(embeddings: dict[str, Vectors], i: int, j: int) -> float:
    return float(np.sqrt(np.mean([np.sum((v[i].astype(float) - v[j]) ** 2) for v in embeddings.values()])))


@pytest.fixture(params=[7, 1024])
def block_rows(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "BLOCK_ROWS", request.param)


@pytest.mark.usefixtures("block_rows")
def test_coverage_curve_equals_brute_force() -> None:
    embeddings, picks = make_embeddings(), np.array([5, 40, 17, 3])
    curve = metrics.measure_coverage_curve(embeddings, picks, [4, 1, 2])
    for budget, value in zip([4, 1, 2], curve, strict=True):
        best = [max(plain_similarity(embeddings, i, j) for j in picks[:budget]) for i in range(60)]
        assert value == pytest.approx(np.mean(best), abs=1e-6)


@pytest.mark.usefixtures("block_rows")
def test_covering_radius_equals_brute_force() -> None:
    embeddings, picks = make_embeddings(), np.array([5, 40, 17, 3])
    nearest = [min(plain_distance(embeddings, i, j) for j in picks) for i in range(60)]
    assert metrics.measure_covering_radius(embeddings, picks) == pytest.approx(max(nearest), abs=1e-6)


@pytest.mark.usefixtures("block_rows")
def test_uniformity_equals_brute_force() -> None:
    vectors = make_units(40, 3)
    terms = [np.exp(-2 * np.sum((vectors[i] - vectors[j]) ** 2)) for i in range(40) for j in range(40) if i != j]
    assert metrics.measure_uniformity(vectors) == pytest.approx(np.log(np.mean(terms)), abs=1e-5)


@pytest.mark.usefixtures("block_rows")
def test_retrieval_equals_brute_force() -> None:
    embeddings = make_embeddings()
    a, b = embeddings["image"], embeddings["text"]
    cosines = a.astype(float) @ b.T
    ranks = [sorted(cosines[i], reverse=True).index(cosines[i, i]) for i in range(60)]
    found = metrics.measure_retrieval(a, b)
    assert found == {f"r@{k}": pytest.approx(np.mean(np.array(ranks) < k)) for k in (1, 5, 10)}


def test_alignment_equals_a_plain_loop() -> None:
    embeddings = make_embeddings()
    a, b = embeddings["image"].astype(float), embeddings["text"].astype(float)
    plain = np.mean([sum(x * y for x, y in zip(a[i], b[i], strict=True)) for i in range(60)])
    assert metrics.measure_alignment(embeddings["image"], embeddings["text"]) == pytest.approx(plain, abs=1e-6)


def test_picking_everything_covers_everything() -> None:
    embeddings = make_embeddings(20)
    assert metrics.measure_coverage_curve(embeddings, np.arange(20), [20])[0] == pytest.approx(1.0, abs=1e-6)
    assert metrics.measure_covering_radius(embeddings, np.arange(20)) == 0.0


def test_a_collapsed_modality_retrieves_nothing_and_has_rank_one() -> None:
    same = np.tile(make_units(1, 0), (30, 1))
    assert metrics.measure_retrieval(same, same)["r@10"] == 0.0
    assert metrics.measure_effective_rank(same) == pytest.approx(1.0)
    assert metrics.measure_uniformity(same) == pytest.approx(0.0, abs=1e-5)


def test_effective_rank_counts_even_directions() -> None:
    axes = np.concatenate([np.eye(8), -np.eye(8)]).astype(np.float32)
    assert metrics.measure_effective_rank(axes) == pytest.approx(8.0)


def test_modality_gap_and_classifier_see_a_shift_and_no_shift() -> None:
    a, b = make_units(150, 0), make_units(150, 1)
    shifted = b + np.float32(3) * np.eye(8, dtype=np.float32)[0]
    shifted /= np.linalg.norm(shifted, axis=1, keepdims=True)
    assert metrics.measure_modality_gap(a, a) == 0.0
    assert metrics.measure_modality_gap(a, -a) == pytest.approx(2 * np.linalg.norm(a.mean(axis=0)), abs=1e-5)
    assert metrics.measure_modality_accuracy(a, shifted, seed=0) > 0.95
    assert metrics.measure_modality_accuracy(a, b, seed=0) == pytest.approx(0.5, abs=0.1)
    assert metrics.measure_modality_accuracy(a, a, seed=0) == pytest.approx(0.5)


def test_cluster_agreement_is_one_for_equal_and_low_for_unrelated_modalities() -> None:
    a, b = make_units(200, 0), make_units(200, 1)
    assert metrics.measure_cluster_agreement(a, a, seed=0) == pytest.approx(1.0)
    assert metrics.measure_cluster_agreement(a, b, seed=0) < 0.5


def test_suspicion_auc_counts_the_pairs_of_pairs_in_the_right_order() -> None:
    rng = np.random.default_rng(0)
    is_mispaired, suspicion = rng.random(50) < 0.3, rng.integers(0, 6, 50) / 5
    wrong, right = suspicion[is_mispaired][:, None], suspicion[~is_mispaired]
    expected = np.mean((wrong > right) + 0.5 * (wrong == right))
    assert metrics.measure_suspicion_auc(suspicion, is_mispaired) == pytest.approx(expected)
    assert metrics.measure_suspicion_auc(-suspicion, is_mispaired) == pytest.approx(1 - expected)


@pytest.mark.parametrize("share", [0, 1])
def test_suspicion_auc_of_one_kind_of_pairs_is_unknown(share: int) -> None:
    assert metrics.measure_suspicion_auc(np.arange(4.0), np.full(4, share, dtype=bool)) is None


def test_diagnoses_are_json_equal_for_equal_seeds_and_all_in_the_report() -> None:
    embeddings = {**make_embeddings(), "audio": make_units(60, 9)}
    found = metrics.diagnose_embeddings(embeddings, seed=4)
    assert json.loads(json.dumps(found)) == found == metrics.diagnose_embeddings(embeddings, seed=4)
    assert found["num_pairs"] == 60
    assert set(found) == {"num_pairs", "centred", *MEASURES}
    assert set(found["centred"]) == set(MEASURES)
    assert set(found["modality_gap"]) == {"image->text", "image->audio", "text->audio"}
    assert set(found["retrieval"]) >= {"image->text", "text->image"}
    assert set(found["effective_rank"]) == {"image", "text", "audio"}


def test_centring_takes_the_means_away_and_keeps_unit_length() -> None:
    a = make_units(80, 0)
    shifted = a + np.float32(2) * np.eye(8, dtype=np.float32)[0]
    shifted /= np.linalg.norm(shifted, axis=1, keepdims=True)
    embeddings = {"image": a, "text": shifted.astype(np.float32)}
    centred = metrics.centre_embeddings(embeddings)
    for name, vectors in embeddings.items():
        plain = vectors - vectors.mean(axis=0)
        np.testing.assert_allclose(centred[name], plain / np.linalg.norm(plain, axis=1, keepdims=True), atol=1e-5)
    found = metrics.diagnose_embeddings(embeddings, seed=1)
    assert found["modality_gap"]["image->text"] > 0.5
    assert found["centred"]["modality_gap"]["image->text"] < 0.2 * found["modality_gap"]["image->text"]
    assert found["centred"]["alignment"]["image->text"] == pytest.approx(
        metrics.measure_alignment(centred["image"], centred["text"])
    )
    same = metrics.centre_embeddings({"image": np.tile(a[:1], (5, 1))})["image"]
    assert not same.any()


def test_diagnoses_of_a_few_pairs_do_not_fail() -> None:
    for num_pairs in (1, 2, 4):
        embeddings = {name: vectors[:num_pairs] for name, vectors in make_embeddings().items()}
        assert metrics.diagnose_embeddings(embeddings, seed=0)["num_pairs"] == num_pairs


@pytest.mark.parametrize("picks", [[], [-1], [60]])
def test_picks_outside_the_pool_are_refused(picks: list[int]) -> None:
    with pytest.raises(DataError, match=r"picks must be rows of the pool, 0 to 59"):
        metrics.measure_covering_radius(make_embeddings(), np.array(picks, dtype=np.int64))


@pytest.mark.parametrize("budget", [0, 3])
def test_budgets_beyond_the_picks_are_refused(budget: int) -> None:
    with pytest.raises(DataError, match="between 1 and the 2 picks"):
        metrics.measure_coverage_curve(make_embeddings(), np.array([1, 2]), [budget])
