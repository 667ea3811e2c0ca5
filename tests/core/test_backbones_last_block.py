"""Backbones that are cut before their last block: the block makes the very vectors, and can be rebuilt and trained."""

import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from mmcsal_core.backbones.hugging_face import check_hugging_face
from mmcsal_core.backbones.last_block import LastBlock, SplitBackbone
from mmcsal_core.backbones.loading import load_backbone, load_split_backbone
from mmcsal_core.backbones.names import check_finetuning
from mmcsal_core.backbones.rebuilding import build_last_block
from mmcsal_core.corpus.modality import Kind, ModalityConfig
from mmcsal_core.errors import ConfigError
from tests.core.tiny_hub_models import TINY, build_bert, build_clip, build_vit, save_image_processor

IMAGE_PX = 64
EFFICIENTNET = "efficientnet-lite0"


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def build_dinov2(folder: Path) -> None:
    config = transformers.Dinov2Config(**{**TINY, "num_hidden_layers": 2}, image_size=32, patch_size=8)
    transformers.Dinov2Model(config).save_pretrained(folder)
    save_image_processor(folder)


def build_siglip(folder: Path) -> None:
    text = {**TINY, "vocab_size": 12, "max_position_embeddings": 8}
    vision = {**TINY, "num_hidden_layers": 2, "image_size": 32, "patch_size": 8}
    transformers.SiglipModel(transformers.SiglipConfig(text_config=text, vision_config=vision)).save_pretrained(folder)
    save_image_processor(folder)


BUILDERS: dict[str, Callable[[Path], None]] = {
    "vit": build_vit,
    "clip": build_clip,
    "dinov2": build_dinov2,
    "siglip": build_siglip,
}


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Names of the backbones that can be cut, models of the hub built with random weights."""
    found, root = {EFFICIENTNET: EFFICIENTNET}, tmp_path_factory.mktemp("models")
    for name, build in BUILDERS.items():
        torch.manual_seed(0)
        build(root / name)
        found[name] = f"hf:{root / name}"
    return found


def split(name: str) -> SplitBackbone:
    return load_split_backbone(ModalityConfig(kind="image", backbone=name, image_size=IMAGE_PX))


def make_images(n: int = 5) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (n, IMAGE_PX, IMAGE_PX, 3), dtype=np.uint8)


def run_block(block: LastBlock, hidden: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return np.asarray(block(torch.from_numpy(hidden)).numpy())


@pytest.mark.parametrize("case", [EFFICIENTNET, *BUILDERS])
def test_the_last_block_makes_the_vectors_of_the_backbone(names: dict[str, str], case: str) -> None:
    backbone, images = split(names[case]), make_images()
    hidden, features = backbone.embed_hidden(images)
    plain = load_backbone(names[case], ModalityConfig(kind="image", image_size=IMAGE_PX))
    assert features.tobytes() == plain.embed(images).tobytes()
    assert hidden.shape == (5, backbone.hidden_dim)
    assert hidden.dtype == np.float32
    assert features.shape == (5, backbone.dim)
    block = backbone.make_last_block()
    assert (block.hidden_dim, block.dim) == (backbone.hidden_dim, backbone.dim)
    found = run_block(block, hidden)
    assert np.abs(found - features).max() < 1e-5 * np.abs(features).max()
    alone = np.concatenate([run_block(block, hidden[row : row + 1]) for row in range(5)])
    assert np.abs(alone - found).max() < 1e-5 * np.abs(found).max(), "a row must not depend on its batch"
    halved = run_block(block, hidden.astype(np.float16).astype(np.float32))
    losses = np.linalg.norm(halved - features, axis=1) / np.linalg.norm(features, axis=1)
    assert 0 < losses.max() < 1e-2


@pytest.mark.parametrize("case", [EFFICIENTNET, *BUILDERS])
def test_a_block_is_rebuilt_from_its_structure_alone(names: dict[str, str], case: str) -> None:
    backbone = split(names[case])
    hidden, block = backbone.embed_hidden(make_images())[0], backbone.make_last_block()
    structure = json.loads(json.dumps(block.structure))
    if structure["backbone"] != EFFICIENTNET:
        structure["backbone"] = "hf:no/such-model"
    again = build_last_block(structure)
    again.load_state_dict(block.state_dict())
    assert run_block(again, hidden).tobytes() == run_block(block, hidden).tobytes()


@pytest.mark.parametrize("case", [EFFICIENTNET, *BUILDERS])
def test_training_moves_the_copy_and_neither_the_backbone_nor_statistics(names: dict[str, str], case: str) -> None:
    backbone, images = split(names[case]), make_images()
    hidden, features = backbone.embed_hidden(images)
    block = backbone.make_last_block()
    block.train()
    assert not any(module.training for module in block.modules())
    buffers = deepcopy(dict(block.named_buffers()))
    optimizer = torch.optim.SGD(block.parameters(), lr=0.1)
    block(torch.from_numpy(hidden)).square().mean().backward()
    assert all(parameter.grad is not None for parameter in block.parameters())
    optimizer.step()
    assert not np.allclose(run_block(block, hidden), features, rtol=1e-3)
    assert all(torch.equal(buffers[name], value) for name, value in block.named_buffers())
    assert backbone.embed(images).tobytes() == features.tobytes()


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (EFFICIENTNET, "video"),
        ("open_clip:ViT-B-32/openai", "image"),
        ("hf:owner/bert", "text"),
        ("minilm-onnx", "text"),
        ("wordllama", "text"),
        ("logmel", "audio"),
        ("precomputed", "vector"),
    ],
)
def test_backbones_that_cannot_be_cut_are_refused(name: str, kind: Kind) -> None:
    with pytest.raises(ConfigError, match=rf"kind 'image' with {EFFICIENTNET} or hf:.* got '{name}' for kind '{kind}'"):
        check_finetuning(name, kind)


def test_a_model_of_another_type_is_refused(tmp_path: Path) -> None:
    build_bert(tmp_path)
    check_hugging_face(f"hf:{tmp_path}", ModalityConfig(kind="image"))
    with pytest.raises(ConfigError, match=r"of type vit, dinov2, clip, siglip, but 'hf:.*' is of type 'bert'"):
        check_hugging_face(f"hf:{tmp_path}", ModalityConfig(kind="image", finetune_last_block=True))
