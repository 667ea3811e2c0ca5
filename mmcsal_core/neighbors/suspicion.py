"""How far a pair is suspected of being mispaired, from what its two halves have for neighbours and from its alignment.

The cosine of a fitted encoder alone is a poor witness, since the encoder has learned mispaired pairs by heart; the
overlap of the pair's neighbours in one modality with those in the other is a better one, best in the backbones' spaces.
"""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.stats import rankdata

from mmcsal_core.neighbors.index import NO_NEIGHBOR
from mmcsal_core.neighbors.vectors import Floats, Rows, Vectors, iter_blocks

BLOCK_ROWS = 65_536


def measure_alignment(embeddings: Mapping[str, Vectors]) -> Floats:
    """Return the cosine of each pair's embeddings, mean over modality pairs; 1 where there is a single modality.

    Args:
        embeddings: (N, dim) float32 of unit length by modality.

    Returns:
        (N,) float64 in [-1, 1].
    """
    matrices = list(embeddings.values())
    cosines = [np.einsum("nd,nd->n", a, b).astype(np.float64) for a, b in itertools.combinations(matrices, 2)]
    return np.asarray(np.mean(cosines, axis=0)) if cosines else np.ones(len(matrices[0]))


def measure_consistency(neighbors: Sequence[Rows]) -> Floats:
    """Return the share of a pair's neighbours that two modalities agree on, mean over modality pairs.

    Args:
        neighbors: (N, K) rows by modality, `NO_NEIGHBOR` where there is none.

    Returns:
        (N,) float64 in [0, 1]; 1 where there is a single modality or no neighbour.
    """
    num_rows = len(neighbors[0])
    shares = [_share_overlap(a, b) for a, b in itertools.combinations(neighbors, 2) if min(a.shape[1], b.shape[1])]
    return np.asarray(np.mean(shares, axis=0)) if shares else np.ones(num_rows)


def _share_overlap(a: Rows, b: Rows) -> Floats:
    counts = [_count_shared(a[block], b[block], len(a)) for block in iter_blocks(len(a), BLOCK_ROWS)]
    return np.asarray(np.concatenate(counts) / min(a.shape[1], b.shape[1]))


def _count_shared(a: Rows, b: Rows, num_rows: int) -> Rows:
    shared = np.intersect1d(_encode_edges(a, num_rows), _encode_edges(b, num_rows), assume_unique=True) // num_rows
    return np.bincount(shared, minlength=len(a)).astype(np.int64)


def _encode_edges(neighbors: Rows, num_rows: int) -> Rows:
    codes = np.arange(len(neighbors), dtype=np.int64)[:, None] * num_rows + neighbors
    return np.asarray(codes[neighbors != NO_NEIGHBOR])


def score_suspicion(alignment: Floats, consistency: Floats, suspicious_fraction: float) -> Floats:
    """Rank pairs by low alignment and low consistency; only the most suspicious share scores above 0.

    Args:
        alignment: (N,), higher is better.
        consistency: (N,), higher is better.
        suspicious_fraction: share of the pool that scores above 0, in [0, 1].

    Returns:
        (N,) float64: 0, then rising linearly with the rank to 1 for the most suspicious pair. Ties share a rank.
    """
    num_rows = len(alignment)
    if suspicious_fraction == 0 or num_rows == 1:
        return np.zeros(num_rows)
    ranks = rankdata(rankdata(-alignment) + rankdata(-consistency))
    position = (ranks - 1) / (num_rows - 1)
    return np.asarray(np.clip((position - (1 - suspicious_fraction)) / suspicious_fraction, 0.0, 1.0))
