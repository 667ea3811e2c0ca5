"""Measures of embeddings and of selections, none of which knows how either was made.

Embeddings are unit vectors in a space that the modalities share. Every measure goes block by block: nothing of size
pool x pool is ever held.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import normalized_mutual_info_score, roc_auc_score
from sklearn.model_selection import PredefinedSplit, cross_val_score

from mmcsal_core.encoder.prototypes import cluster_spherical
from mmcsal_core.errors import DataError
from mmcsal_core.schema import relation_name

Vectors = npt.NDArray[np.float32]

BLOCK_ROWS = 1024
RECALL_DEPTHS = (1, 5, 10)
NUM_FOLDS = 5


def measure_modality_gap(a: Vectors, b: Vectors) -> float:
    """Return the distance between the means of two modalities' embeddings, (n, d) each; in [0, 2]."""
    return float(np.linalg.norm(a.mean(axis=0, dtype=np.float64) - b.mean(axis=0, dtype=np.float64)))


def measure_modality_accuracy(a: Vectors, b: Vectors, seed: int) -> float:
    """Return how often a linear classifier tells the modality of an unseen embedding, cross-validated; .5 = no gap.

    Both embeddings of a pair share a fold: a classifier that had seen the one would guess wrong on the other.

    Args:
        a: embeddings of one modality, (n, d).
        b: embeddings of the other, row i paired with row i, (n, d).
        seed: of the folds.
    """
    if len(a) < 2:
        return 0.5
    vectors = np.concatenate([a, b]).astype(np.float64)
    labels = np.repeat([0, 1], len(a))
    folds = np.random.default_rng(seed).permutation(len(a)) % NUM_FOLDS
    split = PredefinedSplit(np.concatenate([folds, folds]))
    return float(np.mean(cross_val_score(LogisticRegression(max_iter=2000), vectors, labels, cv=split)))


def measure_retrieval(queries: Vectors, pool: Vectors) -> dict[str, float]:
    """Return the share of queries whose partner is among the 1, 5 and 10 nearest; ties count against it.

    Args:
        queries: unit vectors of one modality, (n, d).
        pool: unit vectors of the other, row i paired with row i, (n, d).
    """
    ranks = np.concatenate([_rank_partners(queries, pool, rows) for rows in _iter_blocks(len(queries))])
    return {f"r@{depth}": float(np.mean(ranks < depth)) for depth in RECALL_DEPTHS}


def measure_alignment(a: Vectors, b: Vectors) -> float:
    """Return the mean cosine of the pairs' embeddings, (n, d) each; in [-1, 1]."""
    return float(np.einsum("nd,nd->n", a, b, dtype=np.float64).mean())


def measure_uniformity(vectors: Vectors) -> float:
    """Return log of the mean of exp(-2 d^2) over distinct rows (n, d); 0 = collapsed, lower = more even."""
    num_rows = len(vectors)
    if num_rows < 2:
        return 0.0
    total = sum(
        float(np.exp(4.0 * (vectors[rows] @ vectors.T).astype(np.float64) - 4.0).sum())
        for rows in _iter_blocks(num_rows)
    )
    norms = np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64)
    mean = (total - float(np.exp(4.0 * norms - 4.0).sum())) / (num_rows * (num_rows - 1))
    return float(np.log(max(mean, np.finfo(np.float64).tiny)))


def measure_cluster_agreement(a: Vectors, b: Vectors, seed: int) -> float:
    """Return the normalised mutual information of the two modalities' clusterings into sqrt(n) clusters; in [0, 1]."""
    num_clusters = max(1, round(len(a) ** 0.5))
    labels = [cluster_spherical(vectors, num_clusters, seed)[1] for vectors in (a, b)]
    return float(normalized_mutual_info_score(*labels))


def measure_effective_rank(vectors: Vectors) -> float:
    """Return exp of the entropy of the centred embeddings' singular values (Roy & Vetterli, 2007); 1 = collapsed."""
    centred = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)
    values = np.sqrt(np.maximum(np.linalg.eigvalsh(centred.T @ centred), 0.0))
    if values.sum() <= 0:
        return 1.0
    shares = values[values > 0] / values.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def measure_suspicion_auc(suspicion: npt.NDArray[np.floating], is_mispaired: npt.NDArray[np.bool_]) -> float | None:
    """Return how often a mispaired pair is more suspicious than a right one, ties by half; 0.5 is chance, 1 is best.

    Args:
        suspicion: of each pair, (n,); only its order counts.
        is_mispaired: the truth, (n,).

    Returns:
        The area under the ROC curve in [0, 1]; None where all pairs are mispaired or none is.
    """
    if is_mispaired.all() or not is_mispaired.any():
        return None
    return float(roc_auc_score(is_mispaired, suspicion))


def centre_embeddings(embeddings: Mapping[str, Vectors]) -> dict[str, Vectors]:
    """Take each modality's mean away and scale to unit length again; a row that falls on the mean becomes 0.

    The plainest way to close the gap between centroids, without any training: what prototypes must beat.

    Args:
        embeddings: unit vectors per modality, (n, d) each.
    """
    centred = {name: vectors - vectors.mean(axis=0, dtype=np.float64) for name, vectors in embeddings.items()}
    norms = {name: np.linalg.norm(vectors, axis=1, keepdims=True) for name, vectors in centred.items()}
    return {
        name: np.where(norms[name] < 1e-6, 0.0, vectors / np.maximum(norms[name], 1e-6)).astype(np.float32)
        for name, vectors in centred.items()
    }


def diagnose_embeddings(embeddings: Mapping[str, Vectors], seed: int) -> dict[str, Any]:
    """Measure how well two or more modalities share one space, as they are and with each modality's mean taken away.

    Args:
        embeddings: unit vectors per modality, (n, d) each, row i of each belonging to pair i.
        seed: of the folds and the clusterings.

    Returns:
        `num_pairs`; `modality_gap`, `modality_accuracy`, `alignment`, `cluster_agreement` and `retrieval`, each keyed
        by `a->b` (retrieval also by `b->a`); `uniformity` and `effective_rank`, keyed by modality; and in `centred`
        all of these but the first for `centre_embeddings`.
    """
    return {
        "num_pairs": len(next(iter(embeddings.values()))),
        **_measure_sharing(embeddings, seed),
        "centred": _measure_sharing(centre_embeddings(embeddings), seed),
    }


def _measure_sharing(embeddings: Mapping[str, Vectors], seed: int) -> dict[str, Any]:
    couples = {relation_name(a, b): (embeddings[a], embeddings[b]) for a, b in combinations(embeddings, 2)}
    backward = {relation_name(b, a): (embeddings[b], embeddings[a]) for a, b in combinations(embeddings, 2)}
    return {
        "modality_gap": {name: measure_modality_gap(a, b) for name, (a, b) in couples.items()},
        "modality_accuracy": {name: measure_modality_accuracy(a, b, seed) for name, (a, b) in couples.items()},
        "alignment": {name: measure_alignment(a, b) for name, (a, b) in couples.items()},
        "cluster_agreement": {name: measure_cluster_agreement(a, b, seed) for name, (a, b) in couples.items()},
        "retrieval": {name: measure_retrieval(a, b) for name, (a, b) in {**couples, **backward}.items()},
        "uniformity": {name: measure_uniformity(vectors) for name, vectors in embeddings.items()},
        "effective_rank": {name: measure_effective_rank(vectors) for name, vectors in embeddings.items()},
    }


def measure_coverage_curve(
    embeddings: Mapping[str, Vectors], picks: npt.NDArray[np.integer], budgets: Sequence[int]
) -> npt.NDArray[np.float64]:
    """Return, for each budget b, the mean over the pool of the best similarity to the first b picks.

    The similarity of two pairs is the mean over modalities of the cosine: no objective's own kernel.

    Args:
        embeddings: unit vectors per modality, (n, d) each.
        picks: rows of the pool in pick order, (k,).
        budgets: numbers of picks, each between 1 and k.

    Returns:
        One value a budget, in [-1, 1], (len(budgets),).

    Raises:
        DataError: a pick is no row of the pool, or a budget is out of range.
    """
    joint = _join_modalities(embeddings)
    _check_picks(picks, len(joint))
    if any(not 1 <= budget <= len(picks) for budget in budgets):
        raise DataError(f"a budget must be between 1 and the {len(picks)} picks, got {list(budgets)}; leave it out")
    columns = np.asarray(budgets, dtype=np.int64) - 1
    totals = np.zeros(len(columns))
    for rows in _iter_blocks(len(joint)):
        best = np.maximum.accumulate(joint[rows] @ joint[picks].T, axis=1)
        totals += best[:, columns].sum(axis=0, dtype=np.float64)
    return totals / len(joint)


def measure_covering_radius(embeddings: Mapping[str, Vectors], picks: npt.NDArray[np.integer]) -> float:
    """Return the largest distance of a pair of the pool to its nearest pick; in [0, 2].

    The distance of two pairs is the root mean square over modalities of the distance between unit vectors.

    Args:
        embeddings: unit vectors per modality, (n, d) each.
        picks: rows of the pool, (k,), k >= 1.

    Raises:
        DataError: there is no pick, or a pick is no row of the pool.
    """
    joint = _join_modalities(embeddings)
    _check_picks(picks, len(joint))
    return max(_measure_block_radius(joint, picks, rows) for rows in _iter_blocks(len(joint)))


def _measure_block_radius(joint: Vectors, picks: npt.NDArray[np.integer], rows: slice) -> float:
    nearest = picks[np.argmax(joint[rows] @ joint[picks].T, axis=1)]
    return float(np.linalg.norm(joint[rows].astype(np.float64) - joint[nearest], axis=1).max())


def _join_modalities(embeddings: Mapping[str, Vectors]) -> Vectors:
    """Concatenate so that the dot product is the mean cosine and the distance the root mean square, (n, M d)."""
    scale = np.float32(len(embeddings) ** -0.5)
    return np.concatenate([np.asarray(vectors, np.float32) * scale for vectors in embeddings.values()], axis=1)


def _check_picks(picks: npt.NDArray[np.integer], num_pairs: int) -> None:
    if len(picks) == 0 or picks.min() < 0 or picks.max() >= num_pairs:
        shown = f"{picks.min()} to {picks.max()}" if len(picks) else "none"
        raise DataError(f"picks must be rows of the pool, 0 to {num_pairs - 1}, got {shown}; map ids to rows first")


def _rank_partners(queries: Vectors, pool: Vectors, rows: slice) -> npt.NDArray[np.int64]:
    similarities = queries[rows] @ pool.T
    own = similarities[np.arange(len(similarities)), np.arange(rows.start, rows.stop)]
    return np.asarray((similarities >= own[:, None]).sum(axis=1) - 1, dtype=np.int64)


def _iter_blocks(num_rows: int) -> Iterator[slice]:
    for start in range(0, num_rows, BLOCK_ROWS):
        yield slice(start, min(start + BLOCK_ROWS, num_rows))
