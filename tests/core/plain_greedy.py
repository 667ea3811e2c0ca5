"""The plain version of greedy coverage, which the engine is compared with: float64, one pick at a time, a lazy heap.

F(S) = 1/N sum_i max_{j in S} trust_j k(i, j) is monotone and submodular, so greedy reaches 1 - 1/e of the optimum
(Nemhauser, Wolsey & Fisher 1978). A candidate's gain never rises as S grows, so a gain computed earlier is an upper
bound now, and only the candidates that reach the top of a heap are computed again (Minoux 1978): the picks are those of
plain greedy.
"""

import heapq

import numpy as np
from scipy import sparse

from mmcsal_core.neighbors.vectors import Floats, Rows
from mmcsal_core.selection.coreset import Picks, collect_picks


class CoverState:
    """How well each row is covered by the picks so far.

    Args:
        kernel: (N, N) symmetric, non-negative.
        trust: (N,) in [0, 1], what a candidate's kernel values are scaled by.
        lambda_div: weight of the repulsion.
        floor: (N,) how well rows count as covered from the start.
    """

    def __init__(self, kernel: sparse.csr_array, trust: Floats, lambda_div: float, floor: Floats | float = 0.0) -> None:
        self.trust = trust
        self._indptr, self._columns, self._values = kernel.indptr, kernel.indices, kernel.data
        self._lambda_div = lambda_div
        self._num_rows = kernel.shape[0]
        self._covered = np.zeros(self._num_rows) + floor
        self._nearest = np.zeros(self._num_rows)

    def measure_gain(self, row: int) -> tuple[float, float, float]:
        """Return the coverage, diversity and alignment term of a candidate's gain.

        The coverage term is the rise of F if the candidate were fully trusted, the alignment term what its lack of
        trust takes away, the diversity term its repulsion by the nearest pick.
        """
        columns, values = self._neighborhood(row)
        covered = self._covered[columns]
        full = float(np.maximum(values - covered, 0.0).sum()) / self._num_rows
        trusted = float(np.maximum(self.trust[row] * values - covered, 0.0).sum()) / self._num_rows
        repulsion = self._lambda_div * float(self._nearest[row]) / self._num_rows
        return full, 0.0 - repulsion, trusted - full

    def add_pick(self, row: int) -> None:
        """Count a row as picked."""
        columns, values = self._neighborhood(row)
        self._covered[columns] = np.maximum(self._covered[columns], self.trust[row] * values)
        self._nearest[columns] = np.maximum(self._nearest[columns], values)

    def measure_coverage(self) -> float:
        """Return F of the picks so far."""
        return float(self._covered.mean())

    def _neighborhood(self, row: int) -> tuple[Rows, Floats]:
        span = slice(self._indptr[row], self._indptr[row + 1])
        return self._columns[span], self._values[span]


def greedy_cover(state: CoverState, candidates: Rows, num_picks: int, min_rise: float = -np.inf) -> Picks:
    """Pick the candidate of the largest gain, again and again; ties go to the lowest row.

    Args:
        state: what is covered already; holds the picks afterwards.
        candidates: distinct rows that are not picked yet.
        num_picks: picks wanted.
        min_rise: stop before a pick that raises F by less.

    Returns:
        At most `num_picks` picks of phase `coverage`.
    """
    rows: list[int] = []
    terms: list[tuple[float, float, float]] = []
    heap = [(-sum(state.measure_gain(row)), row, 0) for row in candidates.tolist()]
    heapq.heapify(heap)
    while heap and len(rows) < num_picks:
        _, row, computed_at = heapq.heappop(heap)
        gain = state.measure_gain(row)
        if computed_at < len(rows):
            heapq.heappush(heap, (-sum(gain), row, len(rows)))
            continue
        if gain[0] + gain[2] < min_rise:
            break
        state.add_pick(row)
        rows.append(row)
        terms.append(gain)
    return collect_picks(rows, "coverage", terms)
