"""The `mmcsal` strategy: distribution, diversity and alignment on one pair kernel.

A reconstruction of the selection of Shen, Wei, Yin, Rajan, Hu & See, "Enhancing Modality Representation and Alignment
for Multimodal Cold-start Active Learning" (arXiv 2412.09126), whose equations are not public. Distribution is weighted
facility location, diversity a repulsion between picks and a second phase of k-center once coverage is exhausted,
alignment a trust below 1 for candidates suspected of being mispaired.
"""

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

from mmcsal_core.neighbors.vectors import Rows
from mmcsal_core.selection.coreset import Picks, Request
from mmcsal_core.selection.greedy import CoverState, greedy_cover
from mmcsal_core.selection.k_center import continue_k_center
from mmcsal_core.selection.pair_graph import PairGraph, build_pair_graph
from mmcsal_core.selection.pool import Pool
from mmcsal_core.selection.refine import swap_to_medoids


def select_mmcsal(pool: Pool, request: Request) -> Picks:
    """Pick by coverage with repulsion and trust, refine the picks, and fill up by k-center.

    With `refine: none` the picks are those of strict greedy, so any prefix is the answer for a smaller budget.
    """
    graph = build_pair_graph(pool, request.config, request.seed)
    covering = cover_graph(graph, request)
    num_left = request.budget - len(covering.indices)
    if num_left == 0:
        return covering
    return covering.followed_by(_spread(pool, graph, covering.indices, request))


def cover_graph(graph: PairGraph, request: Request) -> Picks:
    """Run the coverage phase on a graph: greedy, then swaps, then greedy among the moved picks.

    Returns:
        At most `request.budget` picks; fewer where the gain has fallen under the threshold.
    """
    config = request.config
    trust = 1.0 - config.lambda_align * graph.suspicion
    candidates = np.setdiff1d(np.arange(len(trust)), request.labelled)
    first_rise = float((graph.kernel.sum(axis=1) * trust).max()) / len(trust)
    min_rise = config.diversity_threshold * first_rise if config.diversity_threshold > 0 else -np.inf
    picks = greedy_cover(_start(graph, request), candidates, request.budget, min_rise)
    if config.refine == "none" or len(picks.indices) == 0:
        return picks
    moved = swap_to_medoids(graph.kernel, trust, picks.indices, request.labelled, config.max_refine_rounds)
    return greedy_cover(_start(graph, request), np.sort(moved), len(moved))


def _start(graph: PairGraph, request: Request) -> CoverState:
    trust = 1.0 - request.config.lambda_align * graph.suspicion
    state = CoverState(graph.kernel, trust, request.config.lambda_div)
    for row in request.labelled.tolist():
        state.add_pick(row)
    return state


def _spread(pool: Pool, graph: PairGraph, picks: Rows, request: Request) -> Picks:
    """Continue by k-center among the pairs that are neither untypical nor suspicious; those come last."""
    taken = np.concatenate([picks, request.labelled])
    is_free = np.ones(pool.num_pairs, dtype=bool)
    is_free[taken] = False
    is_outlier = find_outliers(graph, request.config.outlier_fraction)
    inner, outer = np.flatnonzero(is_free & ~is_outlier), np.flatnonzero(is_free & is_outlier)
    num_left = request.budget - len(picks)
    spread = continue_k_center(pool.joint, taken, inner, min(num_left, len(inner)), "diversity")
    if num_left <= len(inner):
        return spread
    taken = np.concatenate([taken, spread.indices])
    return spread.followed_by(continue_k_center(pool.joint, taken, outer, num_left - len(inner), "outlier"))


def find_outliers(graph: PairGraph, outlier_fraction: float) -> npt.NDArray[np.bool_]:
    """Say which pairs are suspicious, or among the least typical: low sum of the kernel over their neighbours.

    Args:
        graph: over N pairs.
        outlier_fraction: share of the pool that counts as least typical.

    Returns:
        (N,) bool.
    """
    typicality = graph.kernel.sum(axis=1) - graph.kernel.diagonal()
    is_untypical = rankdata(typicality) <= outlier_fraction * len(typicality)
    return np.asarray(is_untypical | (graph.suspicion > 0))
