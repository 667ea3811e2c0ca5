"""The `k_center` strategy: the row farthest from all picks, again and again.

Gonzalez, "Clustering to minimize the maximum intercluster distance" (1985): the radius is at most twice the optimum. As
a core-set for active learning: Sener & Savarese, arXiv 1708.00489. On its own it chases outliers and mispaired pairs.
The distance is that of the weighted concatenation of the unit vectors.
"""

from dataclasses import replace
from functools import partial

import numpy as np

from mmcsal_core.neighbors.vectors import Floats, Rows, Vectors, iter_blocks
from mmcsal_core.selection.constraints.demands import is_distance_the_gain
from mmcsal_core.selection.coreset import Picks, Request, collect_picks, collect_rounds
from mmcsal_core.selection.engine.eligibility import NO_ROWS, Eligibility
from mmcsal_core.selection.engine.k_center import KCenter
from mmcsal_core.selection.engine.lazy_blocks import Limits, Search, Shards, count_start, pick_greedily
from mmcsal_core.selection.pool import Pool

BLOCK_ROWS = 4096
MAX_DISTANCE = 2.0
"""Between unit vectors; the first pick's distance to the empty set."""


def select_k_center(pool: Pool, request: Request) -> Picks:
    """Pick by k-center from the open row nearest the pool's mean, or from the labelled rows where there are any.

    Of rows with costs the start is one of the cheapest, since before the first pick all are equally far. A gain is a
    distance, so a minimum distance is a minimum gain.
    """
    eligibility = request.constraints.begin(pool.num_pairs, request.labelled)
    is_distance = is_distance_the_gain(request.config, request.constraints.costs)
    min_gain = (request.config.min_distance or 0.0) if is_distance else 0.0
    if len(request.labelled):
        limits = Limits(request.budget, min_gain)
        return continue_k_center(pool, request.labelled, eligibility, request, limits, "k_center")
    is_first = eligibility.is_open
    if request.constraints.costs is not None:
        cheapest = request.constraints.costs[is_first].min(initial=np.inf)
        is_first = is_first & (request.constraints.costs == cheapest)
    if not is_first.any():
        return collect_picks([], "k_center", [])
    start = int(np.where(is_first, _measure_centrality(pool.joint), -np.inf).argmax())
    first = collect_picks([start], "k_center", [(0.0, MAX_DISTANCE, 0.0)])
    first = first.until(Limits(1, request.least_gain, costs=request.constraints.costs))
    if len(first.indices) == 0:
        return first
    eligibility.take(start)
    limits = Limits(request.budget - 1, min_gain)
    shards = _open(pool, eligibility, request)
    picks = first.followed_by(_pick(shards, first.indices, eligibility, request, limits, "k_center"))
    return replace(picks, find_cells=partial(_read_cells, shards, picks.indices))


def continue_k_center(
    pool: Pool,
    centers: Rows,
    eligibility: Eligibility,
    request: Request,
    limits: Limits,
    phase: str,
    left_out: Rows = NO_ROWS,
) -> Picks:
    """Pick the open row farthest from all centers and picks, again and again; ties go to the lowest row.

    Args:
        pool: N pairs.
        centers: (C,) rows, at least one, that are closed.
        eligibility: who may be picked; changed.
        request: where, and under what costs.
        limits: when to stop.
        phase: name given to the picks, and to the part of the log.
        left_out: open rows that are not picked this time.

    Returns:
        Picks whose gain is the distance to the nearest earlier pick or center.
    """
    return _pick(_open(pool, eligibility, request, left_out), centers, eligibility, request, limits, phase)


def _measure_centrality(joint: Vectors) -> Floats:
    """Return every row's product with the mean of all, (N,), in float64 row by row: equal rows are equally central."""
    mean, centrality = joint.mean(axis=0, dtype=np.float64), np.empty(len(joint))
    for block in iter_blocks(len(joint), BLOCK_ROWS):
        centrality[block] = np.einsum("nd,d->n", joint[block].astype(np.float64), mean)
    return centrality


def _open(pool: Pool, eligibility: Eligibility, request: Request, left_out: Rows = NO_ROWS) -> Shards:
    closed = np.union1d(eligibility.list_closed(), left_out)
    return request.engine.open_k_center(pool.joint, closed, _square_costs(request))


def _pick(
    shards: Shards, centers: Rows, eligibility: Eligibility, request: Request, limits: Limits, phase: str
) -> Picks:
    costs, log = request.constraints.costs, request.log
    limits = replace(limits, min_gain=max(limits.min_gain, request.least_gain), costs=costs)
    objective = KCenter(_square_costs(request))
    search = Search(objective, shards, eligibility, lambda done: log.append(phase, done), log.read(phase))
    count_start(search, centers)
    return collect_rounds(pick_greedily(search, limits), phase)


def _square_costs(request: Request) -> Floats | None:
    """Return what the engine divides by: its values are squared distances."""
    costs = request.constraints.costs
    return None if costs is None else costs**2


def _read_cells(shards: Shards, picks: Rows) -> Rows:
    cells = np.concatenate([ranks for ranks, _ in shards.gather("read_nearest")]).astype(np.int64)
    cells[picks] = np.arange(len(picks))
    return cells
