"""The `open_clip:` loading code, on a tiny model with random weights: `make test-hub` runs it where torchvision is."""

import json
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch

from mmcsal_core.backbones.loading import load_backbone
from mmcsal_core.corpus.modality import Kind, ModalityConfig
from mmcsal_core.errors import ConfigError
from tests.harmful_pickle import Payload

pytestmark = pytest.mark.hub

ARCHITECTURE = "mmcsal-tiny"
TINY = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "head_width": 32, "patch_size": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}
TEXTS = ["a red apple", "pear", "a green pear on a table, " * 20]


@pytest.fixture(scope="module")
def backbone_name(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("open_clip")
    (folder / f"{ARCHITECTURE}.json").write_text(json.dumps(TINY))
    open_clip.add_model_config(folder)
    torch.manual_seed(0)
    model = open_clip.create_model(ARCHITECTURE)
    torch.save(model.state_dict(), folder / "weights.pt")
    return f"open_clip:{ARCHITECTURE}/{folder}/weights.pt"


def make_batch(kind: Kind) -> "np.ndarray | list[str]":
    shape = {"image": (3, 40, 40, 3), "video": (3, 2, 40, 40, 3), "text": ()}[kind]
    return np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8) if shape else TEXTS


@pytest.mark.parametrize("kind", ["image", "video", "text"])
def test_backbone_contract(backbone_name: str, kind: Kind) -> None:
    modality, batch = ModalityConfig(kind=kind, image_size=40, num_frames=2), make_batch(kind)
    backbone = load_backbone(backbone_name, modality)
    vectors = backbone.embed(batch)
    assert backbone.dim == 8
    assert vectors.shape == (3, 8)
    assert vectors.dtype == np.float32
    assert np.isfinite(vectors).all()
    assert np.array_equal(vectors, load_backbone(backbone_name, modality).embed(batch))
    alone = np.concatenate([backbone.embed(batch[i : i + 1]) for i in range(3)])
    assert np.allclose(alone, vectors, atol=1e-5)
    assert not np.allclose(vectors[0], vectors[1], atol=1e-4)


def test_video_is_the_mean_of_its_frames(backbone_name: str) -> None:
    videos = np.asarray(make_batch("video"))
    frames = load_backbone(backbone_name, ModalityConfig(kind="image")).embed(videos.reshape(-1, 40, 40, 3))
    means = load_backbone(backbone_name, ModalityConfig(kind="video", num_frames=2)).embed(videos)
    assert np.allclose(means, frames.reshape(3, 2, -1).mean(axis=1), atol=1e-5)


@pytest.mark.parametrize("name", ["open_clip:no-such-model/openai", f"open_clip:{ARCHITECTURE}/no-such-tag"])
def test_an_unknown_model_or_tag_is_refused(backbone_name: str, name: str) -> None:
    del backbone_name  # the fixture makes the tiny architecture known
    with pytest.raises(ConfigError, match="must load with open_clip"):
        load_backbone(name, ModalityConfig(kind="image"))


@pytest.mark.parametrize("kept", ["weights", "state_dict"])
def test_weights_that_would_run_code_are_refused_and_run_none(backbone_name: str, tmp_path: Path, kept: str) -> None:
    del backbone_name  # the fixture makes the tiny architecture known
    weights, traces = tmp_path / "weights.pt", tmp_path / "ran"
    torch.save({kept: {"logit_scale": Payload(traces)}}, weights)
    with pytest.raises(ConfigError, match="must load with open_clip") as refused:
        load_backbone(f"open_clip:{ARCHITECTURE}/{weights}", ModalityConfig(kind="image"))
    assert "\n" not in str(refused.value)
    assert not traces.exists()
    torch.load(weights, weights_only=False)
    assert traces.exists()  # so the file is what it is meant to be


def test_weights_of_another_model_are_refused(backbone_name: str, tmp_path: Path) -> None:
    del backbone_name
    torch.save([1.0], tmp_path / "weights.pt")
    with pytest.raises(ConfigError, match="must load with open_clip"):
        load_backbone(f"open_clip:{ARCHITECTURE}/{tmp_path}/weights.pt", ModalityConfig(kind="text"))
