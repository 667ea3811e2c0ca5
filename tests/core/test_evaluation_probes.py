"""Probes and scores against scikit-learn and brute force."""

import dataclasses

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.preprocessing import StandardScaler

from mmcsal_core.errors import ConfigError
from mmcsal_core.evaluation import NO_LABEL, EvaluateConfig, LabelledPool, Split, make_splits
from mmcsal_core.evaluation.config import ProbeName
from mmcsal_core.evaluation.probes import open_probes
from mmcsal_core.evaluation.scores import describe_picks, score_predictions
from tests.core.labelled_pools import make_labelled_pool

CONFIG = EvaluateConfig(probes=("features", "linear", "knn"), knn_neighbors=3)


@pytest.fixture(scope="module")
def split() -> Split:
    return make_splits(make_labelled_pool(), EvaluateConfig(), 0)[0]


@pytest.mark.parametrize("num_picks", [4, 12, 100])
def test_the_logistic_probe_is_that_of_all_standardised_features(split: Split, num_picks: int) -> None:
    picks = np.random.default_rng(1).permutation(split.pool.num_pairs)[:num_picks]
    labels = split.pool.labels[picks]
    predicted = open_probes(split, CONFIG)["features"](picks, labels)
    scaler = StandardScaler().fit(np.hstack(list(split.pool.features.values())).astype(np.float64))
    pool, test = (scaler.transform(np.hstack(list(part.features.values()))) for part in (split.pool, split.test))
    plain = LogisticRegression(C=1.0, max_iter=5000, tol=1e-8).fit(pool[picks], labels)
    margins = np.sort(plain.predict_proba(test), axis=1)
    is_clear = margins[:, -1] - margins[:, -2] > 1e-3
    assert is_clear.mean() > 0.9
    np.testing.assert_array_equal(predicted[is_clear], plain.predict(test)[is_clear])


def test_the_linear_probe_sees_embeddings(split: Split) -> None:
    other = Split(0, split.pool, split.test)
    shuffled = LabelledPool(
        split.pool.embeddings, {k: x[::-1] for k, x in split.pool.features.items()}, split.pool.labels
    )
    picks = np.arange(0, split.pool.num_pairs, 5)
    labels = split.pool.labels[picks]
    once, again = (
        open_probes(each, CONFIG)["linear"](picks, labels) for each in (other, Split(0, shuffled, split.test))
    )
    np.testing.assert_array_equal(once, again)
    assert (once == split.test.labels).mean() > 0.9


def test_the_nearest_picks_vote_by_one_over_their_distance(split: Split) -> None:
    picks = np.arange(0, split.pool.num_pairs, 4)
    labels = split.pool.labels[picks]
    predicted = open_probes(split, CONFIG)["knn"](picks, labels)
    pool, test = (np.hstack(list(part.embeddings.values())).astype(np.float64) for part in (split.pool, split.test))
    for row, vector in enumerate(test):
        distances = np.linalg.norm(pool[picks] - vector, axis=1)
        nearest = np.argsort(distances)[:3]
        votes = {code: float((1 / distances[nearest])[labels[nearest] == code].sum()) for code in set(labels[nearest])}
        assert votes[predicted[row]] == pytest.approx(max(votes.values()), rel=1e-4)


@pytest.mark.parametrize("probe", ["features", "linear", "knn"])
def test_a_single_class_among_the_picks_names_all(split: Split, probe: ProbeName) -> None:
    picks = np.flatnonzero(split.pool.labels == 2)[:2]
    predicted = open_probes(split, CONFIG)[probe](picks, split.pool.labels[picks])
    assert set(predicted) == {2}
    assert len(predicted) == split.test.num_pairs


@pytest.mark.parametrize("probe", ["features", "linear", "knn"])
def test_one_label_for_each_of_many_classes_is_no_reason_to_warn(probe: ProbeName) -> None:
    pool = make_labelled_pool(80, num_classes=2)
    many = dataclasses.replace(pool, labels=np.arange(80) % 40)
    predicted = open_probes(Split(0, many, many), CONFIG)[probe](np.arange(40), many.labels[:40])
    np.testing.assert_array_equal(predicted[:40], np.arange(40))


def test_a_column_that_is_constant_or_repeated_harms_nothing(split: Split) -> None:
    def widen(pool: LabelledPool) -> LabelledPool:
        image = pool.features["image"]
        constant = np.full((len(image), 2), 7.0, np.float32)
        return LabelledPool(pool.embeddings, {**pool.features, "image": np.hstack([image, constant])}, pool.labels)

    picks = np.arange(0, split.pool.num_pairs, 9)
    labels = split.pool.labels[picks]
    wide = Split(0, widen(split.pool), widen(split.test))
    expected = open_probes(split, CONFIG)["features"](picks, labels)
    np.testing.assert_array_equal(open_probes(wide, CONFIG)["features"](picks, labels), expected)


def test_the_probe_on_features_needs_features(split: Split) -> None:
    bare = LabelledPool(split.pool.embeddings, {}, split.pool.labels)
    with pytest.raises(ConfigError, match="leave it out of probes"):
        open_probes(Split(0, bare, split.test), CONFIG)


def test_balanced_accuracy_is_the_mean_recall_over_the_classes_of_the_test() -> None:
    rng = np.random.default_rng(0)
    truth, predicted = rng.integers(0, 4, 50) * 3, rng.integers(0, 5, 50) * 3
    scores = score_predictions(predicted, truth)
    recalls = [(predicted[truth == code] == code).mean() for code in np.unique(truth)]
    assert scores["balanced_accuracy"] == pytest.approx(np.mean(recalls))
    assert scores["accuracy"] == pytest.approx((predicted == truth).mean())
    in_truth = np.where(np.isin(predicted, truth), predicted, 0)
    scores = score_predictions(in_truth, truth)
    assert scores["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(truth, in_truth))
    assert score_predictions(np.full(50, NO_LABEL), truth) == {"accuracy": 0.0, "balanced_accuracy": 0.0}


def test_picks_without_a_label_count_as_picks_and_teach_no_class() -> None:
    pool = make_labelled_pool()
    labels = np.where(np.arange(pool.num_pairs) % 2 == 0, NO_LABEL, pool.labels)
    half = LabelledPool(pool.embeddings, {}, labels, pool.mispaired)
    facts = describe_picks(half, np.array([0, 1, 2, 3, 14]))
    assert (facts["num_picks"], facts["num_labels"]) == (5, 2)
    assert facts["class_coverage"] == len({labels[1], labels[3]}) / len(set(labels) - {NO_LABEL})
    assert facts["mispaired_share"] == 2 / 5
    assert describe_picks(LabelledPool(pool.embeddings, {}, labels), np.array([0]))["mispaired_share"] is None
