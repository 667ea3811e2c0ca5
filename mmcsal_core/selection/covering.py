"""Run the engine on a sparse kernel: greedy coverage of the pool, from the labelled rows on."""

import numpy as np
from scipy import sparse

from mmcsal_core.neighbors.vectors import Rows
from mmcsal_core.neighbors.whole_kernel import Whole
from mmcsal_core.selection.coreset import Picks, Request, collect_picks, collect_rounds
from mmcsal_core.selection.engine.cover_objective import Cover
from mmcsal_core.selection.engine.eligibility import Eligibility
from mmcsal_core.selection.engine.lazy_blocks import Limits, Search, Shards, count_start, pick_greedily


def cover_greedily(kernel: sparse.csr_array, request: Request, phase: str, floor: Whole | None = None) -> Picks:
    """Pick the row that raises the mean best kernel value most, again and again; ties go to the lowest row.

    Args:
        kernel: (N, N) int32 multiples of 2^-30, symmetric.
        request: what is asked; its repulsion and trust do not count.
        phase: name given to the picks.
        floor: (N,) from `find_horizon`, where the kernel is held on neighbours.
    """
    eligibility = request.constraints.begin(kernel.shape[0], request.labelled)
    objective = Cover(np.ones(kernel.shape[0]), 0.0, request.constraints.costs, floor)
    shards = request.engine.open_cover(kernel, objective, eligibility.list_closed())
    limits = Limits(request.budget, request.least_gain, costs=request.constraints.costs)
    return search_cover(objective, shards, eligibility, request, limits, phase)


def search_cover(
    objective: Cover, shards: Shards, eligibility: Eligibility, request: Request, limits: Limits, phase: str
) -> Picks:
    """Count the labelled rows, then pick; the phase names the part of the log as well."""
    log = request.log
    search = Search(objective, shards, eligibility, lambda done: log.append(phase, done), log.read(phase))
    count_start(search, request.labelled)
    return collect_rounds(pick_greedily(search, limits), phase)


def rank_again(shards: Shards, objective: Cover, rows: Rows, labelled: Rows) -> Picks:
    """Rank given rows by greedy among themselves, from the labelled rows on.

    Args:
        shards: of `CoverShard`; only their edges are used.
        objective: trust, repulsion and costs; what it has counted does not matter.
        rows: (B,) distinct.
        labelled: (L,) rows that count as picked.

    Returns:
        B picks of phase `coverage`.
    """
    fresh = Cover(objective.trust, objective.lambda_div, objective.costs, objective.floor)
    rows = np.sort(rows)
    hot = fresh.open_fresh_hot_set(rows, shards.fetch(rows).edges, labelled, shards.fetch(labelled).edges)
    picked, terms = [], []
    for _ in range(len(rows)):
        row = hot.find_best()[1]
        terms.append(hot.pick(row))
        picked.append(row)
    return collect_picks(picked, "coverage", terms)
