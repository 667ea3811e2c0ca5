"""The `hf:` loading code, on tiny models with random weights that are saved to a local folder."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soxr
import torch
import transformers
from PIL import Image

from mmcsal_core.backbones.backbone import Backbone, Batch
from mmcsal_core.backbones.hub_model import HubModel, pool_hidden_states
from mmcsal_core.backbones.hugging_face import check_hugging_face
from mmcsal_core.backbones.loading import load_backbone
from mmcsal_core.corpus.decode import decode_content
from mmcsal_core.corpus.modality import Kind, ModalityConfig, resolve_modality
from mmcsal_core.errors import ConfigError
from tests.core.tiny_hub_models import BUILDERS, save_image_processor, save_tokenizer
from tests.encoded_media import encode_film, encode_video
from tests.harmful_pickle import Payload

TEXTS = ["a red apple", "pear", "the green pear on the table a red apple on the table the table the table"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    root = tmp_path_factory.mktemp("models")

    def build(name: str) -> Path:
        folder = root / name
        if not folder.exists():
            torch.manual_seed(0)
            BUILDERS[name](folder)
        return folder

    return build


def load(folder: Path, kind: Kind, **options: Any) -> Backbone:
    torch.set_num_threads(1)
    modality = ModalityConfig(kind=kind, image_size=40, num_frames=2, window_s=2.0, sample_rate=16_000)
    return load_backbone(f"hf:{folder}", modality, **options)


def copy_files(source: Path, target: Path) -> None:
    for file in source.iterdir():
        (target / file.name).write_bytes(file.read_bytes())


def make_images(n: int = 3) -> np.ndarray:
    images = np.random.default_rng(0).integers(0, 255, (n, 40, 40, 3), dtype=np.uint8)
    images.setflags(write=False)
    return images


def make_films() -> np.ndarray:
    return make_images(6).reshape(3, 2, 40, 40, 3)


def make_clips() -> np.ndarray:
    clips = np.random.default_rng(0).normal(0, 0.1, (3, 32_000)).astype(np.float32)
    clips.setflags(write=False)
    return clips


@pytest.mark.parametrize(
    ("name", "kind", "dim"),
    [
        ("clip", "image", 8),
        ("clip", "text", 8),
        ("vit", "image", 16),
        ("bert", "text", 16),
        ("wav2vec2", "audio", 16),
        ("clap", "audio", 8),
        ("ast", "audio", 16),
        ("videomae", "video", 16),
        ("vivit", "video", 16),
        ("timesformer", "video", 16),
        ("xclip", "video", 8),
        ("roberta", "text", 16),
        ("xlnet", "text", 16),
    ],
)
def test_backbone_contract(models: Callable[[str], Path], name: str, kind: Kind, dim: int) -> None:
    backbone = load(models(name), kind)
    batches: dict[str, Batch] = {
        "image": make_images(), "text": TEXTS, "audio": make_clips(), "video": make_films()
    }  # fmt: skip
    batch = batches[kind]
    vectors = backbone.embed(batch)
    assert backbone.dim == dim
    assert vectors.shape == (3, dim)
    assert vectors.dtype == np.float32
    assert np.isfinite(vectors).all()
    assert np.array_equal(vectors, load(models(name), kind).embed(batch))
    alone = np.concatenate([backbone.embed(batch[i : i + 1]) for i in range(3)])
    assert np.allclose(alone, vectors, atol=1e-4), "padding and neighbours must not change a vector"
    assert not np.allclose(vectors[0], vectors[1], atol=1e-4)


def test_clip_image_features_are_those_of_the_projected_tower(models: Callable[[str], Path]) -> None:
    folder, images = models("clip"), make_images()
    model = transformers.CLIPModel.from_pretrained(folder).eval()
    processor = transformers.CLIPImageProcessorPil.from_pretrained(folder)
    pixels = processor([Image.fromarray(image) for image in images], return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        expected = model.visual_projection(model.vision_model(pixels).pooler_output).numpy()
    assert np.allclose(load(folder, "image").embed(images), expected, atol=1e-5)


def test_film_features_are_the_mean_of_the_tokens_of_all_frames(models: Callable[[str], Path]) -> None:
    folder, films = models("videomae"), make_films()
    model = transformers.VideoMAEModel.from_pretrained(folder).eval()
    processor = transformers.VideoMAEImageProcessorPil.from_pretrained(folder)
    pixels = processor([[Image.fromarray(frame) for frame in film] for film in films], return_tensors="pt")
    assert pixels["pixel_values"].shape == (3, 2, 3, 32, 32)
    with torch.inference_mode():
        expected = model(**pixels).last_hidden_state.mean(dim=1).numpy()
    vectors = load(folder, "video").embed(films)
    assert np.allclose(vectors, expected, atol=1e-5)
    assert not np.allclose(vectors, load(folder, "video").embed(films[:, ::-1]), atol=1e-4), "frames have an order"


def test_a_film_of_fewer_frames_than_the_model_reads_repeats_them(models: Callable[[str], Path]) -> None:
    frames = np.asarray(decode_content(encode_video(1), ModalityConfig(kind="video", image_size=40, num_frames=2)))
    assert np.array_equal(frames[0], frames[1])
    assert np.isfinite(load(models("videomae"), "video").embed(frames[None])).all()


@pytest.mark.parametrize("name", ["videomae", "xclip"])
def test_a_film_of_another_number_of_frames_than_the_model_reads_is_refused(
    models: Callable[[str], Path], name: str
) -> None:
    rule = f"of type '{name}' reads 2 frames of a video at once, got num_frames 5; set num_frames of this modality to 2"
    with pytest.raises(ConfigError, match=rule):
        load_backbone(f"hf:{models(name)}", ModalityConfig(kind="video", num_frames=5))


def test_a_video_model_is_refused_for_images(models: Callable[[str], Path]) -> None:
    with pytest.raises(ConfigError, match=r"of type 'timesformer' reads 2 frames .* got a modality of kind 'image'"):
        load(models("timesformer"), "image")


def test_video_is_the_mean_of_its_frames(models: Callable[[str], Path]) -> None:
    frames = make_images(4)
    vectors = load(models("vit"), "video").embed(frames.reshape(2, 2, 40, 40, 3))
    expected = load(models("vit"), "image").embed(frames).reshape(2, 2, -1).mean(axis=1)
    assert np.allclose(vectors, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("video", "audio", "dims"), [("clip", "wav2vec2", (8, 16)), ("clip", "clap", (8, 8)), ("videomae", "ast", (16, 16))]
)
def test_a_film_alone_is_a_pair_of_hub_features(
    models: Callable[[str], Path], video: str, audio: str, dims: tuple[int, int]
) -> None:
    configs = {
        "video": ModalityConfig(backbone=f"hf:{models(video)}", image_size=40, num_frames=2),
        "audio": ModalityConfig(backbone=f"hf:{models(audio)}", window_s=1.0),
    }
    films = [encode_film("mp4", num_seconds) for num_seconds in (1.0, 0.5)]
    for (name, config), dim in zip(configs.items(), dims, strict=True):
        modality = resolve_modality(name, config)
        batch = np.stack([np.asarray(decode_content(film, modality)) for film in films])
        vectors = load_backbone(modality.resolved_backbone, modality).embed(batch)
        assert vectors.shape == (2, dim)
        assert np.isfinite(vectors).all()
        assert np.abs(vectors[0] - vectors[1]).max() > 1e-4


def test_clips_are_resampled_to_the_rate_of_the_model(models: Callable[[str], Path]) -> None:
    seconds = np.arange(32_000) / 16_000
    tone = np.sin(2 * np.pi * 100 * seconds, dtype=np.float64).astype(np.float32)
    modality = ModalityConfig(kind="audio", sample_rate=8_000, window_s=2.0)
    slow = load_backbone(f"hf:{models('wav2vec2')}", modality).embed(tone[None, ::2])
    assert np.allclose(slow, load(models("wav2vec2"), "audio").embed(tone[None]), atol=0.02)


def test_the_rate_of_a_model_is_that_of_its_feature_extractor(models: Callable[[str], Path]) -> None:
    clips = np.random.default_rng(0).normal(0, 0.1, (2, 16_000)).astype(np.float32)
    fast = np.stack([soxr.resample(clip, 8_000, 16_000) for clip in clips])
    modality = ModalityConfig(kind="audio", sample_rate=8_000, window_s=2.0)
    expected = load_backbone(f"hf:{models('ast')}", modality).embed(clips)
    assert np.allclose(load(models("ast"), "audio").embed(fast), expected, atol=0.02)
    assert not np.allclose(expected[0], expected[1], atol=0.05)


def test_a_model_without_all_its_weights_is_refused(models: Callable[[str], Path], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    copy_files(models("vit"), tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    lost = next(name for name in weights if "query" in name or "q_proj" in name)
    del weights[lost]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ConfigError, match="must bring all its weights"):
        load(tmp_path, "image")


def test_a_broken_weights_file_is_refused(models: Callable[[str], Path], tmp_path: Path) -> None:
    copy_files(models("vit"), tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(ConfigError, match="must load with transformers"):
        load(tmp_path, "image")


def test_weights_that_would_run_code_are_refused_and_run_none(models: Callable[[str], Path], tmp_path: Path) -> None:
    folder, traces = tmp_path / "model", tmp_path / "ran"
    folder.mkdir()
    for file in models("vit").iterdir():
        if file.suffix != ".safetensors":
            (folder / file.name).write_bytes(file.read_bytes())
    torch.save({"weight": Payload(traces)}, folder / "pytorch_model.bin")
    with pytest.raises(ConfigError, match="must load with transformers") as refused:
        load(folder, "image")
    assert "\n" not in str(refused.value)
    assert not traces.exists()
    torch.load(folder / "pytorch_model.bin", weights_only=False)
    assert traces.exists()  # so the file is what it is meant to be


def test_a_model_of_another_kind_is_refused(models: Callable[[str], Path]) -> None:
    with pytest.raises(ConfigError, match="of type 'bert' must load with transformers as a model of kind 'image'"):
        load(models("bert"), "image")


@pytest.mark.parametrize(
    ("name", "kind"),
    [("bert", "video"), ("bert", "image"), ("vit", "text"), ("videomae", "text"), ("wav2vec2", "text")],
)
def test_a_model_that_cannot_read_what_its_processor_makes_is_refused(
    models: Callable[[str], Path], tmp_path: Path, name: str, kind: Kind
) -> None:
    copy_files(models(name), tmp_path)
    save_tokenizer(tmp_path) if kind == "text" else save_image_processor(tmp_path)
    rule = f"of type '{name}' must give one vector for each {kind}; name a model that reads kind '{kind}'; .*Error: "
    with pytest.raises(ConfigError, match=rule):
        load(tmp_path, kind)


def test_a_model_that_gives_no_vector_for_each_row_is_refused(models: Callable[[str], Path]) -> None:
    model = HubModel(f"hf:{models('vit')}", ModalityConfig(kind="image"), "cpu", trust_remote_code=False)
    with pytest.raises(ConfigError, match=r"of type 'vit' must give one vector .* array of shape \(1, 16\) for 2;"):
        model.measure_dim(lambda _: np.ones((1, 16), dtype=np.float32), make_images(2))


def test_a_text_model_without_a_tokenizer_is_refused(models: Callable[[str], Path]) -> None:
    with pytest.raises(ConfigError, match="of type 'clap' must bring a tokenizer, got one of 5 special tokens"):
        load(models("clap"), "text")


def test_a_kind_whose_processor_breaks_while_it_loads_is_refused(models: Callable[[str], Path]) -> None:
    with pytest.raises(ConfigError, match="of type 'wav2vec2' must load with transformers as a model of kind 'text'"):
        load(models("wav2vec2"), "text")


def test_an_encoder_decoder_is_refused(models: Callable[[str], Path]) -> None:
    with pytest.raises(ConfigError, match="must be an encoder"):
        load(models("t5"), "text")
    with pytest.raises(ConfigError, match="of type 't5' must be an encoder"):
        check_hugging_face(f"hf:{models('t5')}", ModalityConfig(kind="text"))


def test_remote_code_runs_only_where_it_is_trusted(
    models: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "model"
    folder.mkdir()
    for file in models("bert").glob("tokenizer*"):
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / "config.json").write_text('{"model_type": "odd", "auto_map": {"AutoConfig": "odd.OddConfig"}}')
    (folder / "odd.py").write_text("raise ValueError('remote code ran')\n")
    with pytest.raises(ConfigError, match="trust_remote_code"):
        load(folder, "text")
    with pytest.raises(ConfigError, match="remote code ran"):
        load(folder, "text", trust_remote_code=True)


def test_pooling_leaves_padding_out() -> None:
    hidden = torch.tensor([[[1.0], [3.0], [100.0]]])
    assert pool_hidden_states(hidden, torch.tensor([[1, 1, 0]])).item() == 2.0
    assert pool_hidden_states(torch.ones(2, 5, 3, 3)).shape == (2, 5)
