"""Out-of-fold alignment: by an encoder that has not seen the pair, once a pair, and a better witness than in-sample."""

from itertools import combinations

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from mmcsal_core.encoder import EncoderConfig, fit_encoder
from mmcsal_core.encoder.feature_rows import Vectors
from mmcsal_core.encoder.out_of_fold import (
    check_fold_sizes,
    configure_fold,
    count_fold_epochs,
    draw_fold_seed,
    has_folds,
    list_folds,
    measure_out_of_fold,
)
from mmcsal_core.errors import ConfigError
from tests.core.test_encoder import SMALL, make_features

CONFIG = SMALL.model_copy(update={"out_of_fold_epochs": 4, "learning_rate": 3e-3})


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def score_plainly(features: dict[str, Vectors], config: EncoderConfig, seed: int) -> Vectors:
    """Copy the other folds, fit an encoder in process, embed the fold, and take the cosines."""
    scores = np.full(len(features["image"]), np.nan, np.float32)
    for number, held_out in enumerate(list_folds(len(scores), config, seed)):
        rest = {name: np.delete(vectors, held_out, axis=0) for name, vectors in features.items()}
        fold = configure_fold(config, len(scores) - len(held_out))
        encoder = fit_encoder(rest, config=fold, seed=draw_fold_seed(seed, number))
        embedded = encoder.embed({name: vectors[held_out] for name, vectors in features.items()}).values()
        scores[held_out] = np.mean([(a * b).sum(axis=1) for a, b in combinations(embedded, 2)], axis=0)
    return scores


@pytest.mark.parametrize("names", [("image", "text"), ("image", "text", "audio")])
def test_scores_are_those_of_encoders_fitted_to_copies_of_the_other_folds(names: tuple[str, ...]) -> None:
    features = make_features(90, names=names)
    scores = measure_out_of_fold(features, CONFIG, seed=3)
    assert scores.dtype == np.float32
    assert np.allclose(scores, score_plainly(features, CONFIG, seed=3), atol=1e-6)
    assert scores.tobytes() == measure_out_of_fold(features, CONFIG, seed=3).tobytes()
    assert scores.tobytes() != measure_out_of_fold(features, CONFIG, seed=4).tobytes()


def test_every_pair_is_in_one_fold_and_folds_are_equal_in_size_up_to_one() -> None:
    folds = list_folds(100, CONFIG, seed=1)
    assert np.array_equal(np.sort(np.concatenate(folds)), np.arange(100))
    assert sorted(len(rows) for rows in folds) == [33, 33, 34]
    assert len(list_folds(100, CONFIG.model_copy(update={"out_of_fold_folds": 7}), seed=1)) == 7


def test_a_pair_changes_no_score_of_its_own_fold_but_its_own() -> None:
    features = make_features(60)
    before = measure_out_of_fold(features, CONFIG, seed=0)
    held_out = list_folds(60, CONFIG, seed=0)[1]
    features["text"][held_out[0]] = features["text"][held_out[1]]
    after = measure_out_of_fold(features, CONFIG, seed=0)
    assert np.array_equal(np.flatnonzero(before[held_out] != after[held_out]), [0])


def test_mispaired_pairs_are_found_better_than_by_an_encoder_that_has_learned_them_by_heart() -> None:
    features, rng = make_features(300), np.random.default_rng(5)
    mispaired = np.zeros(300, bool)
    mispaired[rng.choice(300, 45, replace=False)] = True
    features["text"][mispaired] = np.roll(features["text"][mispaired], 1, axis=0)
    by_heart = {"hidden_width": 256, "dim": 64, "epochs": 20, "out_of_fold_epochs": 20, "dropout": 0.0, "noise": 0.0}
    config = CONFIG.model_copy(update={"held_back_fraction": 0.0, **by_heart})
    embedded = fit_encoder(features, config=config, seed=0).embed(features)
    in_sample = (embedded["image"] * embedded["text"]).sum(axis=1)
    found = roc_auc_score(mispaired, -measure_out_of_fold(features, config, seed=0))
    assert found > roc_auc_score(mispaired, -in_sample) + 0.02
    assert found > 0.95


def test_fewer_pairs_than_the_folds_need_are_refused() -> None:
    assert not has_folds(5, CONFIG)
    assert has_folds(6, CONFIG)
    assert not has_folds(100, CONFIG.model_copy(update={"out_of_fold_folds": 0}))
    with pytest.raises(ConfigError, match="4 pairs outside each, got out_of_fold_folds 3 for 5 pairs"):
        list_folds(5, CONFIG, seed=0)
    check_fold_sizes(40, CONFIG, num_workers=26)
    with pytest.raises(ConfigError, match="got 27 workers for batches of 26 pairs"):
        check_fold_sizes(40, CONFIG, num_workers=27)


def test_a_fold_has_no_more_prototypes_or_epochs_than_fit_it() -> None:
    config = EncoderConfig(num_prototypes=20, epochs=6, out_of_fold_epochs=9, early_stop_patience=2)
    fold = configure_fold(config, 270)
    assert (fold.num_prototypes, fold.epochs, fold.early_stop_patience, fold.held_back_fraction) == (13, 6, None, 0)
    assert configure_fold(config, 4000).num_prototypes == 20


@pytest.mark.parametrize(("num_pairs", "expected"), [(1333, 30), (26_000, 10), (67_000, 4), (10_000_000, 3)])
def test_large_pools_need_fewer_epochs(num_pairs: int, expected: int) -> None:
    assert count_fold_epochs(num_pairs, EncoderConfig()) == expected
    assert count_fold_epochs(num_pairs, EncoderConfig(epochs=2)) == 2
    assert count_fold_epochs(num_pairs, EncoderConfig(out_of_fold_epochs=7)) == 7


def test_one_fold_is_refused() -> None:
    with pytest.raises(ValueError, match="out_of_fold_folds must be 0 or at least 2, got 1"):
        EncoderConfig(out_of_fold_folds=1)
    with pytest.raises(ValueError, match=r"robust_fraction needs out-of-fold scores, got 0\.1"):
        EncoderConfig(out_of_fold_folds=0, robust_fraction=0.1)
