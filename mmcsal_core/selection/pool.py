"""The pool that a strategy chooses from: checked unit vectors, optional backbone features, optional stored neighbours.

Rows are in the order of pair_id, so that "lowest row" breaks ties as "lowest pair_id" would. The distance between two
pairs is the root mean square over modalities of the distance between unit vectors: the distance of `joint`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from mmcsal_core.errors import DataError
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
    """

    embeddings: Mapping[str, Vectors]
    features: Mapping[str, npt.NDArray[np.floating]]
    neighbors: Mapping[str, Rows] | None = None
    spaces: Mapping[str, Vectors] | None = None

    @property
    def num_pairs(self) -> int:
        """N."""
        return len(next(iter(self.embeddings.values())))

    @cached_property
    def joint(self) -> Vectors:
        """All modalities side by side, (N, sum of dims) float32 of unit length."""
        side_by_side: Vectors = np.hstack(list(self.embeddings.values())) * np.float32(len(self.embeddings) ** -0.5)
        return side_by_side


def make_pool(
    embeddings: Mapping[str, npt.NDArray[np.floating]],
    features: Mapping[str, npt.NDArray[np.floating]] | None = None,
    neighbors: Mapping[str, Rows] | None = None,
    spaces: Mapping[str, Vectors] | None = None,
) -> Pool:
    """Check the vectors and scale the embeddings to unit length.

    Args:
        embeddings: (N, dim) by modality, in the shared space, one modality at least.
        features: (N, dim_m) by modality, the backbones' own spaces.
        neighbors: (N, K) rows by relation name, -1 where there is none.
        spaces: (N, dim_m) by modality, from `reduce_features`.

    Raises:
        DataError: no modality, unequal lengths, or a row that is NaN, infinite or zero; the message names the row.
    """
    if not embeddings:
        raise DataError("a pool needs embeddings of at least one modality, got none; pass e.g. {'image': array}")
    units, given = scale_to_unit(embeddings), dict(features or {})
    check_matrices(given, "feature")
    pool = Pool(units, given, neighbors, spaces)
    lengths = {len(x) for x in given.values()} - {pool.num_pairs}
    if lengths:
        raise DataError(f"features and embeddings must be of the same pairs, got {lengths} and {pool.num_pairs} rows")
    return pool
