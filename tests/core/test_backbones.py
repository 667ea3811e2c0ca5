"""The embedded backbones keep one contract, and a name is judged before anything is loaded."""

import time
from pathlib import Path

import numpy as np
import pytest
import torch

from mmcsal_core.backbones.backbone import Backbone, Batch
from mmcsal_core.backbones.loading import load_backbone
from mmcsal_core.backbones.log_mel import LogMel, build_mel_filters
from mmcsal_core.backbones.names import check_backbone, parse_hugging_face, parse_open_clip
from mmcsal_core.corpus.decode import decoded_shape
from mmcsal_core.corpus.modality import DEFAULT_BACKBONES, Kind, ModalityConfig
from mmcsal_core.errors import ConfigError

SENTENCES = ["a red apple", "a green pear on a table", "dog", "the quick brown fox jumps", "grüne Äpfel"]

CASES: list[tuple[str, Kind, int]] = [
    ("efficientnet-lite0", "image", 1280),
    ("efficientnet-lite0", "video", 1280),
    ("wordllama", "text", 256),
    ("minilm-onnx", "text", 384),
    ("logmel", "audio", 192),
    ("precomputed", "vector", 7),
]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def modality_of(kind: Kind) -> ModalityConfig:
    return ModalityConfig(kind=kind, image_size=64, num_frames=2, window_s=0.5)


def make_batch(kind: Kind) -> Batch:
    rng = np.random.default_rng(0)
    if kind == "text":
        return SENTENCES
    shape = (len(SENTENCES), *decoded_shape(modality_of(kind), 7))
    if kind in ("image", "video"):
        return rng.integers(0, 255, shape, dtype=np.uint8)
    return rng.normal(0, 0.1, shape).astype(np.float32)


def load(name: str, kind: Kind) -> Backbone:
    return load_backbone(name, modality_of(kind), vector_dim=7)


@pytest.mark.parametrize(("name", "kind", "dim"), CASES)
def test_backbone_contract(name: str, kind: Kind, dim: int) -> None:
    backbone, batch = load(name, kind), make_batch(kind)
    if isinstance(batch, np.ndarray):
        batch.setflags(write=False)  # as Ray and Arrow hand them over
    vectors = backbone.embed(batch)
    assert backbone.dim == dim
    assert vectors.shape == (len(batch), dim)
    assert vectors.dtype == np.float32
    assert np.isfinite(vectors).all()
    assert vectors.any(axis=1).all()
    assert np.array_equal(vectors, backbone.embed(batch))
    assert np.array_equal(vectors, load(name, kind).embed(batch))
    alone = np.concatenate([backbone.embed(batch[i : i + 1]) for i in range(len(batch))])
    assert np.abs(alone - vectors).max() < 1e-3 * np.abs(vectors).max()
    assert np.abs(np.corrcoef(vectors) - np.eye(len(vectors))).max() < 1 - 1e-4


@pytest.mark.parametrize(("name", "kind"), [("wordllama", "text"), ("minilm-onnx", "text"), ("logmel", "audio")])
def test_a_pair_does_not_depend_on_its_batch(name: str, kind: Kind) -> None:
    backbone, batch = load(name, kind), make_batch(kind)
    assert np.array_equal(backbone.embed(batch)[2:3], backbone.embed(batch[2:3]))


@pytest.mark.parametrize("name", ["wordllama", "minilm-onnx"])
def test_text_backbones_know_meaning(name: str) -> None:
    texts = ["a photo of a dog", "a picture of a puppy", "quarterly tax report"]
    vectors = load(name, "text").embed(texts)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    assert unit[0] @ unit[1] > unit[0] @ unit[2] + 0.2


def test_efficientnet_knows_a_daisy_like_flower() -> None:
    from sklearn.datasets import load_sample_image

    flower, temple = (np.asarray(load_sample_image(name)[:384, :384][::6, ::6]) for name in ("flower.jpg", "china.jpg"))
    rolled = np.roll(flower, 4, axis=1)
    vectors = load("efficientnet-lite0", "image").embed(np.stack([flower, rolled, temple]))
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    assert unit[0] @ unit[1] > unit[0] @ unit[2] + 0.2


def test_video_is_the_mean_of_its_frames() -> None:
    videos = make_batch("video")
    assert isinstance(videos, np.ndarray)
    frames = load("efficientnet-lite0", "image").embed(videos.reshape(-1, 64, 64, 3))
    assert np.allclose(load("efficientnet-lite0", "video").embed(videos), frames.reshape(5, 2, -1).mean(1), atol=1e-4)


def test_log_mel_hears_pitch_and_forgets_padding() -> None:
    backbone = LogMel(16_000)
    seconds = np.arange(16_000) / 16_000
    clips = np.stack([np.sin(2 * np.pi * pitch * seconds) for pitch in (200, 2_000)]).astype(np.float32)
    bands = backbone.embed(clips)[:, :64]
    peaks = bands.argmax(axis=1)
    filters = build_mel_filters(64, 1_024, 16_000)
    assert [int(filters[:, round(pitch * 1_024 / 16_000)].argmax()) for pitch in (200, 2_000)] == peaks.tolist()
    padded = np.pad(clips, ((0, 0), (0, 32_000)))
    assert np.array_equal(backbone.embed(padded), backbone.embed(clips))


@pytest.mark.parametrize("num_samples", [1, 100, 4_000])
def test_log_mel_takes_silence_and_very_short_clips(num_samples: int) -> None:
    vectors = LogMel(16_000).embed(np.zeros((2, num_samples), dtype=np.float32))
    assert vectors.shape == (2, 192)
    assert np.isfinite(vectors).all()


def test_mel_filters_cover_the_spectrum() -> None:
    filters = build_mel_filters(64, 1_024, 16_000)
    assert filters.shape == (64, 513)
    assert (filters.max(axis=1) > 0.2).all()


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("efficientnet-lite", "image", "did you mean 'efficientnet-lite0'"),
        ("resnet", "image", "use one of efficientnet-lite0"),
        ("wordllama", "image", "reads text, got a modality of kind 'image'; use efficientnet-lite0 or hf:"),
        ("logmel", "vector", "use precomputed"),
        ("open_clip:ViT-B-32/openai", "audio", "reads image or text or video"),
        ("hf:", "image", "name a model or a folder"),
        ("hf:@main", "image", "name a model or a folder"),
        ("hf:/no/such/folder", "text", "existing folder, got '/no/such/folder'"),
        ("hf:a/b/c", "text", "existing folder"),
    ],
)
def test_a_wrong_name_is_refused(name: str, kind: Kind, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_backbone(name, kind)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"must hold config\.json"):
        check_backbone(f"hf:{tmp_path}", "text")


def test_every_default_backbone_passes_quickly() -> None:
    start = time.perf_counter()
    for kind, name in DEFAULT_BACKBONES.items():
        if kind != "video":
            check_backbone(name, kind)
    assert time.perf_counter() - start < 1.0


def test_a_hub_name_is_split_at_its_revision(tmp_path: Path) -> None:
    odd = tmp_path / "a@b"
    odd.mkdir()
    assert parse_hugging_face("hf:owner/name").revision is None
    assert parse_hugging_face("hf:owner/name@v1").revision == "v1"
    assert parse_hugging_face(f"hf:{odd}").name == str(odd)


def test_an_open_clip_name_has_two_parts(tmp_path: Path) -> None:
    assert parse_open_clip("open_clip:ViT-B-32/openai") == ("ViT-B-32", "openai")
    weights = tmp_path / "weights.safetensors"
    weights.touch()
    assert parse_open_clip(f"open_clip:ViT-B-32/{weights}") == ("ViT-B-32", str(weights))
    for name in ("open_clip:ViT-B-32", "open_clip:/tag", f"open_clip:ViT-B-32/{tmp_path}/none.pt"):
        with pytest.raises(ConfigError):
            parse_open_clip(name)


def test_precomputed_needs_the_length_of_its_vectors() -> None:
    with pytest.raises(ConfigError, match="pass vector_dim"):
        load_backbone("precomputed", ModalityConfig(kind="vector"))
