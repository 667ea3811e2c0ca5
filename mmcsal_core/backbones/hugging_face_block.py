"""The last block of an image model of transformers: its last layer, the final norm, and what makes a vector of tokens.

    vit, dinov2     mean of the normalised tokens
    clip            projection of the normalised class token
    siglip          the attention pooling of the normalised tokens

A hidden row is the tokens, one after the other. Parts are found by the class of a layer, since the names of attributes
differ between versions of transformers. A structure holds the model's configuration: from it the block is built again
without the model, whose weights are never asked for.
"""

import json
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mmcsal_core.backbones.last_block import LastBlock
from mmcsal_core.errors import ConfigError


@dataclass(frozen=True)
class Anatomy:
    """Where the parts of a model are.

    Args:
        model: class in transformers.
        layer: class of a layer.
        tower: attribute of the model that reads images; the model itself where empty.
        norm: attribute of that tower.
        pooling: from tokens to a vector.
    """

    model: str
    layer: str
    tower: str
    norm: str
    pooling: Literal["mean", "project", "attend"]


ANATOMIES: dict[str, Anatomy] = {
    "vit": Anatomy("ViTModel", "ViTLayer", "", "layernorm", "mean"),
    "dinov2": Anatomy("Dinov2Model", "Dinov2Layer", "", "layernorm", "mean"),
    "clip": Anatomy("CLIPModel", "CLIPEncoderLayer", "vision_model", "post_layernorm", "project"),
    "siglip": Anatomy("SiglipModel", "SiglipEncoderLayer", "vision_model", "post_layernorm", "attend"),
}
"""By the `model_type` of a configuration."""


def check_anatomy(name: str, model_type: str) -> None:
    """Refuse a model that cannot be cut before its last block.

    Raises:
        ConfigError: its type is not one of ANATOMIES.
    """
    if model_type not in ANATOMIES:
        raise ConfigError(
            f"finetune_last_block needs a model of type {', '.join(ANATOMIES)}, but {name!r} is of type "
            f"{model_type!r}; name such a model, or set finetune_last_block to false"
        )


def find_last_layer(model: Any) -> nn.Module:
    """Return the last layer of the part of a model that reads images."""
    anatomy = ANATOMIES[model.config.model_type]
    layers: list[nn.Module] = [part for part in _find_tower(model).modules() if type(part).__name__ == anatomy.layer]
    return layers[-1]


def make_hub_block(name: str, model: Any, hidden_dim: int, dim: int) -> LastBlock:
    """Return a copy of the last block of a loaded model, in float32 on the CPU.

    Args:
        name: of the backbone, for the structure.
        model: of a type in ANATOMIES.
        hidden_dim: length of a hidden row.
        dim: length of a feature vector.
    """
    config = json.loads(model.config.to_json_string(use_diff=False))
    structure = {"backbone": name, "config": config, "hidden_dim": hidden_dim, "dim": dim}
    return _LastLayer(model, structure).to("cpu", torch.float32)


def build_hub_block(structure: Mapping[str, Any]) -> LastBlock:
    """Build the last block that a structure describes, with weights yet to be loaded."""
    import transformers  # noqa: PLC0415  an extra of its own

    model_class = getattr(transformers, ANATOMIES[structure["config"]["model_type"]].model)
    with torch.device("meta"):
        model = model_class(model_class.config_class.from_dict(structure["config"]))
    return _LastLayer(model, structure).to(torch.float32).to_empty(device="cpu")


class _LastLayer(LastBlock):
    def __init__(self, model: Any, structure: Mapping[str, Any]) -> None:
        super().__init__(structure, structure["dim"])
        anatomy, tower = ANATOMIES[model.config.model_type], _find_tower(model)
        self._pooling, self._width = anatomy.pooling, tower.config.hidden_size
        self.layer, self.norm = deepcopy(find_last_layer(model)), deepcopy(getattr(tower, anatomy.norm))
        if self._pooling != "mean":
            self.pooler = deepcopy(model.visual_projection if self._pooling == "project" else tower.head)
        self.eval()

    def forward(self, hidden: Tensor) -> Tensor:
        output = self.layer(hidden.reshape(len(hidden), hidden.shape[1] // self._width, self._width), None)
        tokens = output if isinstance(output, Tensor) else output[0]
        if self._pooling == "project":
            tokens = tokens[:, 0]
        normalised: Tensor = self.norm(tokens)
        vectors: Tensor = normalised.mean(dim=1) if self._pooling == "mean" else self.pooler(normalised)
        return vectors


def _find_tower(model: Any) -> Any:
    tower = ANATOMIES[model.config.model_type].tower
    return getattr(model, tower) if tower else model
