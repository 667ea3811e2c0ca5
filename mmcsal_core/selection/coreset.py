"""What a selection is: the picks in pick order, why each was picked, and what each stands for."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from mmcsal_core.neighbors.vectors import Floats, Rows
from mmcsal_core.selection.cells import assign_cells, measure_distances, measure_radius
from mmcsal_core.selection.config import SelectionConfig
from mmcsal_core.selection.engine.eligibility import Constraints
from mmcsal_core.selection.engine.engines import Engine, LocalEngine
from mmcsal_core.selection.engine.lazy_blocks import Limits, Round
from mmcsal_core.selection.engine.pick_log import NoPickLog, PickLog
from mmcsal_core.selection.pool import Pool


@dataclass(frozen=True, eq=False)
class Picks:
    """What a strategy returns.

    Args:
        indices: (B,) rows of the pool, in pick order.
        phases: (B,) the part of the strategy that made each pick.
        terms: (B, 3) coverage, diversity and alignment term; their sum is the gain.
        find_cells: returns (N,) the rank of the pick nearest to each row, where the strategy knows most of it already.
    """

    indices: Rows
    phases: tuple[str, ...]
    terms: Floats
    find_cells: Callable[[], Rows] | None = None

    def until(self, limits: Limits) -> "Picks":
        """Return these picks up to the first whose gain is below the minimum."""
        rows, terms = self.indices.tolist(), self.terms.tolist()
        small = (rank for rank in range(len(rows)) if limits.is_small(rows[rank], tuple(terms[rank])))
        end = next(small, len(rows))
        return Picks(self.indices[:end], self.phases[:end], self.terms[:end])

    def followed_by(self, later: "Picks") -> "Picks":
        """Return these picks and then `later`."""
        return Picks(
            np.concatenate([self.indices, later.indices]),
            self.phases + later.phases,
            np.concatenate([self.terms, later.terms]),
        )


def collect_rounds(rounds: Sequence[Round], phase: str) -> Picks:
    """Make picks of one phase from the engine's rounds."""
    rows = [row for done in rounds for row in done.rows]
    return collect_picks(rows, phase, [terms for done in rounds for terms in done.terms])


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
        constraints: what the picks must keep to.
        engine: where the shards of the greedy strategies live.
        log: what an earlier run of the same request picked, and where this one notes its picks.
    """

    budget: int
    labelled: Rows
    seed: int
    config: SelectionConfig
    constraints: Constraints = field(default_factory=Constraints)
    engine: Engine = field(default_factory=LocalEngine)
    log: PickLog = field(default_factory=NoPickLog)

    @property
    def least_gain(self) -> float:
        """The least gain, by cost where there are costs, that is worth a pick: always above 0."""
        return max(self.config.min_gain or 0.0, float(np.finfo(np.float64).tiny))


Selector: TypeAlias = Callable[[Pool, Request], Picks]


EndedBy: TypeAlias = Literal["budget", "min_gain", "exhausted", "constraints"]
"""The number asked for; a gain too small; no pick gains anything; nothing more may be picked under the constraints."""


@dataclass(frozen=True)
class Ending:
    """Why there are no more picks, and the rank from which none gains anything, if any."""

    ended_by: EndedBy
    exhausted_at: int | None = None


@dataclass(frozen=True, eq=False)
class Coreset:
    """The picked pairs.

    Args:
        indices: (B,) int64, rows of the pool in pick order.
        gains: (B,) rise of the objective; within a phase it never rises, divided by costs where costs divide it.
        phases: (B,) the part of the strategy that made each pick.
        coverage_terms: (B,) part of the gain from covering the pool.
        diversity_terms: (B,) part of the gain from distance to earlier picks.
        alignment_terms: (B,) part of the gain from trust in the pair.
        measure: finds the weights and the covering radius; this object holds on to the pool for it.
        ended_by: why there are no more picks.
        exhausted_at: rank from which no pick gains anything; None where every pick does, or the strategy has no gains.
    """

    indices: Rows
    gains: npt.NDArray[np.float64]
    phases: tuple[str, ...]
    coverage_terms: npt.NDArray[np.float64]
    diversity_terms: npt.NDArray[np.float64]
    alignment_terms: npt.NDArray[np.float64]
    measure: Callable[[], tuple[Rows, float]] = field(repr=False)
    ended_by: EndedBy = "budget"
    exhausted_at: int | None = None

    @property
    def weights(self) -> Rows:
        """(B,) int64, pool pairs nearest to each pick, itself included; they sum to the pool.

        Found when first asked for: every pair is compared with every pick, which can take longer than the picking.
        """
        return self._measured[0]

    @property
    def covering_radius(self) -> float:
        """Distance from a pool pair to its nearest pick or labelled pair, at most; found with the weights."""
        return self._measured[1]

    @cached_property
    def _measured(self) -> tuple[Rows, float]:
        return self.measure()

    def __getstate__(self) -> dict[str, Any]:
        """Return what is pickled: weights and radius instead of the pool."""
        state = {**vars(self), "_measured": self._measured}
        state.pop("measure", None)  # gone where this was unpickled itself
        return state


def describe_picks(pool: Pool, picks: Picks, labelled: Rows, ending: Ending) -> Coreset:
    """Add to a strategy's picks what they stand for.

    Args:
        pool: the picks' pool.
        picks: of any strategy.
        labelled: (L,) rows that were labelled before; they count for the radius, not for the weights.
        ending: why there are no more picks.
    """
    coverage, diversity, alignment = np.ascontiguousarray(picks.terms.T)
    return Coreset(
        indices=picks.indices,
        gains=picks.terms.sum(axis=1),
        phases=picks.phases,
        coverage_terms=coverage,
        diversity_terms=diversity,
        alignment_terms=alignment,
        measure=partial(_measure_cells, pool, picks, labelled),
        ended_by=ending.ended_by,
        exhausted_at=ending.exhausted_at,
    )


def _measure_cells(pool: Pool, picks: Picks, labelled: Rows) -> tuple[Rows, float]:
    """Return the weights and the covering radius."""
    cells = assign_cells(pool.joint, picks.indices) if picks.find_cells is None else picks.find_cells()
    if len(labelled):
        radius = measure_radius(pool.joint, np.concatenate([picks.indices, labelled]))
    else:
        radius = float(measure_distances(pool.joint, np.arange(pool.num_pairs), picks.indices[cells]).max())
    return np.bincount(cells, minlength=len(picks.indices)).astype(np.int64), radius
