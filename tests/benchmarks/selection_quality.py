"""How good picks are, and whether two lists of picks are the same: nothing here is timed."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mmcsal_core.neighbors.vectors import Floats, Rows, Vectors, iter_blocks
from tests.benchmarks.selection_methods import KernelName, Problem, list_relations

BLOCK_ROWS = 2048
MAX_EXACT_PRODUCTS = 20_000 * 10_000
"""Rows x picks up to which quality is computed in float64; in float32 above."""

TIE = 1e-6
"""Two rows whose distances differ by a smaller share are a tie: float32 cannot tell them apart."""


@dataclass(frozen=True)
class Quality:
    """Covering radius, and mean best kernel value."""

    radius: float
    coverage: float


@dataclass(frozen=True)
class Agreement:
    """How far two lists of picks agree.

    Args:
        num_compared: length of the shorter list.
        num_equal: leading picks that are equal.
        gap: relative difference of the two values at the first difference, 0 where there is none.
    """

    num_compared: int
    num_equal: int
    gap: float

    @property
    def is_same(self) -> bool:
        """Whether they are equal, or differ from a tie on."""
        return self.num_equal == self.num_compared or self.gap <= TIE


def measure_quality(problem: Problem, picks: Rows, kernel: KernelName) -> Quality:
    """Measure picks of a pool, however few of those asked for they are."""
    is_small = len(problem.vectors) * len(picks) <= MAX_EXACT_PRODUCTS
    dtype = np.float64 if is_small else np.float32
    nearest = np.empty(len(problem.vectors))
    centers = problem.vectors[picks].astype(dtype).T
    for block in iter_blocks(len(nearest), BLOCK_ROWS):
        nearest[block] = (problem.vectors[block].astype(dtype) @ centers).max(axis=1)
    squared = np.maximum(2 - 2 * nearest, 0.0)
    if kernel == "joint":
        return Quality(float(np.sqrt(squared.max())), float(np.exp(-squared / problem.bandwidth).mean()))
    return Quality(float(np.sqrt(squared.max())), _measure_pair_coverage(problem, picks, dtype, kernel))


def _measure_pair_coverage(problem: Problem, picks: Rows, dtype: type[np.floating], kernel: KernelName) -> float:
    relations, bandwidths = list_relations(problem, kernel)
    right = [relation.pool[picks].astype(dtype).T for relation in relations]
    best = np.empty(len(problem.vectors))
    for block in iter_blocks(len(best), BLOCK_ROWS):
        values = np.zeros((block.stop - block.start, len(picks)), dtype=dtype)
        for relation, columns, bandwidth in zip(relations, right, bandwidths, strict=True):
            cosines = relation.queries[block].astype(dtype) @ columns
            values += relation.weight * np.maximum(2 - 2 * cosines, 0) / bandwidth
        best[block] = values.min(axis=1)
    return float(np.exp(-best / sum(relation.weight for relation in relations)).mean())


def compare_distances(vectors: Vectors, reference: Rows, picks: Rows) -> Agreement:
    """Compare farthest-first picks; the values are distances to the nearest earlier pick, in float64."""

    def measure(row: int, earlier: Rows) -> float:
        difference = vectors[earlier].astype(np.float64) - vectors[row]
        return float(np.sqrt((difference**2).sum(axis=1).min()))

    return _compare(reference, picks, measure)


def compare_gains(problem: Problem, reference: Rows, picks: Rows) -> Agreement:
    """Compare greedy coverage picks; the values are gains under the joint kernel, in float64."""

    def measure(row: int, earlier: Rows) -> float:
        best = np.zeros(len(problem.vectors)) if len(earlier) == 0 else _measure_best(problem, earlier)
        return float(np.maximum(_measure_best(problem, np.array([row])) - best, 0.0).sum())

    return _compare(reference, picks, measure)


def _measure_best(problem: Problem, picks: Rows) -> Floats:
    vectors, centers = problem.vectors.astype(np.float64), problem.vectors[picks].astype(np.float64)
    cosines = np.concatenate([(vectors[b] @ centers.T).max(axis=1) for b in iter_blocks(len(vectors), BLOCK_ROWS)])
    return np.asarray(np.exp(-np.maximum(2 - 2 * cosines, 0.0) / problem.bandwidth))


def _compare(reference: Rows, picks: Rows, measure: Callable[[int, Rows], float]) -> Agreement:
    num_compared = min(len(reference), len(picks))
    different = np.flatnonzero(reference[:num_compared] != picks[:num_compared])
    if len(different) == 0:
        return Agreement(num_compared, num_compared, 0.0)
    first = int(different[0])
    if first == 0:
        return Agreement(num_compared, 0, 1.0)
    earlier = reference[:first]
    values = [measure(int(rows[first]), earlier) for rows in (reference, picks)]
    return Agreement(num_compared, first, abs(values[0] - values[1]) / max(values))
