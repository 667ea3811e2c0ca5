"""The relations in which two pairs are compared, each as two matrices of unit vectors: d^2(i, j) = 2 - 2 q_i . p_j.

Uni-modal: q = p = z^m. Cross-modal, averaged over both directions: q = (z^a, z^b) / sqrt 2, p = (z^b, z^a) / sqrt 2, so
that d^2(i, j) is the mean of |z_i^a - z_j^b|^2 and |z_i^b - z_j^a|^2. There d(i, i) > 0 in general.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mmcsal_core.neighbors.config import KernelConfig
from mmcsal_core.neighbors.vectors import Floats, Rows, Vectors, iter_blocks
from mmcsal_core.schema import backbone_space

BANDWIDTH_ROWS = 2048
"""Rows from which a relation's bandwidth is estimated, at most."""

BLOCK_ROWS, TILE_ROWS = 256, 32_768
"""Rows that are compared with so many others at once, 32 MiB of similarities."""

_MIN_SQUARED_DISTANCE = 1e-6
"""Squared distances below this are rounding of 2 - 2 cos in float32: the rows coincide."""


@dataclass(frozen=True, eq=False)
class Relation:
    """One way of comparing pair i with pair j.

    Args:
        name: e.g. `image`, `image~text`, `image.backbone`.
        queries: (N, dim) float32 of unit length, what stands for pair i.
        pool: (N, dim) float32 of unit length, what stands for pair j.
        weight: w_r in the pair kernel.
    """

    name: str
    queries: Vectors
    pool: Vectors
    weight: float


def list_shared_relations(embeddings: Mapping[str, Vectors], config: KernelConfig) -> list[Relation]:
    """Return the uni-modal and cross-modal relations of the shared space; those of weight 0 are left out."""
    relations = [Relation(name, z, z, config.unimodal_weight) for name, z in embeddings.items()]
    if config.crossmodal_weight > 0:
        relations += [_cross(a, b, embeddings, config) for a, b in itertools.combinations(embeddings, 2)]
    return relations


def _cross(a: str, b: str, embeddings: Mapping[str, Vectors], config: KernelConfig) -> Relation:
    half = np.float32(np.sqrt(0.5))
    queries = np.hstack([embeddings[a], embeddings[b]]) * half
    pool = np.hstack([embeddings[b], embeddings[a]]) * half
    return Relation(_name_cross(a, b), queries, pool, config.crossmodal_weight)


def list_backbone_relations(spaces: Mapping[str, Vectors], config: KernelConfig) -> list[Relation]:
    """Return the uni-modal relations of the backbones' own spaces, none where their weight is 0.

    Args:
        spaces: (N, dim_m) float32 of unit length by modality, from `reduce_features`.
        config: weights.
    """
    if config.backbone_weight == 0:
        return []
    return [Relation(backbone_space(name), x, x, config.backbone_weight) for name, x in spaces.items()]


def list_neighborhood_relations(means: Mapping[str, Vectors], config: KernelConfig) -> list[Relation]:
    """Return the relations between neighbourhoods.

    Args:
        means: (N, dim) float32 of unit length by space, from `average_neighborhoods`.
        config: weights.
    """
    return [Relation(name_neighborhood(name), x, x, config.neighborhood_weight) for name, x in means.items()]


def name_neighborhood(space: str) -> str:
    """Name the relation between neighbourhoods in a space, e.g. `image.backbone.neighborhood`."""
    return f"{space}.neighborhood"


def weigh_relations(relations: Sequence[Relation], weights: Mapping[str, float]) -> list[Relation]:
    """Multiply each relation's weight by the mean weight of its modalities; no weights change nothing.

    Args:
        relations: of the shared space, of the backbones' own, or of neighbourhoods.
        weights: by modality, of all modalities, or empty.
    """
    if not weights:
        return list(relations)
    shares = {backbone_space(name): weight for name, weight in weights.items()} | dict(weights)
    shares |= {name_neighborhood(name): weight for name, weight in shares.items()}
    shares |= {_name_cross(a, b): (weights[a] + weights[b]) / 2 for a, b in itertools.permutations(weights, 2)}
    return [replace(relation, weight=relation.weight * shares[relation.name]) for relation in relations]


def _name_cross(a: str, b: str) -> str:
    return f"{a}~{b}"


def measure_bandwidth(relation: Relation, neighbor: int | None, seed: int) -> float:
    """Return what squared distances are divided by, always above 0.

    It is the mean squared distance of two different pairs, or the median over rows of the squared distance to the
    `neighbor`-th nearest other row. Where that is 0 (duplicates) the median of the distances above 0 stands in, and 1
    where there is none.

    Args:
        relation: over N pairs.
        neighbor: 1 is the nearest; clipped to N - 1. None for the mean.
        seed: of the sample of rows, where there are more than `BANDWIDTH_ROWS`; the mean needs none.
    """
    if neighbor is None:
        mean = _average_squared_distance(relation)
        return mean if mean > _MIN_SQUARED_DISTANCE else 1.0
    num_rows = len(relation.queries)
    if num_rows == 1:
        return 1.0
    rows = np.arange(num_rows)
    if num_rows > BANDWIDTH_ROWS:
        rows = np.sort(np.random.default_rng(seed).choice(num_rows, BANDWIDTH_ROWS, replace=False))
    distances = _measure_neighbor_distances(relation, rows, min(neighbor, num_rows - 1))
    positive = distances[distances > _MIN_SQUARED_DISTANCE]
    if 2 * len(positive) > len(distances):
        return float(np.median(distances))
    return float(np.median(positive)) if len(positive) else 1.0


def _average_squared_distance(relation: Relation) -> float:
    """Return the mean of 2 - 2 q_i . p_j over i != j, 0 for a single row."""
    num_rows = len(relation.queries)
    if num_rows == 1:
        return 0.0
    sums = [matrix.sum(axis=0, dtype=np.float64) for matrix in (relation.queries, relation.pool)]
    own = sum(
        float(np.einsum("nd,nd->", relation.queries[block], relation.pool[block], dtype=np.float64))
        for block in iter_blocks(num_rows, TILE_ROWS)
    )
    return 2.0 - 2.0 * (float(sums[0] @ sums[1]) - own) / (num_rows * (num_rows - 1))


def _measure_neighbor_distances(relation: Relation, rows: Rows, neighbor: int) -> Floats:
    found = np.empty(len(rows))
    for block in iter_blocks(len(rows), BLOCK_ROWS):
        largest = _find_largest(relation, rows[block], neighbor)
        found[block] = 2.0 - 2.0 * largest.min(axis=1)
    return np.maximum(found, 0.0)


def _find_largest(relation: Relation, rows: Rows, num_largest: int) -> Vectors:
    """Return the largest similarities of some rows to other rows, (n, num_largest), in no order."""
    queries = relation.queries[rows]
    largest: Vectors = np.empty((len(rows), 0), dtype=np.float32)
    for tile in iter_blocks(len(relation.pool), TILE_ROWS):
        similarities = queries @ relation.pool[tile].T
        is_inside = (tile.start <= rows) & (rows < tile.stop)
        similarities[is_inside, rows[is_inside] - tile.start] = -np.inf
        similarities = np.concatenate([largest, similarities], axis=1)
        position = max(0, similarities.shape[1] - num_largest)
        similarities.partition(position, axis=1)
        largest = similarities[:, position:].copy()
    return largest
