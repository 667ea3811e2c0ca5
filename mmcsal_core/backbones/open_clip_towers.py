"""OpenCLIP models: `open_clip:ARCH/TAG`, image or text tower, where TAG may be the path of a weights file.

Lives in an extra of its own, since open_clip needs torchvision. Weights are read as weights alone; where that fails,
open_clip may try again with torch's own default, which from torch 2.6 on is the same.
"""

from typing import Any

import numpy as np
import torch
from PIL import Image

from mmcsal_core.backbones.backbone import Backbone, Batch, Features
from mmcsal_core.backbones.hub_model import MISFITS, describe_misfit
from mmcsal_core.backbones.names import parse_open_clip
from mmcsal_core.corpus.modality import Kind
from mmcsal_core.errors import ConfigError


class OpenClipImage:
    """The image tower, with the model's own preprocessing."""

    def __init__(self, model: Any, preprocess: Any, device: str) -> None:
        self._model, self._preprocess, self._device = model, preprocess, torch.device(device)
        self.dim = self.embed(np.zeros((1, 32, 32, 3), dtype=np.uint8)).shape[1]

    @torch.inference_mode()
    def embed(self, batch: Batch) -> Features:
        """Embed images, uint8 (n, H, W, 3), as float32 (n, dim)."""
        pixels = torch.stack([self._preprocess(Image.fromarray(image)) for image in np.asarray(batch)])
        features: Features = self._model.encode_image(pixels.to(self._device)).float().cpu().numpy()
        return features


class OpenClipText:
    """The text tower; texts are cut at the model's context length."""

    def __init__(self, model: Any, tokenizer: Any, device: str) -> None:
        self._model, self._tokenizer, self._device = model, tokenizer, torch.device(device)
        self.dim = self.embed(["probe"]).shape[1]

    @torch.inference_mode()
    def embed(self, batch: Batch) -> Features:
        """Embed n texts as float32 (n, dim)."""
        tokens = self._tokenizer(list(batch)).to(self._device)
        features: Features = self._model.encode_text(tokens).float().cpu().numpy()
        return features


def load_open_clip(name: str, kind: Kind, device: str) -> Backbone:
    """Load one tower of an OpenCLIP model in float32; for video, the image tower that reads its frames.

    Raises:
        ConfigError: it cannot be loaded.
    """
    import open_clip  # noqa: PLC0415  an extra of its own

    architecture, tag = parse_open_clip(name)
    try:
        model, preprocess = open_clip.create_model_from_pretrained(architecture, pretrained=tag, device=device)
        tokenizer = open_clip.get_tokenizer(architecture) if kind == "text" else None
    except MISFITS as error:
        raise ConfigError(
            f"backbone {name!r} must load with open_clip; open_clip.list_pretrained() names the tags; "
            f"{describe_misfit(error)}"
        ) from error
    model.eval()
    return OpenClipText(model, tokenizer, device) if kind == "text" else OpenClipImage(model, preprocess, device)
