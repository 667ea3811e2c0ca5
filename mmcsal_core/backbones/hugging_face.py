"""Models of the Hugging Face hub, or of a local folder, through transformers: `hf:NAME-or-folder@REVISION`.

A model with towers (CLIP, SigLIP, CLAP) gives its projected tower vector; any other encoder (ViT, DINOv2, BERT,
wav2vec2, AST) gives the mean of its last hidden states, masked where texts are padded. Poolers are not used: many
checkpoints lack theirs, and transformers then fills in random weights. Safetensors files are preferred, pickled weights
are read as weights alone, and Python code that comes with a model is refused unless configured. Encoder-decoder models
are refused.
"""

from collections.abc import Mapping
from pickle import UnpicklingError
from typing import Any

import numpy as np
import numpy.typing as npt
import soxr
import torch
from safetensors import SafetensorError

from mmcsal_core.backbones.backbone import Backbone, Batch, Features
from mmcsal_core.backbones.hugging_face_block import check_anatomy, find_last_layer, make_hub_block
from mmcsal_core.backbones.last_block import Hidden, LastBlock, capture_input, flatten_hidden
from mmcsal_core.backbones.names import parse_hugging_face
from mmcsal_core.corpus.modality import ModalityConfig
from mmcsal_core.errors import ConfigError

_UNUSED_WEIGHTS = ("pooler", "masked_spec_embed", "mask_token", "position_ids")
"""Parts of weight names that inference here never reads; a checkpoint may lack them."""


class HubModel:
    """A loaded transformers model and its processor (of images or sounds) or tokenizer.

    Args:
        name: `hf:NAME-or-folder@REVISION`.
        processor: name of the auto class in transformers that prepares the input.
        device: `cpu` or `cuda`.
        trust_remote_code: let the model run Python code that comes with it.

    Raises:
        ConfigError: it cannot be loaded, lacks weights, or is no encoder.
    """

    def __init__(self, name: str, processor: str, device: str, *, trust_remote_code: bool) -> None:
        import transformers  # noqa: PLC0415  an extra of its own

        self.name, source = name, parse_hugging_face(name)
        options = {"revision": source.revision or "main", "trust_remote_code": trust_remote_code}
        try:
            self.processor = getattr(transformers, processor).from_pretrained(source.name, **options)
            model, info = transformers.AutoModel.from_pretrained(source.name, output_loading_info=True, **options)
        except (OSError, ValueError, ImportError, SafetensorError, UnpicklingError) as error:
            raise ConfigError(f"backbone {name!r} must load with transformers, but: {error}") from error
        _check_weights(name, info["missing_keys"])
        if model.config.is_encoder_decoder:
            raise ConfigError(f"backbone {name!r} must be an encoder, got an encoder-decoder; name another model")
        self.device = torch.device(device)
        self.model = model.eval().to(self.device)

    @torch.inference_mode()
    def embed(self, inputs: Mapping[str, torch.Tensor], tower: str) -> Features:
        """Run prepared inputs through the method `tower` if the model has it, else through the whole model.

        Returns:
            float32 (n, dim).
        """
        moved = {name: value.to(self.device) for name, value in inputs.items()}
        if hasattr(self.model, tower):
            output = getattr(self.model, tower)(**moved)
            vectors = output if isinstance(output, torch.Tensor) else output.pooler_output
        else:
            vectors = pool_hidden_states(self.model(**moved).last_hidden_state, moved.get("attention_mask"))
        features: Features = vectors.float().cpu().numpy()
        return features


class HuggingFaceImage:
    """An image model; the model's own processor resizes and scales."""

    def __init__(self, hub_model: HubModel, image_size: int) -> None:
        self._hub_model = hub_model
        self.dim = self.embed(np.zeros((1, image_size, image_size, 3), dtype=np.uint8)).shape[1]

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
        check_anatomy(hub_model.name, hub_model.model.config.model_type)
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


class HuggingFaceText:
    """A text model; texts are cut at the tokens that it can take."""

    def __init__(self, hub_model: HubModel) -> None:
        self._hub_model = hub_model
        config = hub_model.model.config
        positions = getattr(config.get_text_config(), "max_position_embeddings", None)
        self._max_tokens = min(hub_model.processor.model_max_length, positions or 512)
        # SigLIP was trained on texts that are padded to the full length, with no mask.
        self._padding = "max_length" if config.model_type.startswith("siglip") else "longest"
        self.dim = self.embed(["probe"]).shape[1]

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
        self.dim = self.embed(np.zeros((1, num_samples), dtype=np.float32)).shape[1]

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


def check_hugging_face(name: str, *, trust_remote_code: bool = False, is_split: bool = False) -> None:
    """Look a model up by its configuration alone, before workers are started that would load its weights.

    Raises:
        ConfigError: it is not there, transformers does not know it, or it `is_split` and cannot be.
    """
    import transformers  # noqa: PLC0415  an extra of its own

    source = parse_hugging_face(name)
    options = {"revision": source.revision or "main", "trust_remote_code": trust_remote_code}
    try:
        config = transformers.AutoConfig.from_pretrained(source.name, **options)
    except (OSError, ValueError, ImportError) as error:
        raise ConfigError(f"backbone {name!r} must be known to transformers, but: {error}") from error
    if is_split:
        check_anatomy(name, config.model_type)


def load_hugging_face(name: str, modality: ModalityConfig, device: str, *, trust_remote_code: bool = False) -> Backbone:
    """Load an `hf:` backbone for a resolved modality; for video, the image model that reads its frames.

    Raises:
        ConfigError: it cannot be loaded.
    """
    kind = modality.resolved_kind
    if kind == "text":
        return HuggingFaceText(HubModel(name, "AutoTokenizer", device, trust_remote_code=trust_remote_code))
    if kind == "audio":
        model = HubModel(name, "AutoFeatureExtractor", device, trust_remote_code=trust_remote_code)
        return HuggingFaceAudio(model, modality.sample_rate, round(modality.window_s * modality.sample_rate))
    model = HubModel(name, "AutoImageProcessor", device, trust_remote_code=trust_remote_code)
    image_model = SplitHuggingFaceImage if modality.finetune_last_block else HuggingFaceImage
    return image_model(model, modality.image_size)


def pool_hidden_states(hidden: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """Return the mean over tokens of (n, tokens, dim), or over the map of (n, dim, H, W), as (n, dim).

    Args:
        hidden: the last hidden states.
        mask: 1 for a token and 0 for padding, (n, tokens); all count where None.
    """
    if hidden.ndim == 4:
        return hidden.mean(dim=(2, 3))
    if mask is None:
        return hidden.mean(dim=1)
    weights = mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * weights).sum(dim=1) / weights.sum(dim=1)


def _check_weights(name: str, missing: Any) -> None:
    absent = sorted(key for key in missing if not any(part in key for part in _UNUSED_WEIGHTS))
    if absent:
        raise ConfigError(
            f"backbone {name!r} must bring all its weights, but {len(absent)} are missing, e.g. {absent[0]!r}; "
            "they would be random; name a complete model"
        )
