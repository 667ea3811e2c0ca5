"""Models of the Hugging Face hub, or of a local folder, through transformers: `hf:NAME-or-folder@REVISION`.

A model with towers (CLIP, SigLIP, CLAP, X-CLIP) gives its projected tower vector; any other encoder (ViT, DINOv2, BERT,
wav2vec2, AST, VideoMAE, ViViT, TimeSformer) gives the mean of its last hidden states, masked where texts are padded.
Poolers are not used: many checkpoints lack theirs, and transformers then fills in random weights. A film goes whole
through a video model, that is one whose configuration has `num_frames`, and frame by frame through any other.
"""

import numpy as np
import numpy.typing as npt
import soxr
import torch

from mmcsal_core.backbones.backbone import Backbone, Batch, Features, FrameMean
from mmcsal_core.backbones.hub_model import HubModel, check_frames, count_frames, read_config
from mmcsal_core.backbones.hugging_face_block import check_anatomy, find_last_layer, make_hub_block
from mmcsal_core.backbones.last_block import Hidden, LastBlock, capture_input, flatten_hidden
from mmcsal_core.corpus.modality import ModalityConfig
from mmcsal_core.errors import ConfigError

_DEFAULT_TOKENS = 512
"""Where a model is bound to no number of positions, as XLNet is."""


class HuggingFaceImage:
    """An image model; the model's own processor resizes and scales."""

    def __init__(self, hub_model: HubModel, image_size: int) -> None:
        self._hub_model = hub_model
        self.dim = hub_model.measure_dim(self.embed, np.zeros((2, image_size, image_size, 3), dtype=np.uint8))

    def embed(self, batch: Batch) -> Features:
        """Embed images, uint8 (n, H, W, 3), as float32 (n, dim)."""
        inputs = self._hub_model.processor(
            images=list(np.array(batch)), return_tensors="pt", input_data_format="channels_last"
        )
        return self._hub_model.embed({"pixel_values": inputs["pixel_values"]}, "get_image_features")


class SplitHuggingFaceImage(HuggingFaceImage):
    """An image model that is cut before its last block.

    Raises:
        ConfigError: its type cannot be cut.
    """

    def __init__(self, hub_model: HubModel, image_size: int) -> None:
        super().__init__(hub_model, image_size)
        check_anatomy(hub_model.name, hub_model.config.model_type)
        blank = np.zeros((1, image_size, image_size, 3), dtype=np.uint8)
        self.hidden_dim = self.embed_hidden(blank)[0].shape[1]

    def embed_hidden(self, batch: Batch) -> tuple[Hidden, Features]:
        """Return hidden rows, float32 (n, hidden_dim), and what `embed` returns."""
        with capture_input(find_last_layer(self._hub_model.model)) as seen:
            features = self.embed(batch)
        return flatten_hidden(seen[0]), features

    def make_last_block(self) -> LastBlock:
        """Return a copy of the last block, on the CPU."""
        return make_hub_block(self._hub_model.name, self._hub_model.model, self.hidden_dim, self.dim)


class HuggingFaceVideo:
    """A video model, which reads all frames of a film at once; the model's own processor resizes and scales.

    As many frames are decoded as the model takes. A film that has fewer repeats some, as `corpus.decode_video` says, in
    their order. Without a tower, the vector is the mean of the last hidden states over all tokens of all frames, a
    class token among them where the model has one.
    """

    def __init__(self, hub_model: HubModel, num_frames: int, image_size: int) -> None:
        self._hub_model = hub_model
        blank = np.zeros((2, num_frames, image_size, image_size, 3), dtype=np.uint8)
        self.dim = hub_model.measure_dim(self.embed, blank)

    def embed(self, batch: Batch) -> Features:
        """Embed films, uint8 (n, F, H, W, 3), as float32 (n, dim)."""
        films = [list(film) for film in np.array(batch)]
        inputs = self._hub_model.processor(films, return_tensors="pt", input_data_format="channels_last")
        return self._hub_model.embed({"pixel_values": inputs["pixel_values"]}, "get_video_features")


class HuggingFaceText:
    """A text model; texts are cut at the tokens that it can take.

    Raises:
        ConfigError: its tokenizer knows no words.
    """

    def __init__(self, hub_model: HubModel) -> None:
        self._hub_model = hub_model
        config = hub_model.config
        _check_tokenizer(hub_model)
        self._max_tokens = min(hub_model.processor.model_max_length, _count_positions(hub_model))
        # SigLIP was trained on texts that are padded to the full length, with no mask.
        self._padding = "max_length" if config.model_type.startswith("siglip") else "longest"
        self.dim = hub_model.measure_dim(self.embed, ["probe", "a longer probe"])

    def embed(self, batch: Batch) -> Features:
        """Embed n texts as float32 (n, dim)."""
        tokens = self._hub_model.processor(
            list(batch), padding=self._padding, truncation=True, max_length=self._max_tokens, return_tensors="pt"
        )
        return self._hub_model.embed(dict(tokens), "get_text_features")


class HuggingFaceAudio:
    """An audio model; clips are resampled to its own rate and cut at the longest clip that it takes whole.

    Args:
        hub_model: the model and its feature extractor.
        sample_rate: samples per second of the clips.
        num_samples: samples of a clip.
    """

    def __init__(self, hub_model: HubModel, sample_rate: int, num_samples: int) -> None:
        self._hub_model = hub_model
        self._sample_rate = sample_rate
        self.dim = hub_model.measure_dim(self.embed, np.zeros((2, num_samples), dtype=np.float32))

    def embed(self, batch: Batch) -> Features:
        """Embed clips, float32 (n, samples), as float32 (n, dim)."""
        rate = self._hub_model.processor.sampling_rate
        clips = [self._fit(clip, rate) for clip in np.array(batch, dtype=np.float32)]
        inputs = dict(self._hub_model.processor(clips, sampling_rate=rate, return_tensors="pt"))
        if "is_longer" in inputs:  # CLAP's extractor marks a random clip as longer; none is, after the cut
            inputs["is_longer"] = torch.zeros_like(torch.as_tensor(inputs["is_longer"]))
        inputs.pop("attention_mask", None)  # all clips are equally long
        return self._hub_model.embed(inputs, "get_audio_features")

    def _fit(self, clip: npt.NDArray[np.float32], rate: int) -> npt.NDArray[np.float32]:
        if rate != self._sample_rate:
            clip = soxr.resample(clip, self._sample_rate, rate)
        # CLAP takes a random part of a longer clip; cut here, it takes the start.
        return clip[: getattr(self._hub_model.processor, "nb_max_samples", len(clip))]


def check_hugging_face(name: str, modality: ModalityConfig, *, trust_remote_code: bool = False) -> None:
    """Look a model up by its configuration alone, before workers are started that would load its weights.

    Raises:
        ConfigError: it is not there, transformers does not know it, it is no encoder, reads another number of frames
            than the modality has, or its last block is to be trained and cannot be.
    """
    config = read_config(name, trust_remote_code=trust_remote_code)
    check_frames(name, config, modality)
    if modality.finetune_last_block:
        check_anatomy(name, config.model_type)


def load_hugging_face(name: str, modality: ModalityConfig, device: str, *, trust_remote_code: bool = False) -> Backbone:
    """Load an `hf:` backbone for a resolved modality; an image model reads video frame by frame.

    Raises:
        ConfigError: it cannot be loaded, or cannot read what the modality holds.
    """
    kind, model = modality.resolved_kind, HubModel(name, modality, device, trust_remote_code=trust_remote_code)
    if kind == "text":
        return HuggingFaceText(model)
    if kind == "audio":
        return HuggingFaceAudio(model, modality.sample_rate, round(modality.window_s * modality.sample_rate))
    if count_frames(model.config) is not None:
        return HuggingFaceVideo(model, modality.num_frames, modality.image_size)
    image_model = SplitHuggingFaceImage if modality.finetune_last_block else HuggingFaceImage
    backbone = image_model(model, modality.image_size)
    return FrameMean(backbone) if kind == "video" else backbone


def _check_tokenizer(hub_model: HubModel) -> None:
    """Refuse a tokenizer of special tokens alone, which transformers makes up where a model brings none."""
    tokenizer = hub_model.processor
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        raise ConfigError(
            f"backbone {hub_model.name!r} of type {hub_model.config.model_type!r} must bring a tokenizer, got one of "
            f"{len(tokenizer)} special tokens and no words; name a model that reads kind 'text'"
        )


def _count_positions(hub_model: HubModel) -> int:
    """Return the tokens that a text model has positions for; RoBERTa and its kin keep the first ones for padding."""
    positions = getattr(hub_model.config.get_text_config(), "max_position_embeddings", None) or 0
    offsets = [
        part.padding_idx + 1
        for name, part in hub_model.model.named_modules()
        if name.endswith("position_embeddings") and getattr(part, "padding_idx", None) is not None
    ]
    return int(positions - max(offsets, default=0)) if positions > 0 else _DEFAULT_TOKENS
