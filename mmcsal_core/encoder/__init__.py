"""The regularised two-tower encoder: towers, losses, prototypes, checkpoint."""

from mmcsal_core.encoder.config import EncoderConfig

__all__ = ["EncoderConfig"]
