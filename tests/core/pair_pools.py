"""Made pools of pairs, shared by the tests of neighbours and of selection."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

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


@dataclass(frozen=True, eq=False)
class MispairedPool:
    """A pool with planted mispaired pairs and one rare, well-paired cluster, numbered 0; (N,) each."""

    embeddings: dict[str, Vectors]
    is_mispaired: npt.NDArray[np.bool_]
    is_rare: npt.NDArray[np.bool_]
    clusters: Rows


def make_mispaired_pool(num_pairs: int, rare_share: float, mispaired_share: float, seed: int) -> MispairedPool:
    """Make two modalities of eight common clusters and a rare, looser one, and exchange some halves.

    The halves of a rare pair have a lower cosine than those of others: an encoder learns little from few pairs.
    """
    rng, dim = np.random.default_rng(seed), 24
    num_rare = round(rare_share * num_pairs)
    clusters = np.concatenate([np.zeros(num_rare, np.int64), rng.integers(1, 9, num_pairs - num_rare)])
    centers = rng.normal(size=(9, dim))
    shared = centers[clusters] + 0.8 * rng.normal(size=(num_pairs, dim))
    noise = np.where(clusters == 0, 1.6, 1.2)[:, None]
    raw = {name: shared + noise * rng.normal(size=(num_pairs, dim)) for name in ("image", "text")}
    moved = rng.choice(num_pairs, round(mispaired_share * num_pairs), replace=False)
    raw["text"][moved] = raw["text"][np.roll(moved, 1)]
    is_mispaired = np.zeros(num_pairs, dtype=bool)
    is_mispaired[moved] = clusters[moved] != clusters[np.roll(moved, 1)]
    embeddings = {name: (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32) for name, x in raw.items()}
    return MispairedPool(embeddings, is_mispaired, clusters == 0, clusters)
