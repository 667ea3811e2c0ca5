"""Made pools of pairs, shared by the tests of neighbours and of selection."""

from dataclasses import dataclass

import numpy as np

from mmcsal_core.neighbors.vectors import Rows, Vectors


@dataclass(frozen=True, eq=False)
class ClusteredPool:
    """A pool with the truth beside it: embeddings and features by modality, each pair's cluster."""

    embeddings: dict[str, Vectors]
    features: dict[str, Vectors]
    clusters: Rows


def make_clustered_pool(num_pairs: int, num_clusters: int = 10, dim: int = 16, seed: int = 0) -> ClusteredPool:
    """Make two modalities with a constant gap between them, their clusters following a Zipf law."""
    rng = np.random.default_rng(seed)
    shares = 1 / np.arange(1, num_clusters + 1)
    clusters = rng.choice(num_clusters, num_pairs, p=shares / shares.sum())
    centers = rng.normal(size=(num_clusters, dim))
    gap = rng.normal(size=dim)
    raw = {
        "image": centers[clusters] + 0.4 * rng.normal(size=(num_pairs, dim)),
        "text": centers[clusters] + 0.4 * rng.normal(size=(num_pairs, dim)) + gap,
    }
    features = {name: (x @ rng.normal(size=(dim, 2 * dim))).astype(np.float32) for name, x in raw.items()}
    embeddings = {name: (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32) for name, x in raw.items()}
    return ClusteredPool(embeddings, features, clusters)
