"""What every frozen feature extractor offers, and the mean over frames that makes an image backbone read video."""

from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

Features: TypeAlias = npt.NDArray[np.float32]
"""float32 (n, dim), not normalised."""

Batch: TypeAlias = npt.NDArray[Any] | Sequence[str]
"""Decoded contents of n pairs, as `corpus.decode` gives them: an array with n in front, or n texts."""


class Backbone(Protocol):
    """A frozen feature extractor of one modality."""

    @property
    def dim(self) -> int:
        """Length of a feature vector."""
        ...

    def embed(self, batch: Batch) -> Features:
        """Return one vector a pair, float32 (n, dim). Equal batches on an equal device give equal bytes."""
        ...


class FrameMean:
    """Reads video through an image backbone: the mean of the frames' vectors.

    Args:
        image_backbone: takes uint8 (n, H, W, 3).
    """

    def __init__(self, image_backbone: Backbone) -> None:
        self._image_backbone = image_backbone

    @property
    def dim(self) -> int:
        """Length of a feature vector."""
        return self._image_backbone.dim

    def embed(self, batch: Batch) -> Features:
        """Embed videos, uint8 (n, F, H, W, 3), as float32 (n, dim)."""
        frames = np.asarray(batch)
        vectors = self._image_backbone.embed(frames.reshape(-1, *frames.shape[2:]))
        means: Features = vectors.reshape(*frames.shape[:2], -1).mean(axis=1, dtype=np.float32)
        return means
