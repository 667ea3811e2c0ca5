"""The pool in two dimensions, every modality in the same picture: what is left of the gap, and where the picks lie.

PCA is the default: it is linear, so distances that the picture shows are there, and it has no seed. UMAP (McInnes,
Healy & Melville, arXiv 1802.03426) shows groups better and distances between them not at all; it is an extra, since it
brings a compiler along. t-SNE was not chosen: it tells the same as UMAP, slower.
"""

import importlib.util
import warnings
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from mmcsal_core.errors import ConfigError

Projection: TypeAlias = Literal["pca", "umap"]
Vectors: TypeAlias = npt.NDArray[np.float32]

UMAP_NEIGHBORS = 15


def check_projection(method: Projection) -> None:
    """Refuse a method whose package is not there.

    Raises:
        ConfigError: `umap` without umap-learn.
    """
    if method == "umap" and importlib.util.find_spec("umap") is None:
        raise ConfigError(
            "report.projection umap needs the package umap-learn, got none; pip install 'mmcsal[umap]', or set "
            "report.projection to pca"
        )


def project_embeddings(
    embeddings: Mapping[str, Vectors], is_selected: npt.NDArray[np.bool_], method: Projection, seed: int
) -> dict[str, Any]:
    """Lay the embeddings of all modalities into one plane.

    Args:
        embeddings: unit vectors of the shown pairs, (n, d) a modality.
        is_selected: which of them were picked, (n,).
        method: `pca` or `umap`.
        seed: of UMAP.

    Returns:
        JSON values: `method`, `num_pairs`, `explained` (share of the variance that the plane shows; None for UMAP),
        `is_selected`, and `points`: by modality a list of x and one of y.

    Raises:
        ConfigError: `umap` without umap-learn.
    """
    rows = np.concatenate([vectors.astype(np.float64) for vectors in embeddings.values()])
    plane, explained = _project_pca(rows) if method == "pca" else (_project_umap(rows, seed), None)
    parts = np.split(plane, len(embeddings))
    return {
        "method": method,
        "num_pairs": len(is_selected),
        "explained": explained,
        "is_selected": is_selected.tolist(),
        "points": {
            name: {axis: [round(float(value), 4) for value in part[:, i]] for i, axis in enumerate("xy")}
            for name, part in zip(embeddings, parts, strict=True)
        },
    }


def _project_pca(rows: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], float]:
    """Return the scores on the first two components, (n, 2), each axis pointing to its largest coefficient's side."""
    centred = rows - rows.mean(axis=0)
    variances, axes = np.linalg.eigh(centred.T @ centred)
    variances, axes = np.maximum(variances[::-1], 0.0), axes[:, ::-1][:, :2]
    largest = np.abs(axes).argmax(axis=0)
    signs = np.where(axes[largest, np.arange(axes.shape[1])] < 0, -1.0, 1.0)
    total = float(variances.sum())
    return centred @ (axes * signs), float(variances[:2].sum()) / total if total > 0 else 1.0


def _project_umap(rows: npt.NDArray[np.float64], seed: int) -> npt.NDArray[np.float64]:
    check_projection("umap")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ImportWarning)  # of TensorFlow, which this needs not
        import umap  # noqa: PLC0415  an extra

    fitted = umap.UMAP(
        n_neighbors=min(UMAP_NEIGHBORS, len(rows) - 1), metric="cosine", random_state=seed, n_jobs=1, init="pca"
    )
    plane: npt.NDArray[np.float64] = fitted.fit_transform(rows).astype(np.float64)
    return plane
