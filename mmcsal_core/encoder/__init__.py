"""The regularised two-tower encoder: towers, losses, prototypes, checkpoint.

In this process: `fit_encoder(features)` returns an `Encoder`, and `Encoder.embed(features)` its unit vectors.
"""

from mmcsal_core.encoder.config import EncoderConfig
from mmcsal_core.encoder.fitting import fit_encoder
from mmcsal_core.encoder.model import Encoder

__all__ = ["Encoder", "EncoderConfig", "fit_encoder"]
