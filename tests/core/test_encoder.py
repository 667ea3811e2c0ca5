"""The encoder: what it learns, what it refuses, and that equal inputs give equal bits."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from mmcsal_core.artifacts import CHUNK_ROWS
from mmcsal_core.encoder.checkpoint import CARD_FILE, WEIGHTS_FILE, load_encoder, load_fit, save_encoder, save_fit
from mmcsal_core.encoder.config import EncoderConfig
from mmcsal_core.encoder.encoder_fit import EncoderFit
from mmcsal_core.encoder.feature_rows import BLOCK_ROWS, Rows, RowSubset
from mmcsal_core.encoder.fitting import fit_encoder
from mmcsal_core.encoder.retrieval import measure_reciprocal_rank
from mmcsal_core.encoder.towers import measure_standardisation, pack_towers
from mmcsal_core.encoder.training_set import check_sizes, list_batches, split_rows
from mmcsal_core.encoder.workers import Workers
from mmcsal_core.errors import ArtifactError, ConfigError, DataError
from mmcsal_core.metrics import diagnose_embeddings
from tests.cuda import needs_cuda

Vectors = npt.NDArray[np.float32]

SMALL = EncoderConfig(dim=16, hidden_width=32, epochs=6, batch_size=64, prototype_refresh_epochs=2)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def make_features(
    num_pairs: int = 300, seed: int = 0, names: tuple[str, ...] = ("image", "text")
) -> dict[str, Vectors]:
    """Views of one planted structure: 12 clusters in 6 shared directions, plus directions that one modality owns."""
    rng = np.random.default_rng(seed)
    shared = 1.5 * rng.normal(size=(12, 6))[rng.integers(12, size=num_pairs)] + rng.normal(size=(num_pairs, 6))
    views = {}
    for number, name in enumerate(names):
        own = rng.normal(size=(num_pairs, 6))
        mixing = rng.normal(size=(12, 40 + 8 * number))
        views[name] = (np.tanh(np.hstack([shared, own]) @ mixing / 4) * 10**number + number).astype(np.float32)
    return views


def test_training_closes_the_gap_and_raises_retrieval_on_held_back_pairs() -> None:
    fit = EncoderFit(make_features(600), SMALL.model_copy(update={"epochs": 20, "learning_rate": 3e-3}), seed=0)
    before = diagnose_embeddings(fit.embed_diagnosed(), 0)
    while not fit.is_finished:
        fit.run_epoch()
    after = diagnose_embeddings(fit.embed_diagnosed(), 0)
    assert before["num_pairs"] == after["num_pairs"] == 60
    assert after["modality_gap"]["image->text"] < 0.5 * before["modality_gap"]["image->text"]
    assert after["modality_accuracy"]["image->text"] < before["modality_accuracy"]["image->text"]
    assert after["retrieval"]["image->text"]["r@5"] > before["retrieval"]["image->text"]["r@5"] + 0.3
    assert min(after["effective_rank"].values()) > 4
    first, last = fit.describe_losses()[0], fit.describe_losses()[-1]
    assert last["info_nce"] is not None
    assert first["info_nce"] is not None
    assert last["info_nce"] < 0.7 * first["info_nce"]
    assert first["proto_nce"] is None
    assert last["proto_nce"] is not None


def measure_first_gradients(proto: float, align: float, uniform: float) -> npt.NDArray[np.float64]:
    """Gradients of all towers in the only step of an epoch, one vector."""
    weights = {"lambda_proto": proto, "lambda_align": align, "lambda_uniform": uniform}
    still = {"epochs": 1, "batch_size": 512, "warmup_fraction": 0.0, "noise": 0.0, "dropout": 0.0}
    fit = EncoderFit(make_features(), SMALL.model_copy(update=still | weights), seed=0)
    fit.run_epoch()
    gradients = [each.grad for tower in fit.towers.values() for each in tower.parameters()]
    return np.concatenate([each.double().numpy().ravel() for each in gradients if each is not None])


def test_every_loss_counts_by_its_weight() -> None:
    alone = measure_first_gradients(0.0, 0.0, 0.0)
    added = [measure_first_gradients(*each) - alone for each in np.eye(3).tolist()]
    expected = alone + 0.3 * added[0] + 0.7 * added[1] + 0.2 * added[2]
    assert min(np.linalg.norm(each) for each in added) > 0.01 * np.linalg.norm(alone)
    np.testing.assert_allclose(measure_first_gradients(0.3, 0.7, 0.2), expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"learn_temperature": True},
        {"prototype_target": "both", "lambda_align": 0.1, "lambda_uniform": 0.1},
        {"lambda_proto": 0.0, "warmup_fraction": 1.0},
        {"early_stop_patience": 1, "learning_rate": 3e-2, "prototype_source": "sinkhorn", "epochs": 20},
    ],
)
@pytest.mark.parametrize("stop", [1, 3])
def test_a_fit_that_goes_on_from_a_checkpoint_ends_in_equal_bytes(change: dict[str, Any], stop: int) -> None:
    config, features = SMALL.model_copy(update=change), make_features(120)
    first = EncoderFit(features, config, seed=5)
    for _ in range(stop):
        first.run_epoch()
    state = save_fit(first)
    resumed = EncoderFit(features, config, seed=5)
    load_fit(resumed, state)
    assert resumed.epoch == stop
    assert save_fit(resumed) == state
    while not resumed.is_finished:
        resumed.run_epoch()
    assert save_encoder(resumed.to_encoder()) == save_encoder(fit_encoder(features, config=config, seed=5))


def test_equal_seeds_give_equal_files_and_other_seeds_others() -> None:
    features = make_features(120)
    first, second, third = (save_encoder(fit_encoder(features, config=SMALL, seed=seed)) for seed in (1, 1, 2))
    assert first == second
    assert first[WEIGHTS_FILE] != third[WEIGHTS_FILE]


def test_a_memory_map_of_features_gives_the_bits_of_an_array_and_is_read_by_blocks(tmp_path: Path) -> None:
    features, mapped = make_features(120), {}
    for name, vectors in features.items():
        mapped[name] = np.memmap(tmp_path / name, np.float32, "w+", shape=vectors.shape)
        mapped[name][:] = vectors
    assert save_encoder(fit_encoder(mapped, config=SMALL)) == save_encoder(fit_encoder(features, config=SMALL))
    asked = list[int]()

    class Watched(RowSubset):
        def __getitem__(self, rows: Rows, /) -> npt.NDArray[Any]:
            asked.append(len(rows))
            return super().__getitem__(rows)

    large = make_features(2 * BLOCK_ROWS)
    watched = {name: Watched(vectors, np.arange(len(vectors))) for name, vectors in large.items()}
    fit = EncoderFit(watched, SMALL.model_copy(update={"epochs": 1, "warmup_fraction": 0.0}), seed=0)
    fit.run_epoch()
    assert max(asked) == BLOCK_ROWS


def test_retrieval_on_held_back_pairs_equals_a_plain_ranking() -> None:
    fit = EncoderFit(make_features(200), SMALL, seed=0)
    fit.run_epoch()
    embedded, inverse = fit.embed_diagnosed(), []
    for a, b in (("image", "text"), ("text", "image")):
        for row, query in enumerate(embedded[a]):
            order = np.argsort(-(embedded[b] @ query), kind="stable").tolist()
            inverse.append(1 / (order.index(row) + 1))
    assert len(inverse) == 40
    assert fit.retrieval == [pytest.approx(np.mean(inverse))]
    assert fit.describe_retrieval() == fit.retrieval
    assert measure_reciprocal_rank({"image": np.eye(3, dtype=np.float32), "text": np.ones((3, 3), np.float32)}) == (
        pytest.approx((1 / 3 + 1 / 3) / 2)
    )


def test_a_fit_stops_once_retrieval_does_not_rise_and_keeps_the_best_state() -> None:
    features = make_features(200)
    config = SMALL.model_copy(update={"epochs": 60, "learning_rate": 3e-2, "early_stop_patience": 3})
    fit, states = EncoderFit(features, config, seed=0), []
    while not fit.is_finished:
        fit.run_epoch()
        states.append(pack_towers(fit.towers))
    assert fit.epoch < 60
    assert fit.epoch == fit.best_epoch + 3
    assert fit.retrieval[fit.best_epoch - 1] == max(fit.retrieval)
    assert measure_reciprocal_rank(fit.embed_diagnosed()) == max(fit.retrieval)
    whole = EncoderFit(features, config.model_copy(update={"early_stop_patience": None}), seed=0)
    for _ in range(fit.best_epoch):
        whole.run_epoch()
    best = pack_towers(whole.towers)
    assert all(torch.equal(states[-1][name], tensor) for name, tensor in best.items())


def test_a_fit_without_held_back_pairs_runs_every_epoch() -> None:
    fit = EncoderFit(make_features(40), SMALL.model_copy(update={"early_stop_patience": 1}), seed=0)
    while not fit.is_finished:
        fit.run_epoch()
    assert (fit.epoch, fit.best_epoch) == (6, 0)
    assert fit.describe_retrieval() == [None] * 6


def test_distrusted_pairs_are_not_pulled_together() -> None:
    features, rng = make_features(400), np.random.default_rng(5)
    mispaired = np.zeros(400, bool)
    mispaired[rng.choice(400, 80, replace=False)] = True
    features["text"][mispaired] = np.roll(features["text"][mispaired], 1, axis=0)
    config = SMALL.model_copy(update={"epochs": 12, "held_back_fraction": 0.0, "out_of_fold_epochs": 5})
    cosines = {}
    for share in (0.0, 0.2):
        changes = {"robust_fraction": share, "learning_rate": 3e-3}
        embedded = fit_encoder(features, config=config.model_copy(update=changes)).embed(features)
        cosines[share] = (embedded["image"] * embedded["text"]).sum(axis=1)
    assert cosines[0.2][mispaired].mean() < cosines[0.0][mispaired].mean() - 0.05
    assert cosines[0.2][~mispaired].mean() > cosines[0.0][~mispaired].mean()


def test_bfloat16_ends_close_to_float32() -> None:
    features = make_features(300)
    config = SMALL.model_copy(update={"epochs": 8, "learning_rate": 3e-3})
    full = fit_encoder(features, config=config).embed(features)
    half = fit_encoder(features, config=config.model_copy(update={"precision": "bfloat16"})).embed(features)
    for name in features:
        assert half[name].dtype == np.float32
        assert np.allclose(np.linalg.norm(half[name], axis=1), 1, atol=1e-5)
        cosines = np.einsum("nd,nd->n", full[name], half[name])
        assert 0.99 < np.mean(cosines) < 1 - 1e-6


def test_a_stored_encoder_gives_equal_embeddings() -> None:
    features = make_features(300)
    encoder = fit_encoder(features, config=SMALL, seed=0)
    files = save_encoder(encoder)
    loaded = load_encoder(files)
    assert save_encoder(loaded) == files
    embeddings, again = encoder.embed(features), loaded.embed(features)
    for name in features:
        assert embeddings[name].dtype == np.float32
        assert embeddings[name].shape == (300, 16)
        assert np.allclose(np.linalg.norm(embeddings[name], axis=1), 1, atol=1e-5)
        assert np.array_equal(embeddings[name], again[name])
        numbers = loaded.assign_prototypes(again)[name]
        assert numbers.dtype == np.int32
        assert np.array_equal(numbers, np.argmax(again[name] @ loaded.prototypes[name].T, axis=1))
    card = json.loads(files[CARD_FILE])
    assert card["modalities"] == ["image", "text"]
    assert card["feature_dims"] == {"image": 40, "text": 48}
    assert card["num_prototypes"] == {"image": 13, "text": 13}


def test_embedding_a_chunk_alone_gives_equal_bits() -> None:
    features = make_features(CHUNK_ROWS + 40)
    encoder = fit_encoder(features, config=SMALL, seed=0)
    whole = encoder.embed(features)
    tail = encoder.embed({name: vectors[CHUNK_ROWS:] for name, vectors in features.items()})
    for name in features:
        assert whole[name][CHUNK_ROWS:].tobytes() == tail[name].tobytes()


def test_three_modalities_of_any_name_are_fitted() -> None:
    features = make_features(100, names=("keys", "type", "audio"))
    encoder = load_encoder(save_encoder(fit_encoder(features, config=SMALL, seed=0)))
    assert encoder.modalities == ("keys", "type", "audio")
    assert {vectors.shape for vectors in encoder.embed(features).values()} == {(100, 16)}


def test_four_pairs_are_enough() -> None:
    features = make_features(4)
    encoder = fit_encoder(features, config=SMALL, seed=0)
    assert encoder.embed(features)["text"].shape == (4, 16)


def test_no_pairs_embed_to_no_rows() -> None:
    encoder = fit_encoder(make_features(40), config=SMALL, seed=0)
    empty = encoder.embed({"image": np.empty((0, 40), np.float32), "text": np.empty((0, 48), np.float32)})
    assert empty["image"].shape == (0, 16)
    assert encoder.assign_prototypes(empty)["image"].shape == (0,)


def test_constant_and_extreme_columns_are_safe() -> None:
    features = make_features(60)
    features["image"][:, 0] = 1e30
    features["image"][:, 1] = 0.1
    features["image"][:, 2] *= 1e-20
    encoder = fit_encoder(features, config=SMALL, seed=0)
    assert np.isfinite(encoder.embed(features)["image"]).all()


def test_standardisation_looks_at_the_given_rows_only() -> None:
    features = make_features(50)["image"]
    rows = np.arange(10, 40)
    mean, std = measure_standardisation(features, rows)
    assert np.allclose(mean, features[rows].mean(axis=0), atol=1e-6)
    assert np.allclose(std, features[rows].std(axis=0), atol=1e-6)


def test_a_column_that_hardly_varies_may_get_a_least_deviation() -> None:
    features = np.tile(np.array([3.0, -3.0], np.float32)[:, None], (10, 4)) * np.array([1, 2, 1e-3, 0], np.float32)
    typical = np.sqrt((9 + 36 + 9e-6) / 3)
    for min_std, expected in ((0.0, (3, 6, 3e-3, 1)), (0.1, (3, 6, 0.1 * typical, typical))):
        _, std = measure_standardisation(features, np.arange(20), min_std)
        assert std == pytest.approx(expected)


def test_an_embedding_without_direction_names_its_pair() -> None:
    features = make_features(40)
    encoder = fit_encoder(features, config=SMALL, seed=0)
    features["text"][7, 3] = np.nan
    with pytest.raises(DataError, match=r"text of pair 'p7' has length nan \(1 such of 40 pairs\)"):
        encoder.embed(features, [f"p{row}" for row in range(40)])
    with pytest.raises(DataError, match="the pair in row 7"):
        encoder.embed(features)


def test_features_of_another_backbone_are_refused() -> None:
    encoder = fit_encoder(make_features(40), config=SMALL, seed=0)
    with pytest.raises(ConfigError, match=r"takes image features of shape \(pairs, 40\), got \(3, 41\)"):
        encoder.embed({"image": np.zeros((3, 41)), "text": np.zeros((3, 48))})
    with pytest.raises(ConfigError, match="got none"):
        encoder.embed({"image": np.zeros((3, 40))})


def test_unusable_training_features_are_refused() -> None:
    features = make_features(40)
    with pytest.raises(ConfigError, match="at least 2 modalities, got 1"):
        fit_encoder({"image": features["image"]}, config=SMALL)
    with pytest.raises(DataError, match="at least 4 pairs, got 3"):
        fit_encoder({name: vectors[:3] for name, vectors in features.items()}, config=SMALL)
    with pytest.raises(DataError, match="one feature vector a pair"):
        fit_encoder({"image": features["image"], "text": features["text"][:30]}, config=SMALL)
    features["image"][11, 0] = np.inf
    with pytest.raises(DataError, match="image has 1 rows that are not, the first is row 11"):
        fit_encoder(features, config=SMALL)


def test_damaged_files_are_refused() -> None:
    files = save_encoder(fit_encoder(make_features(40), config=SMALL, seed=0))
    with pytest.raises(ArtifactError, match=r"encoder\.safetensors is damaged"):
        load_encoder({**files, WEIGHTS_FILE: files[WEIGHTS_FILE][:100]})
    with pytest.raises(ArtifactError, match=r"encoder\.json is missing"):
        load_encoder({WEIGHTS_FILE: files[WEIGHTS_FILE]})
    card = json.loads(files[CARD_FILE])
    with pytest.raises(ArtifactError, match="must be of format 1, got '9'"):
        load_encoder({**files, CARD_FILE: json.dumps({**card, "format": "9"}).encode()})
    others = save_encoder(fit_encoder(make_features(40, names=("speech", "text")), config=SMALL, seed=0))
    with pytest.raises(ArtifactError, match=r"must hold what encoder\.json says"):
        load_encoder({**files, WEIGHTS_FILE: others[WEIGHTS_FILE]})


@pytest.mark.parametrize("change", [{"dim": 64}, {"temperature": 0.0}, {"prototype_target": "none"}, {"unknown": 1}])
def test_configurations_that_break_a_rule_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"dim|temperature|prototype_target|unknown"):
        EncoderConfig.model_validate({**SMALL.model_dump(), **change})


def test_warmup_and_refreshes_follow_the_configuration() -> None:
    config = EncoderConfig(epochs=20, warmup_fraction=0.15, prototype_refresh_epochs=4)
    assert [epoch for epoch in range(20) if config.refreshes_at(epoch)] == [3, 7, 11, 15, 19]
    assert not any(EncoderConfig(lambda_proto=0).refreshes_at(epoch) for epoch in range(30))


def test_held_back_pairs_and_training_pairs_make_the_whole() -> None:
    train, held = split_rows(1903, 0.1, seed=0)
    assert len(held) == 190
    assert np.array_equal(np.sort(np.concatenate([train, held])), np.arange(1903))
    assert len(split_rows(20, 0.1, seed=0)[1]) == 0
    assert len(split_rows(100_000, 0.5, seed=0)[1]) == 2000


def test_every_pair_is_in_one_batch_an_epoch() -> None:
    batches = list_batches(1713, 256, seed=0, epoch=3)
    assert np.array_equal(np.sort(np.concatenate(batches)), np.arange(1713))
    assert {len(batch) for batch in batches} == {244, 245}
    assert not np.array_equal(batches[0], list_batches(1713, 256, seed=0, epoch=4)[0])


def test_slices_of_the_workers_make_the_batch() -> None:
    slices = [Workers(rank, 3).slice_of(10) for rank in range(3)]
    assert [row for part in slices for row in range(part.start, part.stop)] == list(range(10))


def test_more_workers_than_pairs_in_a_batch_are_refused() -> None:
    check_sizes(40, SMALL, 40)
    with pytest.raises(ConfigError, match="got 41 workers for batches of 40 pairs"):
        check_sizes(40, SMALL, 41)
    with pytest.raises(ConfigError, match="num_prototypes"):
        check_sizes(40, SMALL.model_copy(update={"num_prototypes": 3}), 1)


@needs_cuda
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_fit_on_a_gpu_that_was_cut_ends_in_the_same_bits_close_to_those_of_the_cpu(precision: str) -> None:
    changes = {"dropout": 0.0, "noise": 0.0, "epochs": 4, "lambda_uniform": 0.1, "precision": precision}
    features, config = make_features(300), SMALL.model_copy(update=changes)
    whole, first, rest = (EncoderFit(features, config, seed=5, device="cuda") for _ in range(3))
    while not whole.is_finished:
        whole.run_epoch()
    first.run_epoch()
    load_fit(rest, save_fit(first))
    while not rest.is_finished:
        rest.run_epoch()
    assert save_encoder(rest.to_encoder()) == save_encoder(whole.to_encoder())
    on_gpu, on_cpu = whole.to_encoder().embed(features), fit_encoder(features, config=config, seed=5).embed(features)
    for name, vectors in on_cpu.items():
        assert np.einsum("nd,nd->n", vectors, on_gpu[name]).min() > 0.99


@needs_cuda
def test_an_encoder_embeds_on_a_gpu_what_it_embeds_on_the_cpu() -> None:
    features = make_features(300)
    encoder = fit_encoder(features, config=SMALL, seed=5)
    on_cpu = encoder.embed(features)
    encoder.move_to("cuda")
    for name, vectors in encoder.embed(features).items():
        np.testing.assert_allclose(vectors, on_cpu[name], atol=1e-5)
