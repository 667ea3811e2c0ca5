"""The door to selection: embeddings in, coreset out, by any strategy.

`select_coreset` serves a process that holds arrays, `select_from_pool` a caller that has stored neighbours as well;
both run the same strategies and give the same picks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from mmcsal_core.errors import ConfigError, GateError
from mmcsal_core.neighbors.vectors import Rows
from mmcsal_core.selection.activeft import select_activeft
from mmcsal_core.selection.alignment_filter import select_alignment
from mmcsal_core.selection.config import SelectionConfig, Strategy
from mmcsal_core.selection.constraints.demands import Demands, settle_demands
from mmcsal_core.selection.coreset import Coreset, Request, Selector, describe_picks
from mmcsal_core.selection.coverage import select_coverage
from mmcsal_core.selection.ending import end_selection
from mmcsal_core.selection.engine.eligibility import NO_ROWS
from mmcsal_core.selection.k_center import select_k_center
from mmcsal_core.selection.kmeans import select_kmeans
from mmcsal_core.selection.maxherding import select_maxherding
from mmcsal_core.selection.mmcsal import select_mmcsal
from mmcsal_core.selection.mmcsal_continuous import select_mmcsal_continuous
from mmcsal_core.selection.pool import Pool, make_pool
from mmcsal_core.selection.probcover import select_probcover
from mmcsal_core.selection.random_draw import select_random
from mmcsal_core.selection.space import restrict_pool
from mmcsal_core.selection.typiclust import select_typiclust

SELECTORS: dict[Strategy, Selector] = {
    "mmcsal": select_mmcsal,
    "mmcsal_continuous": select_mmcsal_continuous,
    "coverage": select_coverage,
    "k_center": select_k_center,
    "random": select_random,
    "kmeans": select_kmeans,
    "typiclust": select_typiclust,
    "probcover": select_probcover,
    "maxherding": select_maxherding,
    "activeft": select_activeft,
    "alignment": select_alignment,
}


def select_coreset(  # noqa: PLR0913  the door: each argument is data or a frequent choice
    embeddings: Mapping[str, npt.NDArray[np.floating]],
    budget: int | None,
    *,
    features: Mapping[str, npt.NDArray[np.floating]] | None = None,
    suspicion: npt.NDArray[np.floating] | None = None,
    strategy: Strategy | None = None,
    labelled: Sequence[int] | Rows | None = None,
    seed: int = 0,
    config: SelectionConfig | None = None,
) -> Coreset:
    """Pick the pairs to label first. Equal arguments give equal picks; ties go to the lowest row.

    Args:
        embeddings: (N, dim) by modality, in the shared space; rows are scaled to unit length.
        budget: rows to pick; None where `min_gain` or `min_distance` ends the selection.
        features: (N, dim_m) by modality, the backbones' own features, where there are any.
        suspicion: (N,) of each pair's being mispaired, from `measure_suspicion`, where out-of-fold cosines are known;
            only its order counts. By default `mmcsal` finds it from embeddings and features.
        strategy: overrides the configured one, which is `mmcsal` by default.
        labelled: rows that are labelled already: they count as picked and are not returned.
        seed: of everything random.
        config: how to choose.

    Returns:
        `budget` distinct rows, fewer where the configuration says so, with gains and terms; weights and covering radius
        are found when they are asked for.

    Raises:
        GateError: no row may be picked.
        ConfigError: the budget does not fit the pool, or the strategy cannot do what is asked.
        DataError: a vector is NaN, infinite or zero, or suspicion does not fit; the message names its row.
    """
    chosen = config or SelectionConfig()
    if strategy is not None:
        chosen = chosen.model_copy(update={"strategy": strategy})
    if budget is None and chosen.min_gain is None and chosen.min_distance is None:
        raise ConfigError("a selection needs an end, got none; give a budget, min_gain or min_distance")
    if budget is not None and (isinstance(budget, bool) or not isinstance(budget, int | np.integer)):
        raise ConfigError(f"the budget is a whole number of rows, got {budget!r}; write e.g. int({budget})")
    pool = make_pool(embeddings, features, weights=chosen.modality_weights, suspicion=suspicion)
    rows = NO_ROWS if labelled is None else _read_labelled(labelled)
    _check_labelled(pool, rows)
    settled = settle_demands(pool, rows, chosen, Demands(budget))
    return select_from_pool(pool, Request(settled.budget, rows, seed, chosen, settled.constraints))


def select_from_pool(pool: Pool, request: Request) -> Coreset:
    """Pick from a checked pool.

    Raises:
        GateError: no row may be picked.
        ConfigError: the budget or the labelled rows do not fit the pool, or the strategy cannot do what is asked.
    """
    _check_request(pool, request)
    seen = restrict_pool(pool, request.config)
    picks = SELECTORS[request.config.strategy](seen, request)
    if seen is not pool:
        picks = replace(picks, find_cells=None)  # weights and radius are those of the whole pool's distance
    picks, ending = end_selection(picks, request, pool.num_pairs)
    if len(picks.indices) == 0:
        raise GateError(
            f"nothing could be picked from {pool.num_pairs} pairs (ended by {ending.ended_by}); loosen "
            "min_gain, min_distance, cost_budget or the quotas"
        )
    return describe_picks(pool, picks, request.labelled, ending)


def _read_labelled(labelled: Sequence[int] | Rows) -> Rows:
    rows = np.asarray(labelled)
    if rows.size and not np.issubdtype(rows.dtype, np.integer):
        raise ConfigError(
            f"labelled rows are whole numbers, got an array of {rows.dtype}; pass np.flatnonzero(mask) for a mask"
        )
    return np.unique(rows.astype(np.int64))


def _check_request(pool: Pool, request: Request) -> None:
    strategy = request.config.strategy
    if strategy not in SELECTORS:
        raise ConfigError(f"a strategy is one of {', '.join(SELECTORS)}, got {strategy!r}; choose one of them")
    _check_labelled(pool, request.labelled)
    num_free = pool.num_pairs - len(np.union1d(request.labelled, request.constraints.closed))
    if not 1 <= request.budget <= num_free:
        raise ConfigError(
            f"the budget must be between 1 and the {num_free} pairs that may be picked, got {request.budget}; "
            "lower the budget or enlarge the pool"
        )


def _check_labelled(pool: Pool, labelled: Rows) -> None:
    if len(labelled) and (labelled.min() < 0 or labelled.max() >= pool.num_pairs):
        raise ConfigError(
            f"labelled rows must lie in [0, {pool.num_pairs}), got {labelled.min()} to {labelled.max()}; "
            "give row numbers of the embeddings"
        )
