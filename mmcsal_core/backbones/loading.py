"""A backbone's name in, the loaded backbone out. What is loaded here must pass `names.check_backbone` first."""

from typing import cast

from mmcsal_core.backbones.backbone import Backbone, FrameMean
from mmcsal_core.backbones.efficientnet_lite import EfficientNetLite
from mmcsal_core.backbones.hugging_face import load_hugging_face
from mmcsal_core.backbones.last_block import SplitBackbone
from mmcsal_core.backbones.log_mel import LogMel
from mmcsal_core.backbones.minilm import MiniLm
from mmcsal_core.backbones.names import HUGGING_FACE, OPEN_CLIP, check_backbone, check_finetuning
from mmcsal_core.backbones.open_clip_towers import load_open_clip
from mmcsal_core.backbones.precomputed import Precomputed
from mmcsal_core.backbones.word_llama import WordLlamaText
from mmcsal_core.corpus.modality import Kind, ModalityConfig


def load_backbone(
    name: str,
    modality: ModalityConfig,
    *,
    device: str = "cpu",
    trust_remote_code: bool = False,
    vector_dim: int | None = None,
) -> Backbone:
    """Load a backbone for contents that are decoded as `modality` says.

    Args:
        name: e.g. `efficientnet-lite0` or `hf:openai/clip-vit-base-patch32@main`.
        modality: a resolved modality.
        device: `cpu` or `cuda`; backbones that only run on the CPU ignore it.
        trust_remote_code: let a Hugging Face model run Python code that comes with it.
        vector_dim: length of the vectors, for `precomputed`.

    Raises:
        ConfigError: the backbone is unknown, unfit for the modality's kind, or cannot be loaded.
    """
    kind = modality.resolved_kind
    check_backbone(name, kind)
    if name.startswith(HUGGING_FACE):
        return load_hugging_face(name, modality, device, trust_remote_code=trust_remote_code)
    if name.startswith(OPEN_CLIP):
        return _read_frames(kind, load_open_clip(name, kind, device))
    if name == "efficientnet-lite0":
        return _read_frames(kind, EfficientNetLite(modality.image_size, device))
    if name == "logmel":
        return LogMel(modality.sample_rate)
    if name == "precomputed":
        return Precomputed(vector_dim)
    return WordLlamaText() if name == "wordllama" else MiniLm()


def load_split_backbone(modality: ModalityConfig, device: str = "cpu") -> SplitBackbone:
    """Load the backbone of a resolved modality so that its last block can be trained.

    Raises:
        ConfigError: the backbone cannot be cut before its last block, or cannot be loaded.
    """
    check_finetuning(modality.resolved_backbone, modality.resolved_kind)
    split = modality.model_copy(update={"finetune_last_block": True})
    return cast("SplitBackbone", load_backbone(modality.resolved_backbone, split, device=device))


def _read_frames(kind: Kind, backbone: Backbone) -> Backbone:
    return FrameMean(backbone) if kind == "video" else backbone
