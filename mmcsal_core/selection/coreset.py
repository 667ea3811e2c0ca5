"""What a selection is: the picks in pick order, why each was picked, and what each stands for."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from mmcsal_core.neighbors.vectors import Floats, Rows
from mmcsal_core.selection.cells import assign_cells, measure_radius
from mmcsal_core.selection.config import SelectionConfig
from mmcsal_core.selection.pool import Pool


@dataclass(frozen=True, eq=False)
class Picks:
    """What a strategy returns.

    Args:
        indices: (B,) rows of the pool, in pick order.
        phases: (B,) the part of the strategy that made each pick.
        terms: (B, 3) coverage, diversity and alignment term; their sum is the gain.
    """

    indices: Rows
    phases: tuple[str, ...]
    terms: Floats

    def followed_by(self, later: "Picks") -> "Picks":
        """Return these picks and then `later`."""
        return Picks(
            np.concatenate([self.indices, later.indices]),
            self.phases + later.phases,
            np.concatenate([self.terms, later.terms]),
        )


def collect_picks(indices: Sequence[int], phase: str, terms: Sequence[tuple[float, float, float]]) -> Picks:
    """Make picks of one phase from lists of equal length, which may be empty."""
    matrix = np.array(terms, dtype=np.float64).reshape(-1, 3)
    return Picks(np.array(indices, dtype=np.int64), (phase,) * len(indices), matrix)


@dataclass(frozen=True, eq=False)
class Request:
    """What is asked of a strategy.

    Args:
        budget: rows to pick.
        labelled: (L,) sorted rows that count as picked and are not picked again.
        seed: of everything random.
        config: how to choose.
    """

    budget: int
    labelled: Rows
    seed: int
    config: SelectionConfig


Selector: TypeAlias = Callable[[Pool, Request], Picks]


@dataclass(frozen=True, eq=False)
class Coreset:
    """The picked pairs.

    Args:
        indices: (B,) int64, rows of the pool in pick order.
        gains: (B,) rise of the objective, never rising within a phase.
        phases: (B,) the part of the strategy that made each pick.
        coverage_terms: (B,) part of the gain from covering the pool.
        diversity_terms: (B,) part of the gain from distance to earlier picks.
        alignment_terms: (B,) part of the gain from trust in the pair.
        weights: (B,) int64, pool pairs nearest to each pick, itself included; they sum to the pool.
        covering_radius: distance from a pool pair to its nearest pick or labelled pair, at most.
    """

    indices: Rows
    gains: npt.NDArray[np.float64]
    phases: tuple[str, ...]
    coverage_terms: npt.NDArray[np.float64]
    diversity_terms: npt.NDArray[np.float64]
    alignment_terms: npt.NDArray[np.float64]
    weights: Rows
    covering_radius: float


def describe_picks(pool: Pool, picks: Picks, labelled: Rows) -> Coreset:
    """Add to a strategy's picks what they stand for.

    Args:
        pool: the picks' pool.
        picks: of any strategy.
        labelled: (L,) rows that were labelled before; they count for the radius, not for the weights.
    """
    cells = assign_cells(pool.joint, picks.indices)
    coverage, diversity, alignment = np.ascontiguousarray(picks.terms.T)
    return Coreset(
        indices=picks.indices,
        gains=picks.terms.sum(axis=1),
        phases=picks.phases,
        coverage_terms=coverage,
        diversity_terms=diversity,
        alignment_terms=alignment,
        weights=np.bincount(cells, minlength=len(picks.indices)).astype(np.int64),
        covering_radius=measure_radius(pool.joint, np.concatenate([picks.indices, labelled])),
    )
