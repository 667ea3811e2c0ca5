"""The backbones' own spaces, made comparable: standardise, keep the principal components, scale to unit length.

It keeps what a projection into the shared space drops. The covariance is summed in float64 over blocks of rows and
decomposed exactly; randomised PCA was not chosen, since its result depends on one more seed.
"""

import numpy as np
import numpy.typing as npt

from mmcsal_core.neighbors.vectors import Floats, Vectors, iter_blocks

BLOCK_ROWS = 4096
MIN_VARIANCE_RATIO = 1e-10
"""Components below this share of the largest variance are rounding, and are dropped."""


def reduce_features(features: npt.NDArray[np.floating], max_dims: int) -> Vectors:
    """Turn backbone features into unit vectors of at most `max_dims` dimensions.

    A component's sign is such that its largest coefficient is positive. A row that falls on the mean has no direction;
    it is given the first axis, so that all such rows coincide.

    Args:
        features: (N, dim), finite.
        max_dims: components kept at most.

    Returns:
        (N, D) float32 of unit length, 1 <= D <= max_dims.
    """
    mean, scale = _measure_columns(features)
    axes = _find_axes(_sum_covariance(features, mean, scale), max_dims)
    reduced = np.empty((len(features), axes.shape[1]), dtype=np.float32)
    for block in iter_blocks(len(features), BLOCK_ROWS):
        scores = _standardise(features[block], mean, scale) @ axes
        norms = np.linalg.norm(scores, axis=1)
        scores[norms < 1e-9, 0] = 1.0
        reduced[block] = scores / np.where(norms < 1e-9, 1.0, norms)[:, None]
    return reduced


def _measure_columns(features: npt.NDArray[np.floating]) -> tuple[Floats, Floats]:
    """Return each column's mean and the reciprocal of its deviation, 0 where the column is constant."""
    mean = features.mean(axis=0, dtype=np.float64)
    variance = np.zeros_like(mean)
    for block in iter_blocks(len(features), BLOCK_ROWS):
        variance += ((features[block].astype(np.float64) - mean) ** 2).sum(axis=0)
    deviation = np.sqrt(variance / len(features))
    is_constant = deviation <= 1e-6 * np.abs(mean)
    return mean, np.where(is_constant, 0.0, 1.0 / np.where(is_constant, 1.0, deviation))


def _standardise(block: npt.NDArray[np.floating], mean: Floats, scale: Floats) -> Floats:
    return np.asarray((block.astype(np.float64) - mean) * scale)


def _sum_covariance(features: npt.NDArray[np.floating], mean: Floats, scale: Floats) -> Floats:
    covariance = np.zeros((features.shape[1], features.shape[1]))
    for block in iter_blocks(len(features), BLOCK_ROWS):
        rows = _standardise(features[block], mean, scale)
        covariance += rows.T @ rows
    return covariance / len(features)


def _find_axes(covariance: Floats, max_dims: int) -> Floats:
    variances, axes = np.linalg.eigh(covariance)
    order = np.argsort(-variances, kind="stable")[:max_dims]
    is_real = variances[order] > MIN_VARIANCE_RATIO * max(variances[order[0]], 1e-300)
    axes = axes[:, order[is_real]] if is_real.any() else axes[:, order[:1]]
    largest = np.abs(axes).argmax(axis=0)
    return np.asarray(axes * np.sign(axes[largest, np.arange(axes.shape[1])]))
