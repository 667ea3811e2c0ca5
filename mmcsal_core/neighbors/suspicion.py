"""How far a pair is suspected of being mispaired: by how its two halves agree, and by what they have for neighbours.

Two ranks are added. The *margin* is the cosine of the pair's halves less its *crowding*, the cosine of a half with the
nearest other halves: in a dense part of the space any two halves have a high cosine, and in a rare one even the right
ones have a low one, so the cosine alone would blame rare pairs (Conneau et al., "Word Translation Without Parallel
Data", arXiv 1710.04087, correct for hubs in the same way). The *consistency* is the overlap of the pair's neighbours in
one modality with those in another, averaged over depths so that the nearest ones count most (after the average overlap
of Fagin, Kumar & Sivakumar, "Comparing top k lists", 2003): a rare group that is smaller than the list is not blamed.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

from mmcsal_core.artifacts import CHUNK_ROWS
from mmcsal_core.neighbors.index import NO_NEIGHBOR
from mmcsal_core.neighbors.vectors import Floats, Rows, Vectors, iter_blocks
from mmcsal_core.schema import backbone_space, relation_name

CROWDING_NEIGHBORS = 10
"""Nearest halves of other pairs that say how crowded it is around a half."""

SEEN_MARGIN_WEIGHT = 0.5
"""What the margin counts beside the consistency where only an encoder that has seen the pairs speaks for them."""


@dataclass(frozen=True, eq=False)
class Witnesses:
    """What each of n pairs says of itself, before it is compared with others.

    Args:
        alignment: (n,) cosine of the pair's embeddings, mean over modality pairs; 1 where there is a single modality.
        crowding: (n,) cosine of an embedding with the nearest of other pairs in another modality, mean over ordered
            modality pairs; 0 where there are none.
        consistency: (n,) overlap of the neighbours, in [0, 1].
    """

    alignment: Floats
    crowding: Floats
    consistency: Floats


def measure_witnesses(embeddings: Mapping[str, Vectors], neighbors: Mapping[str, Rows], start: int = 0) -> Witnesses:
    """Measure what rows `start` and on say of themselves, in chunks, so that equal chunks give equal bits.

    The consistency is that of the backbones' own spaces where there are two or more, since no encoder learned them.

    Args:
        embeddings: (N, dim) float32 of unit length by modality.
        neighbors: (n, K) rows by relation name: of every ordered pair of modalities, and of the backbones' spaces.
        start: first row that `neighbors` speak of, a multiple of `CHUNK_ROWS`.
    """
    backbones = [relation_name(backbone_space(name), backbone_space(name)) for name in embeddings]
    witnessing = [name for name in backbones if name in neighbors]
    if len(witnessing) < 2:
        witnessing = [relation_name(name, name) for name in embeddings]
    num_rows = len(next(iter(neighbors.values())))
    alignment, crowding = np.empty(num_rows), np.empty(num_rows)
    for block in iter_blocks(num_rows, CHUNK_ROWS):
        own = {name: z[start + block.start : start + block.stop] for name, z in embeddings.items()}
        alignment[block] = measure_alignment(own)
        crowding[block] = _measure_crowding(own, embeddings, {name: rows[block] for name, rows in neighbors.items()})
    return Witnesses(alignment, crowding, measure_consistency([neighbors[name] for name in witnessing]))


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


def _measure_crowding(
    own: Mapping[str, Vectors], embeddings: Mapping[str, Vectors], neighbors: Mapping[str, Rows]
) -> Floats:
    """Return the mean over ordered modality pairs of the mean cosine with the nearest halves, (n,)."""
    means = []
    for query, target in itertools.permutations(embeddings, 2):
        rows = neighbors[relation_name(query, target)][:, :CROWDING_NEIGHBORS]
        is_found = rows != NO_NEIGHBOR
        cosines = np.einsum("nd,nkd->nk", own[query], embeddings[target][rows]).astype(np.float64)
        means.append(np.sum(cosines * is_found, axis=1) / np.maximum(is_found.sum(axis=1), 1))
    return np.asarray(np.mean(means, axis=0)) if means else np.zeros(len(next(iter(own.values()))))


def measure_consistency(neighbors: Sequence[Rows]) -> Floats:
    """Return how far modalities agree on a pair's neighbours, mean over modality pairs.

    For two lists it is the share of the first k neighbours that both have, averaged over k = 1 to K with weight 1 / k.

    Args:
        neighbors: (n, K) rows by falling similarity, one a modality, `NO_NEIGHBOR` where there is none.

    Returns:
        (n,) float64 in [0, 1]; 1 where there is a single modality or no neighbour.
    """
    overlaps = [_average_overlap(a, b) for a, b in itertools.combinations(neighbors, 2) if min(a.shape[1], b.shape[1])]
    return np.asarray(np.mean(overlaps, axis=0)) if overlaps else np.ones(len(neighbors[0]))


def _average_overlap(a: Rows, b: Rows) -> Floats:
    depth = min(a.shape[1], b.shape[1])
    depths = np.arange(1, depth + 1)
    worths = np.cumsum((1.0 / depths**2)[::-1])[::-1] / (1.0 / depths).sum()
    blocks = iter_blocks(len(a), CHUNK_ROWS)
    return np.concatenate([_add_shared(a[block, :depth], b[block, :depth], worths) for block in blocks])


def _add_shared(a: Rows, b: Rows, worths: Floats) -> Floats:
    """Add what each shared neighbour is worth from the depth on at which both lists have it, (n,)."""
    num_codes = int(max(a.max(), b.max())) + 1
    (codes_a, ranks_a), (codes_b, ranks_b) = _encode_edges(a, num_codes), _encode_edges(b, num_codes)
    shared, in_a, in_b = np.intersect1d(codes_a, codes_b, assume_unique=True, return_indices=True)
    later = np.maximum(ranks_a[in_a], ranks_b[in_b])
    sums: Floats = np.bincount(shared // num_codes, weights=worths[later], minlength=len(a)).astype(np.float64)
    return sums


def _encode_edges(neighbors: Rows, num_codes: int) -> tuple[Rows, Rows]:
    """Return a number an edge, and the edge's rank."""
    codes = np.arange(len(neighbors), dtype=np.int64)[:, None] * num_codes + neighbors
    ranks = np.broadcast_to(np.arange(neighbors.shape[1]), neighbors.shape)
    is_edge = neighbors != NO_NEIGHBOR
    return codes[is_edge], ranks[is_edge]


def score_suspicion(witnesses: Witnesses, out_of_fold: npt.NDArray[np.floating] | None = None) -> Vectors:
    """Rank pairs by low margin and low consistency.

    Args:
        witnesses: of all N pairs.
        out_of_fold: (N,) cosine of the pair's halves by an encoder that has not seen the pair, where there is one; the
            margin then takes the mean of both cosines, and counts as much as the consistency.

    Returns:
        (N,) float32 in [0, 1], the share of other pairs that are less suspicious; ties share a rank.
    """
    alignment, weight = witnesses.alignment, SEEN_MARGIN_WEIGHT
    if out_of_fold is not None:
        alignment, weight = (alignment + out_of_fold) / 2, 1.0
    doubts = weight * rankdata(witnesses.crowding - alignment) + rankdata(-witnesses.consistency)
    return np.asarray((rankdata(doubts) - 1) / max(1, len(doubts) - 1), dtype=np.float32)


def weigh_suspicion(suspicion: npt.NDArray[np.floating], suspicious_fraction: float) -> Floats:
    """Keep the suspicion of the most suspicious share of a pool, and clear the others.

    Args:
        suspicion: (N,), only its order counts.
        suspicious_fraction: share of the pool that keeps some, in [0, 1].

    Returns:
        (N,) float64: 0, then rising linearly with the rank to 1 for the most suspicious pair. Ties share a rank.
    """
    num_rows = len(suspicion)
    if suspicious_fraction == 0 or num_rows == 1:
        return np.zeros(num_rows)
    position = (rankdata(suspicion) - 1) / (num_rows - 1)
    return np.asarray(np.clip((position - (1 - suspicious_fraction)) / suspicious_fraction, 0.0, 1.0))
