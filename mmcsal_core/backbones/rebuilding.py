"""A last block out of its structure, for an encoder that was stored: no backbone is loaded and nothing downloaded."""

from collections.abc import Mapping
from typing import Any

from mmcsal_core.backbones.efficientnet_lite import build_efficientnet_block
from mmcsal_core.backbones.hugging_face_block import build_hub_block
from mmcsal_core.backbones.last_block import LastBlock
from mmcsal_core.backbones.names import HUGGING_FACE, check_packages


def build_last_block(structure: Mapping[str, Any]) -> LastBlock:
    """Build a last block as its `structure` says, on the CPU, with weights yet to be loaded.

    Raises:
        ConfigError: the package that the structure is built with is missing.
    """
    check_packages(structure["backbone"])
    is_hub_model = structure["backbone"].startswith(HUGGING_FACE)
    return build_hub_block(structure) if is_hub_model else build_efficientnet_block(structure)
