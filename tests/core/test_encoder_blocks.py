"""Encoders that train a backbone's last block: where they start, what moves, and that equal inputs give equal bits."""

import json
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt
import pytest
import torch

from mmcsal_core.backbones.last_block import LastBlock
from mmcsal_core.backbones.loading import load_split_backbone
from mmcsal_core.corpus.modality import ModalityConfig
from mmcsal_core.encoder.checkpoint import CARD_FILE, WEIGHTS_FILE, load_encoder, load_fit, save_encoder, save_fit
from mmcsal_core.encoder.encoder_fit import EncoderFit
from mmcsal_core.encoder.fitting import fit_encoder
from mmcsal_core.encoder.out_of_fold import configure_fold, draw_fold_seed, list_folds, measure_out_of_fold
from mmcsal_core.encoder.towers import pack_towers
from mmcsal_core.errors import ArtifactError, ConfigError
from tests.core.test_encoder import SMALL
from tests.core.tiny_hub_models import build_vit

NUM_PAIRS = 60
CONFIG = SMALL.model_copy(update={"epochs": 4, "batch_size": 20, "out_of_fold_epochs": 2, "held_back_fraction": 0.2})

Rows = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Split:
    """Pairs whose images went through a backbone up to its last block: both sides of the block, and the block."""

    hidden: dict[str, Rows]
    features: dict[str, Rows]
    blocks: dict[str, LastBlock]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module", params=["efficientnet-lite0", "vit"])
def split(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Split:
    torch.set_num_threads(1)
    name = request.param
    if name == "vit":
        torch.manual_seed(0)
        folder = tmp_path_factory.mktemp(name)
        build_vit(folder)
        name = f"hf:{folder}"
    return _split(name, 32)


def _split(name: str, image_size: int) -> Split:
    """Cut a backbone, and give its trunk noisy pictures of one colour each, with texts that tell the colour."""
    backbone = load_split_backbone(ModalityConfig(kind="image", backbone=name, image_size=image_size))
    rng = np.random.default_rng(0)
    shape = (NUM_PAIRS, image_size, image_size, 3)
    colours, images = rng.integers(0, 255, (NUM_PAIRS, 1, 1, 3)), rng.integers(0, 64, shape)
    hidden, features = backbone.embed_hidden(np.clip(colours + images, 0, 255).astype(np.uint8))
    text = (colours.reshape(NUM_PAIRS, 3) @ rng.normal(size=(3, 10)) / 99).astype(np.float32)
    blocks = {"image": backbone.make_last_block()}
    return Split({"image": hidden, "text": text}, {"image": features, "text": text}, blocks)


def _raise_small_deviations(fit: EncoderFit, features: Rows) -> None:
    """Bring the deviations of a fit on vectors to a tenth of their root mean square, which a constant one gets."""
    std, rows = fit.towers["image"].std.numpy(), features[fit.train_rows]
    varies = np.ptp(rows, axis=0) > 0
    typical = np.sqrt(np.square(std[varies]).mean())
    std[:] = np.where(varies, np.maximum(std, typical / 10), typical)


def test_an_encoder_starts_where_one_on_the_vectors_does_but_for_what_hardly_varies(split: Split) -> None:
    fit = EncoderFit(split.hidden, CONFIG, seed=3, blocks=split.blocks)
    plain = EncoderFit(split.features, CONFIG, seed=3)
    _raise_small_deviations(plain, split.features["image"])
    with_block, without = fit.to_encoder(), plain.to_encoder()
    assert with_block.feature_dims == without.feature_dims
    found, expected = with_block.embed(split.hidden), without.embed(split.features)
    assert found["text"].tobytes() == expected["text"].tobytes()
    assert np.abs(found["image"] - expected["image"]).max() < 1e-3
    batch, generators = np.arange(20), [torch.Generator().manual_seed(1) for _ in range(2)]
    augmented = fit._augment("image", fit.towers["image"], batch, generators[0])
    assert torch.allclose(augmented, plain._augment("image", plain.towers["image"], batch, generators[1]), atol=0.05)
    assert torch.equal(generators[0].get_state(), generators[1].get_state())


def test_the_last_bits_of_hidden_rows_hardly_count() -> None:
    """At 64 pixels some units fire for one picture or none, and their deviation is next to 0."""
    split = _split("efficientnet-lite0", 64)
    config = CONFIG.model_copy(update={"dropout": 0.0, "noise": 0.0, "lambda_proto": 0.0})
    image = split.hidden["image"]
    errors = 1e-5 * np.random.default_rng(1).standard_normal(image.shape).astype(np.float32)
    fitted = [
        fit_encoder({**split.hidden, "image": rows}, config=config, seed=3, blocks=split.blocks).embed(split.hidden)
        for rows in (image, image * (1 + errors))
    ]
    assert np.einsum("nd,nd->n", *(embeddings["image"] for embeddings in fitted)).min() > 0.999


def test_a_step_moves_the_fits_own_block_by_its_own_rate(split: Split) -> None:
    before = {name: value.clone() for name, value in split.blocks["image"].state_dict().items()}
    fit = EncoderFit(split.hidden, CONFIG, seed=3, blocks=split.blocks)
    fit.run_epoch()
    assert [group["lr"] for group in fit.optimizer.param_groups] == pytest.approx(
        [fit.optimizer.param_groups[0]["lr"] * share for share in (1.0, CONFIG.finetune_rate)]
    )
    block = fit.towers["image"].block
    assert block is not None
    assert not any(module.training for module in block.modules())
    assert all(p.grad is not None and p.grad.abs().max() > 0 for _, p in block.named_parameters() if p.ndim > 1)
    moved = {name for name, value in block.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {name for name, _ in block.named_parameters()}
    assert all(torch.equal(value, before[name]) for name, value in split.blocks["image"].state_dict().items())


def test_a_stored_encoder_gives_equal_embeddings(split: Split) -> None:
    encoder = fit_encoder(split.hidden, config=CONFIG, seed=3, blocks=split.blocks)
    files = save_encoder(encoder)
    loaded = load_encoder(files)
    assert save_encoder(loaded) == files
    embeddings, again = encoder.embed(split.hidden), loaded.embed(split.hidden)
    assert {name: again[name].tobytes() for name in again} == {name: z.tobytes() for name, z in embeddings.items()}
    halves = {name: rows.astype(np.float16) for name, rows in split.hidden.items()}
    cosines = np.einsum("nd,nd->n", encoder.embed(halves)["image"], embeddings["image"])
    assert cosines.min() > 0.999
    card = json.loads(files[CARD_FILE])
    assert list(card["blocks"]) == ["image"]
    assert card["blocks"]["image"] == split.blocks["image"].structure
    assert card["feature_dims"]["image"] == split.features["image"].shape[1]
    plain = save_encoder(fit_encoder(split.features, config=CONFIG))
    assert "blocks" not in json.loads(plain[CARD_FILE])
    damaged = {**card, "blocks": {"image": {"backbone": card["blocks"]["image"]["backbone"]}}}
    for broken in ({**files, WEIGHTS_FILE: plain[WEIGHTS_FILE]}, {**files, CARD_FILE: json.dumps(damaged).encode()}):
        with pytest.raises(ArtifactError, match=r"must hold what encoder\.json says"):
            load_encoder(broken)


def test_a_fit_that_goes_on_from_a_checkpoint_ends_in_equal_bytes(split: Split) -> None:
    config = CONFIG.model_copy(update={"early_stop_patience": 1, "learning_rate": 1e-2})
    first = EncoderFit(split.hidden, config, seed=5, blocks=split.blocks)
    first.run_epoch()
    resumed = EncoderFit(split.hidden, config, seed=5, blocks=split.blocks)
    load_fit(resumed, save_fit(first))
    assert save_fit(resumed) == save_fit(first)
    while not resumed.is_finished:
        resumed.run_epoch()
    whole = fit_encoder(split.hidden, config=config, seed=5, blocks=split.blocks)
    assert save_encoder(resumed.to_encoder()) == save_encoder(whole)
    assert all(torch.equal(resumed.best[name], value) for name, value in pack_towers(whole.towers).items())
    assert any(name.startswith("image.block.") for name in resumed.best)


def test_every_fold_starts_from_the_pretrained_block(split: Split) -> None:
    scores = measure_out_of_fold(split.hidden, CONFIG, 3, split.blocks)
    for number, held_out in enumerate(list_folds(NUM_PAIRS, CONFIG, 3)):
        rest = {name: np.delete(rows, held_out, axis=0) for name, rows in split.hidden.items()}
        fold = configure_fold(CONFIG, NUM_PAIRS - len(held_out))
        encoder = fit_encoder(rest, config=fold, seed=draw_fold_seed(3, number), blocks=split.blocks)
        embedded = encoder.embed({name: rows[held_out] for name, rows in split.hidden.items()}).values()
        cosines = [(a * b).sum(axis=1) for a, b in combinations(embedded, 2)]
        assert np.allclose(scores[held_out], np.mean(cosines, axis=0), atol=1e-6)
    assert not np.allclose(scores, measure_out_of_fold(split.features, CONFIG, 3), atol=1e-3)


def test_rows_that_do_not_fit_the_block_are_refused(split: Split) -> None:
    dim, hidden_dim = split.features["image"].shape[1], split.hidden["image"].shape[1]
    with pytest.raises(ConfigError, match=f"image takes hidden rows of length {hidden_dim}, got {dim}"):
        fit_encoder(split.features, config=CONFIG, blocks=split.blocks)
    with pytest.raises(ConfigError, match="blocks are for image, text, got sound"):
        fit_encoder(split.features, config=CONFIG, blocks={"sound": split.blocks["image"]})
    encoder = EncoderFit(split.hidden, CONFIG, seed=0, blocks=split.blocks).to_encoder()
    with pytest.raises(
        ConfigError, match=rf"takes image hidden rows of shape \(pairs, {hidden_dim}\), got \(60, {dim}\)"
    ):
        encoder.embed(split.features)
