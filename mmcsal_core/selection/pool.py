"""The pool that a strategy chooses from: checked unit vectors, and what is known of them besides.

Rows are in the order of pair_id, so that "lowest row" breaks ties as "lowest pair_id" would. The distance between two
pairs is the root mean square over modalities, weighted where weights are given, of the distance between unit vectors:
the distance of `joint`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from mmcsal_core.errors import ConfigError, DataError
from mmcsal_core.neighbors.vectors import Rows, Vectors, check_matrices, scale_to_unit


@dataclass(frozen=True, eq=False)
class Pool:
    """All pairs that may be picked; build it with `make_pool`.

    Args:
        embeddings: (N, dim) float32 of unit length by modality.
        features: (N, dim_m) backbone features by modality; empty where there are none.
        neighbors: (N, K) rows by relation name, e.g. `image->text`, where they are stored; None to search when needed.
        spaces: (N, dim_m) float32 of unit length by modality, the backbones' own spaces where they are stored; None to
            make them from the features when needed.
        weights: above 0, mean 1, by modality, of what a modality counts; empty where all count the same.
        suspicion: (N,) how far each pair is suspected of being mispaired, where that is known; only its order counts.
            None to find it from embeddings and neighbours when needed.
    """

    embeddings: Mapping[str, Vectors]
    features: Mapping[str, npt.NDArray[np.floating]]
    neighbors: Mapping[str, Rows] | None = None
    spaces: Mapping[str, Vectors] | None = None
    weights: Mapping[str, float] = field(default_factory=dict)
    suspicion: npt.NDArray[np.floating] | None = None

    @property
    def num_pairs(self) -> int:
        """N."""
        return len(next(iter(self.embeddings.values())))

    def check_shared_space(self, strategy: str) -> None:
        """Refuse modalities whose embeddings cannot be compared with each other.

        Args:
            strategy: that compares them.

        Raises:
            DataError: embeddings of different lengths.
        """
        dims = {name: z.shape[1] for name, z in self.embeddings.items()}
        if len(set(dims.values())) > 1:
            raise DataError(
                f"strategy {strategy} compares across modalities, so embeddings must be of one length, got {dims}; "
                "embed them in one space, or set selection.space to features or to one modality"
            )

    @cached_property
    def joint(self) -> Vectors:
        """All modalities side by side, (N, sum of dims) float32 of unit length; a single modality is not copied."""
        if len(self.embeddings) == 1:
            return next(iter(self.embeddings.values()))
        weights = [self.weights.get(name, 1.0) for name in self.embeddings]
        shares = [np.float32((sum(weights) / weight) ** -0.5) for weight in weights]
        joint: Vectors = np.empty((self.num_pairs, sum(x.shape[1] for x in self.embeddings.values())), np.float32)
        stops = np.cumsum([x.shape[1] for x in self.embeddings.values()])
        for x, share, stop in zip(self.embeddings.values(), shares, stops, strict=True):
            np.multiply(x, share, out=joint[:, stop - x.shape[1] : stop])
        return joint


def make_pool(
    embeddings: Mapping[str, npt.NDArray[np.floating]],
    features: Mapping[str, npt.NDArray[np.floating]] | None = None,
    neighbors: Mapping[str, Rows] | None = None,
    spaces: Mapping[str, Vectors] | None = None,
    weights: Mapping[str, float] | None = None,
    suspicion: npt.NDArray[np.floating] | None = None,
) -> Pool:
    """Check the vectors and scale the embeddings to unit length.

    Args:
        embeddings: (N, dim) by modality, in the shared space, one modality at least.
        features: (N, dim_m) by modality, the backbones' own spaces.
        neighbors: (N, K) rows by relation name, -1 where there is none.
        spaces: (N, dim_m) by modality, from `reduce_features`.
        weights: of what a modality counts, by modality; 1 where none is given, and 0 leaves the modality out.
        suspicion: (N,) of being mispaired; it is dropped with a modality, since it speaks of that one too.

    Raises:
        ConfigError: a weight is below 0 or of no modality, or all are 0.
        DataError: no modality, unequal lengths, or a row that is NaN, infinite or zero; the message names the row.
    """
    if not embeddings:
        raise DataError("a pool needs embeddings of at least one modality, got none; pass e.g. {'image': array}")
    units, given = scale_to_unit(embeddings), dict(features or {})
    check_matrices(given, "feature")
    pool = _weigh_modalities(Pool(units, given, neighbors, spaces, suspicion=suspicion), weights or {})
    lengths = {len(x) for x in given.values()} - {pool.num_pairs}
    if lengths:
        raise DataError(f"features and embeddings must be of the same pairs, got {lengths} and {pool.num_pairs} rows")
    if suspicion is not None:
        check_scores(suspicion, pool.num_pairs, "suspicion")
    return pool


def check_scores(scores: npt.NDArray[np.floating], num_pairs: int, kind: str) -> None:
    """Refuse scores that are not one finite number a pair.

    Args:
        scores: of the pairs of a pool.
        num_pairs: N.
        kind: what they are, for the message, e.g. `suspicion`.

    Raises:
        DataError: a rule is broken; the message names the row.
    """
    if scores.shape != (num_pairs,):
        raise DataError(f"{kind} is one number a pair, ({num_pairs},), got {scores.shape}; give that of the same pairs")
    wrong = np.flatnonzero(~np.isfinite(scores))
    if len(wrong):
        raise DataError(
            f"{kind} must be finite, but row {wrong[0]} has {scores[wrong[0]]} ({len(wrong)} such rows); "
            "measure it again, or leave it out"
        )


def _weigh_modalities(pool: Pool, weights: Mapping[str, float]) -> Pool:
    if not weights:
        return pool
    given = {name: weights.get(name, 1.0) for name in pool.embeddings}
    unknown, total = sorted(set(weights) - set(given)), sum(given.values())
    if unknown or min(given.values()) < 0 or total == 0:
        raise ConfigError(
            f"modality_weights are 0 or more for each of {', '.join(given)}, and one is above 0, got {dict(weights)}; "
            "correct them"
        )
    kept = {name: weight for name, weight in given.items() if weight > 0}

    def keep(matrices: Mapping[str, npt.NDArray[np.floating]]) -> dict[str, npt.NDArray[np.floating]]:
        return {name: x for name, x in matrices.items() if name in kept}

    return Pool(
        keep(pool.embeddings),
        keep(pool.features),
        pool.neighbors,
        None if pool.spaces is None else keep(pool.spaces),
        {name: weight * len(kept) / total for name, weight in kept.items()},
        pool.suspicion if len(kept) == len(given) else None,
    )
