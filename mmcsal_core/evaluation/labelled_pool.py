"""Pairs with their labels, and how they are split into a pool to pick from and pairs to test on.

Labels are codes. A pair without one stays in the pool, where it may be picked and then teaches nothing; it is never
tested on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from mmcsal_core.errors import DataError, GateError
from mmcsal_core.evaluation.config import EvaluateConfig
from mmcsal_core.neighbors.vectors import Rows, Vectors

NO_LABEL = -1
"""Code of a pair whose class is not known."""

Matrices = Mapping[str, npt.NDArray[np.floating]]


@dataclass(frozen=True, eq=False)
class LabelledPool:
    """N pairs and the truth about them; rows are in the order of pair_id.

    Args:
        embeddings: (N, dim) of unit length by modality.
        features: (N, dim_m) by modality, the backbones' own; empty where there are none.
        labels: (N,) int64 codes from `encode_labels`, `NO_LABEL` where there is none.
        mispaired: (N,) bool, true where the halves do not belong together; None where that is not known.
        suspicion: (N,) how far each pair is suspected of being mispaired, where that is known; only its order counts.
        spaces: (N, dim_m) of unit length by modality, the backbones' own spaces where they are stored; None to make
            them from the features of the pairs that may be picked.
    """

    embeddings: Mapping[str, Vectors]
    features: Matrices
    labels: Rows
    mispaired: npt.NDArray[np.bool_] | None = None
    suspicion: npt.NDArray[np.floating] | None = None
    spaces: Mapping[str, Vectors] | None = None

    def __post_init__(self) -> None:
        if not np.issubdtype(np.asarray(self.labels).dtype, np.integer):
            raise DataError(f"labels are codes, got an array of {self.labels.dtype}; encode them with encode_labels")
        matrices = [*self.embeddings.values(), *self.features.values(), *(self.spaces or {}).values()]
        lengths = sorted({len(x) for x in matrices})
        if lengths != [len(self.labels)]:
            raise DataError(
                f"vectors and labels must be of the same pairs, got {lengths} rows and {len(self.labels)} labels"
            )

    @property
    def num_pairs(self) -> int:
        """N."""
        return len(self.labels)

    @property
    def classes(self) -> Rows:
        """Codes of the classes that have a pair, rising."""
        return np.unique(self.labels[self.labels != NO_LABEL])

    def restrict(self, rows: Rows) -> "LabelledPool":
        """Return some of the pairs, in this order."""

        def take(matrices: Matrices) -> dict[str, Any]:
            return {name: x[rows] for name, x in matrices.items()}

        return replace(
            self,
            embeddings=take(self.embeddings),
            features=take(self.features),
            labels=self.labels[rows],
            mispaired=None if self.mispaired is None else self.mispaired[rows],
            suspicion=None if self.suspicion is None else self.suspicion[rows],
            spaces=None if self.spaces is None else take(self.spaces),
        )


@dataclass(frozen=True, eq=False)
class Split:
    """A pool to pick from, and other pairs to test on, whose labels have the same codes."""

    number: int
    pool: LabelledPool
    test: LabelledPool


def encode_labels(values: Sequence[str | int | None]) -> tuple[Rows, tuple[str, ...]]:
    """Turn classes into codes, in the order of their names as text.

    Args:
        values: (N,) the class of each pair, None where it is not known.

    Returns:
        (N,) int64 codes, `NO_LABEL` for None; and the name of each code.
    """
    names = tuple(sorted({str(value) for value in values if value is not None}))
    codes = {name: code for code, name in enumerate(names)}
    encoded = [NO_LABEL if value is None else codes[str(value)] for value in values]
    return np.array(encoded, dtype=np.int64), names


def make_splits(pool: LabelledPool, config: EvaluateConfig, seed: int) -> list[Split]:
    """Split pairs at random, `num_splits` times; arguments and errors as in `split_pool`."""
    rows = split_pool(pool.labels, config.num_splits, config.test_fraction, seed)
    return [Split(number, pool.restrict(own), pool.restrict(test)) for number, (own, test) in enumerate(rows)]


def split_pool(labels: Rows, num_splits: int, test_fraction: float, seed: int) -> list[tuple[Rows, Rows]]:
    """Split pairs into pool and test, class by class, so that every class is in the pool.

    A class of two pairs or more is in the test with one pair at least. A class with a single pair, and pairs without a
    label, go to the pool.

    Args:
        labels: (N,) codes, `NO_LABEL` where there is none.
        num_splits: drawn independently: two tests may share pairs.
        test_fraction: share of each class that tests, in (0, 1).
        seed: of the draws.

    Returns:
        Rows of the pool and rows of the test, each rising, by split.

    Raises:
        GateError: fewer than two classes, or no class has two pairs.
    """
    classes, counts = np.unique(labels[labels != NO_LABEL], return_counts=True)
    if len(classes) < 2:
        raise GateError(
            f"an evaluation needs two classes or more, got {len(classes)} in {len(labels)} pairs; name another column"
        )
    if counts.max() < 2:
        raise GateError(
            f"an evaluation needs a class with two pairs, one to learn from and one to test, got {len(classes)} "
            "classes of one; name another column"
        )
    return [_draw_split(labels, test_fraction, np.random.default_rng([seed, split])) for split in range(num_splits)]


def _draw_split(labels: Rows, test_fraction: float, rng: np.random.Generator) -> tuple[Rows, Rows]:
    is_test = np.zeros(len(labels), dtype=bool)
    for code in np.unique(labels[labels != NO_LABEL]):
        members = rng.permutation(np.flatnonzero(labels == code))
        num_test = max(1, round(test_fraction * len(members)))
        is_test[members[: min(num_test, len(members) - 1)]] = True
    return np.flatnonzero(~is_test), np.flatnonzero(is_test)
