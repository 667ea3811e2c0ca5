"""What learns from the labels of the picks: small models whose accuracy on other pairs is the worth of the picks.

Logistic regression is standardised on the whole pool, since what needs no label is known before anything is picked. Its
penalty does not change under a rotation, so it is fitted in the span of the picks, which is exact and far smaller than
the features. Not chosen: a regularisation searched by cross-validation, for which one label a class does not suffice.
"""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from mmcsal_core.errors import ConfigError
from mmcsal_core.evaluation.config import EvaluateConfig, ProbeName
from mmcsal_core.evaluation.labelled_pool import LabelledPool, Split
from mmcsal_core.neighbors.vectors import Floats, Rows, iter_blocks

PENALTY_C = 1.0
"""Inverse weight of the penalty: that of scikit-learn."""

MAX_ITERATIONS = 5000
TOLERANCE = 1e-6
"""Largest gradient at the end of a fit: at scikit-learn's 1e-4 the start of the search still shows."""

BLOCK_ROWS = 4096

Predict: TypeAlias = Callable[[Rows, Rows], Rows]
"""From rows of the pool and their labels, at least one, to the labels of the test pairs."""


def open_probes(split: Split, config: EvaluateConfig) -> dict[ProbeName, Predict]:
    """Prepare the configured probes for one split.

    Raises:
        ConfigError: the probe `features` is configured, and there are no features.
    """
    if "features" in config.probes and not split.pool.features:
        raise ConfigError("the probe features learns from backbone features, got none; leave it out of probes")
    return {name: _open_probe(name, split, config) for name in config.probes}


def _open_probe(name: ProbeName, split: Split, config: EvaluateConfig) -> Predict:
    if name == "features":
        return LogisticProbe.open(split.pool.features, split.test.features)
    if name == "linear":
        return LogisticProbe.open(split.pool.embeddings, split.test.embeddings)
    return NearestProbe(_join(split.pool), _join(split.test), config.knn_neighbors)


@dataclass(frozen=True, eq=False)
class LogisticProbe:
    """Multinomial logistic regression on vectors side by side, standardised on the pool.

    Args:
        pool: (N, dim).
        test: (T, dim).
        mean: (dim,) of the pool.
        scale: (dim,) reciprocal of the pool's deviation, 0 for constant columns.
    """

    pool: npt.NDArray[np.floating]
    test: npt.NDArray[np.floating]
    mean: Floats
    scale: Floats

    @classmethod
    def open(
        cls, pool: Mapping[str, npt.NDArray[np.floating]], test: Mapping[str, npt.NDArray[np.floating]]
    ) -> "LogisticProbe":
        """Measure the pool."""
        vectors = np.hstack(list(pool.values()))
        mean = vectors.mean(axis=0, dtype=np.float64)
        deviation = _measure_deviation(vectors, mean)
        is_constant = deviation <= 1e-6 * np.maximum(np.abs(mean), 1e-300)
        scale = np.where(is_constant, 0.0, 1.0 / np.where(is_constant, 1.0, deviation))
        return cls(vectors, np.hstack([test[name] for name in pool]), mean, scale)

    def __call__(self, picks: Rows, labels: Rows) -> Rows:
        """Fit on the picks and name the test pairs; a single class among the picks names them all."""
        if len(np.unique(labels)) == 1:
            return np.full(len(self.test), labels[0])
        known = self._standardise(self.pool[picks])
        basis = _span_rows(known)
        model = LogisticRegression(C=PENALTY_C, max_iter=MAX_ITERATIONS, tol=TOLERANCE)
        _fit_few(model, known @ basis, labels)
        blocks = [self._standardise(self.test[block]) @ basis for block in iter_blocks(len(self.test), BLOCK_ROWS)]
        return np.asarray(model.predict(np.concatenate(blocks)), dtype=np.int64)

    def _standardise(self, rows: npt.NDArray[np.floating]) -> Floats:
        return np.asarray((rows.astype(np.float64) - self.mean) * self.scale)


@dataclass(frozen=True, eq=False)
class NearestProbe:
    """The nearest picks vote, each by one over its distance.

    Args:
        pool: (N, dim).
        test: (T, dim).
        num_neighbors: that vote, at most.
    """

    pool: npt.NDArray[np.floating]
    test: npt.NDArray[np.floating]
    num_neighbors: int

    def __call__(self, picks: Rows, labels: Rows) -> Rows:
        """Name the test pairs after their nearest picks; of classes with equal votes the lowest code counts."""
        num_neighbors = min(self.num_neighbors, len(picks))
        model = KNeighborsClassifier(num_neighbors, weights="distance", algorithm="brute")
        _fit_few(model, self.pool[picks], labels)
        return np.asarray(model.predict(self.test), dtype=np.int64)


def _fit_few(model: LogisticRegression | KNeighborsClassifier, vectors: npt.NDArray[np.floating], labels: Rows) -> None:
    """Fit where a class may have a single label, without the question whether the labels are numbers to regress on."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The number of unique classes is greater than 50%", UserWarning)
        model.fit(vectors, labels)


def _join(pairs: LabelledPool) -> npt.NDArray[np.floating]:
    return np.hstack(list(pairs.embeddings.values()))


def _measure_deviation(vectors: npt.NDArray[np.floating], mean: Floats) -> Floats:
    total = np.zeros_like(mean)
    for block in iter_blocks(len(vectors), BLOCK_ROWS):
        total += ((vectors[block].astype(np.float64) - mean) ** 2).sum(axis=0)
    return np.asarray(np.sqrt(total / len(vectors)))


def _span_rows(rows: Floats) -> Floats:
    """Return an orthonormal basis of a space that holds all rows, (dim, min(rows, dim)) or the unit matrix."""
    num_rows, dim = rows.shape
    return np.eye(dim) if num_rows >= dim else np.asarray(np.linalg.qr(rows.T)[0])
