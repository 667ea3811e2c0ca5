"""Vectors that already stand in a column pass through as features."""

import numpy as np

from mmcsal_core.backbones.backbone import Batch, Features
from mmcsal_core.errors import ConfigError


class Precomputed:
    """Passes vectors through.

    Args:
        dim: their length.

    Raises:
        ConfigError: the length is not known.
    """

    def __init__(self, dim: int | None) -> None:
        if dim is None:
            raise ConfigError("backbone 'precomputed' needs the length of its vectors, got none; pass vector_dim")
        self.dim = dim

    def embed(self, batch: Batch) -> Features:
        """Return the vectors, float32 (n, dim), as they are."""
        return np.array(batch, dtype=np.float32).reshape(-1, self.dim)
