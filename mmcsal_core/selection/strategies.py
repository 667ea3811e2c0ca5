"""The door to selection: embeddings in, coreset out, by any strategy.

`select_coreset` serves a process that holds arrays, `select_from_pool` a caller that has stored neighbours as well;
both run the same strategies and give the same picks.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from mmcsal_core.errors import ConfigError
from mmcsal_core.neighbors.vectors import Rows
from mmcsal_core.selection.config import SelectionConfig, Strategy
from mmcsal_core.selection.coreset import Coreset, Request, Selector, describe_picks
from mmcsal_core.selection.k_center import select_k_center
from mmcsal_core.selection.kmeans import select_kmeans
from mmcsal_core.selection.maxherding import select_maxherding
from mmcsal_core.selection.mmcsal import select_mmcsal
from mmcsal_core.selection.pool import Pool, make_pool
from mmcsal_core.selection.random_draw import select_random

SELECTORS: dict[Strategy, Selector] = {
    "mmcsal": select_mmcsal,
    "random": select_random,
    "kmeans": select_kmeans,
    "k_center": select_k_center,
    "maxherding": select_maxherding,
}

NO_LABELS: Rows = np.empty(0, dtype=np.int64)
"""The labelled rows of a cold start."""


def select_coreset(
    embeddings: Mapping[str, npt.NDArray[np.floating]],
    budget: int,
    *,
    features: Mapping[str, npt.NDArray[np.floating]] | None = None,
    strategy: Strategy | None = None,
    labelled: Sequence[int] | Rows | None = None,
    seed: int = 0,
    config: SelectionConfig | None = None,
) -> Coreset:
    """Pick the pairs to label first. Equal arguments give equal picks; ties go to the lowest row.

    Args:
        embeddings: (N, dim) by modality, in the shared space; rows are scaled to unit length.
        budget: rows to pick.
        features: (N, dim_m) by modality, the backbones' own features, where there are any.
        strategy: overrides the configured one, which is `mmcsal` by default.
        labelled: rows that are labelled already: they count as picked and are not returned.
        seed: of everything random.
        config: how to choose.

    Returns:
        `budget` distinct rows, with gains, terms and weights.

    Raises:
        ConfigError: the budget does not fit the pool, or the strategy cannot do what is asked.
        DataError: a vector is NaN, infinite or zero; the message names its row.
    """
    chosen = config or SelectionConfig()
    if strategy is not None:
        chosen = chosen.model_copy(update={"strategy": strategy})
    pool = make_pool(embeddings, features)
    rows = NO_LABELS if labelled is None else np.unique(np.asarray(labelled, dtype=np.int64))
    return select_from_pool(pool, Request(budget, rows, seed, chosen))


def select_from_pool(pool: Pool, request: Request) -> Coreset:
    """Pick from a checked pool.

    Raises:
        ConfigError: the budget or the labelled rows do not fit the pool, or the strategy cannot do what is asked.
    """
    _check_request(pool, request)
    picks = SELECTORS[request.config.strategy](pool, request)
    return describe_picks(pool, picks, request.labelled)


def _check_request(pool: Pool, request: Request) -> None:
    labelled, strategy = request.labelled, request.config.strategy
    if strategy not in SELECTORS:
        raise ConfigError(f"a strategy is one of {', '.join(SELECTORS)}, got {strategy!r}; choose one of them")
    if len(labelled) and (labelled.min() < 0 or labelled.max() >= pool.num_pairs):
        raise ConfigError(
            f"labelled rows must lie in [0, {pool.num_pairs}), got {labelled.min()} to {labelled.max()}; "
            "give row numbers of the embeddings"
        )
    num_free = pool.num_pairs - len(labelled)
    if not 1 <= request.budget <= num_free:
        raise ConfigError(
            f"the budget must be between 1 and the {num_free} pairs that may be picked, got {request.budget}; "
            "lower the budget or enlarge the pool"
        )
