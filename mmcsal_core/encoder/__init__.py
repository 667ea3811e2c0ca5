"""The regularised two-tower encoder: towers, losses, prototypes, checkpoint.

In this process: `fit_encoder(features)` returns an `Encoder`, and `Encoder.embed(features)` its unit vectors.

The names below are imported when they are first used, since what fits takes a second or more to import.
"""

from typing import TYPE_CHECKING

from mmcsal_core.lazy_names import import_lazily

if TYPE_CHECKING:
    from mmcsal_core.encoder.config import EncoderConfig
    from mmcsal_core.encoder.fitting import fit_encoder
    from mmcsal_core.encoder.model import Encoder

__all__ = ["Encoder", "EncoderConfig", "fit_encoder"]

__getattr__ = import_lazily(__name__, {"EncoderConfig": "config", "fit_encoder": "fitting", "Encoder": "model"})
