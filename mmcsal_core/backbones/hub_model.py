"""A loaded model of transformers with what prepares its input, and the refusal of those that do not fit a modality.

Safetensors files are preferred, pickled weights are read as weights alone, and Python code that comes with a model is
refused unless configured. Encoder-decoder models are refused. transformers has no error of its own for a model, a
processor and an input that do not go together: each part raises what its code happens to run into, so that a model is
tried out once, when it is loaded, and what it raises then is told in one error.
"""

from collections.abc import Callable, Mapping
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError

from mmcsal_core.backbones.backbone import Batch, Features
from mmcsal_core.backbones.names import parse_hugging_face
from mmcsal_core.corpus.modality import Kind, ModalityConfig
from mmcsal_core.errors import ConfigError

_PROCESSORS: dict[Kind, str] = {
    "image": "AutoImageProcessor",
    "video": "AutoImageProcessor",
    "text": "AutoTokenizer",
    "audio": "AutoFeatureExtractor",
}
"""The auto class in transformers that prepares the input; its video processors would all need torchvision."""

MISFITS = (
    ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, OSError, RuntimeError, TypeError,
    ValueError, SafetensorError, UnpicklingError,
)  # fmt: skip
"""What a hub's library raises where a model cannot be loaded, or cannot read what it is given."""

_UNUSED_WEIGHTS = ("pooler", "masked_spec_embed", "mask_token", "position_ids")
"""Parts of weight names that inference here never reads; a checkpoint may lack them."""


def describe_misfit(error: BaseException) -> str:
    """Return the kind of an error and what it says, in one line: libraries fill paragraphs."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


class HubModel:
    """A loaded transformers model and its processor (of images, films or sounds) or tokenizer.

    Args:
        name: `hf:NAME-or-folder@REVISION`.
        modality: what the model is to read, resolved.
        device: `cpu` or `cuda`.
        trust_remote_code: let the model run Python code that comes with it.

    Raises:
        ConfigError: it cannot be loaded, lacks weights, is no encoder, or reads another number of frames.
    """

    def __init__(self, name: str, modality: ModalityConfig, device: str, *, trust_remote_code: bool) -> None:
        import transformers  # noqa: PLC0415  an extra of its own

        self.name, self.kind, source = name, modality.resolved_kind, parse_hugging_face(name)
        self.config = read_config(name, trust_remote_code=trust_remote_code)
        check_frames(name, self.config, modality)
        options = {"revision": source.revision or "main", "trust_remote_code": trust_remote_code}
        try:
            self.processor = getattr(transformers, _PROCESSORS[self.kind]).from_pretrained(source.name, **options)
            model, info = transformers.AutoModel.from_pretrained(source.name, output_loading_info=True, **options)
        except MISFITS as error:
            raise ConfigError(
                f"backbone {name!r} of type {self.config.model_type!r} must load with transformers as a model of kind "
                f"{self.kind!r}; name a complete model of that kind; {describe_misfit(error)}"
            ) from error
        _check_weights(name, info["missing_keys"])
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

    def measure_dim(self, embed: Callable[[Batch], Features], batch: Batch) -> int:
        """Return the length of a vector that `embed` gives, by a trial on `batch`.

        Raises:
            ConfigError: it gives no vectors, or not one for each row of `batch`.
        """
        rule = f"backbone {self.name!r} of type {self.config.model_type!r} must give one vector for each {self.kind}"
        try:
            shape = embed(batch).shape
        except MISFITS as error:
            raise ConfigError(
                f"{rule}; name a model that reads kind {self.kind!r}; {describe_misfit(error)}"
            ) from error
        if len(shape) != 2 or shape[0] != len(batch):
            raise ConfigError(
                f"{rule}, got an array of shape {shape} for {len(batch)}; name a model that reads kind {self.kind!r}"
            )
        return int(shape[1])


def read_config(name: str, *, trust_remote_code: bool = False) -> Any:
    """Return the configuration of an `hf:` backbone, without its weights.

    Raises:
        ConfigError: it is not there, transformers does not know it, or it is an encoder-decoder.
    """
    import transformers  # noqa: PLC0415  an extra of its own

    source = parse_hugging_face(name)
    options = {"revision": source.revision or "main", "trust_remote_code": trust_remote_code}
    try:
        config = transformers.AutoConfig.from_pretrained(source.name, **options)
    except MISFITS as error:
        raise ConfigError(f"backbone {name!r} must be known to transformers, but: {describe_misfit(error)}") from error
    if config.is_encoder_decoder:
        raise ConfigError(
            f"backbone {name!r} of type {config.model_type!r} must be an encoder, got an encoder-decoder; "
            "name another model"
        )
    return config


def count_frames(config: Any) -> int | None:
    """Return the frames that a video model reads at once; None for any other model."""
    vision = getattr(config, "vision_config", config)
    num_frames: int | None = getattr(vision, "num_frames", None)
    return num_frames


def check_frames(name: str, config: Any, modality: ModalityConfig) -> None:
    """Refuse a video model for images, or for films of another number of frames.

    Raises:
        ConfigError: with the rule, both numbers and what to set.
    """
    num_frames, kind = count_frames(config), modality.resolved_kind
    if num_frames is None or kind not in ("image", "video"):
        return
    rule = f"backbone {name!r} of type {config.model_type!r} reads {num_frames} frames of a video at once"
    if kind == "image":
        raise ConfigError(f"{rule}, got a modality of kind 'image'; use kind video, or name a model that reads images")
    if modality.num_frames != num_frames:
        raise ConfigError(
            f"{rule}, got num_frames {modality.num_frames}; set num_frames of this modality to {num_frames}"
        )


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
