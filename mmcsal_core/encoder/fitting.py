"""Fit an encoder in this process: the door for whoever has features in memory."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from mmcsal_core.backbones.last_block import LastBlock
from mmcsal_core.encoder.config import EncoderConfig
from mmcsal_core.encoder.encoder_fit import EncoderFit
from mmcsal_core.encoder.feature_rows import count_rows
from mmcsal_core.encoder.model import Encoder
from mmcsal_core.encoder.out_of_fold import has_folds, measure_out_of_fold

__all__ = ["EncoderFit", "fit_encoder"]


def fit_encoder(
    features: Mapping[str, npt.NDArray[np.floating]],
    *,
    config: EncoderConfig | None = None,
    seed: int = 0,
    blocks: Mapping[str, LastBlock] | None = None,
) -> Encoder:
    """Fit an encoder in this process; equal features, configuration, seed and number of threads give equal bits.

    Args:
        features: one vector a pair and modality, (n, in_dim) each, rows in the same order; of a modality in `blocks`
            hidden rows, (n, hidden_dim).
        config: what to fit, the defaults if none.
        seed: of everything random.
        blocks: last blocks, from `make_last_block` of a backbone, of which copies are trained too.

    Raises:
        ConfigError: fewer than 2 modalities, more prototypes than the pairs allow, or rows that do not fit a block.
        DataError: fewer than 4 pairs, or features that cannot be trained on.
    """
    config = config or EncoderConfig()
    fit = EncoderFit(features, config, seed, blocks=blocks)
    if config.robust_fraction and has_folds(count_rows(features), config):
        fit.distrust_pairs(measure_out_of_fold(features, config, seed, blocks))
    while not fit.is_finished:
        fit.run_epoch()
    return fit.to_encoder()
