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
from mmcsal_core.selection.covering import rank_again, search_cover
from mmcsal_core.selection.engine.cover_objective import Cover
from mmcsal_core.selection.engine.lazy_blocks import Limits
from mmcsal_core.selection.k_center import continue_k_center
from mmcsal_core.selection.pair_graph import PairGraph, build_pair_graph
from mmcsal_core.selection.pool import Pool
from mmcsal_core.selection.refine import Swaps


def select_mmcsal(pool: Pool, request: Request) -> Picks:
    """Pick by coverage with repulsion and trust, refine the picks, and fill up by k-center.

    With `refine: none` the picks are those of strict greedy, so any prefix is the answer for a smaller budget. With a
    minimum gain coverage goes on until it is reached and ends the selection, since distances are other numbers.

    Raises:
        DataError: the modalities' embeddings differ in length.
    """
    pool.check_shared_space("mmcsal")
    backbones_alone = stand_for_few(pool.num_pairs, request)
    graph = build_pair_graph(pool, request.config, request.seed, backbones_alone=backbones_alone)
    covering = cover_graph(graph, request)
    if len(covering.indices) == request.budget or request.config.min_gain is not None:
        return covering
    return covering.followed_by(_spread(pool, graph, covering.indices, request))


def stand_for_few(num_pairs: int, request: Request) -> bool:
    """Say whether picks will be so many that each stands for few pairs, and the kernel may hang on their number.

    Strict greedy (`refine: none`) promises prefixes, so its kernel is that of any budget. Where something else than the
    budget ends the selection the number of picks is not known.
    """
    config, constraints = request.config, request.constraints
    if config.refine == "none" or config.min_gain is not None or config.min_distance is not None:
        return False
    if constraints.leave_fewer or constraints.prices is not None:
        return False
    return request.budget + len(request.labelled) >= config.kernel.backbones_alone_from * num_pairs


def cover_graph(graph: PairGraph, request: Request) -> Picks:
    """Run the coverage phase on a graph: greedy, then swaps, then greedy among the moved picks.

    Returns:
        At most `request.budget` picks; fewer where the gain has fallen under the threshold.
    """
    config, num_rows = request.config, len(graph.suspicion)
    trust = 1.0 - config.lambda_align * graph.suspicion
    objective = Cover(trust, config.lambda_div, request.constraints.costs, graph.floor)
    eligibility = request.constraints.begin(num_rows, request.labelled)
    shards = request.engine.open_cover(graph.kernel, objective, eligibility.list_closed())
    limits = _limit_coverage(objective, request, eligibility.is_open)
    picks = search_cover(objective, shards, eligibility, request, limits, "coverage")
    if config.refine == "none" or len(picks.indices) == 0 or not request.constraints.may_exchange:
        return picks
    is_open = request.constraints.begin(num_rows, request.labelled).is_open
    swaps = Swaps(shards, trust, request.labelled, graph.floor, is_open, request.constraints)
    ranked = rank_again(shards, objective, swaps.move(picks.indices, config.max_refine_rounds), request.labelled)
    return ranked.until(limits)


def _limit_coverage(objective: Cover, request: Request, is_open: npt.NDArray[np.bool_]) -> Limits:
    """End coverage at the minimum gain where there is one, else where F rises by less than a trifle of one pair.

    A gain below 0 ends it too where costs divide gains: the dearest pair would lose least.
    """
    config, costs = request.config, objective.costs
    can_end = config.min_gain is not None or config.lambda_div == 0 or costs is not None
    min_gain = request.least_gain if can_end else -np.inf
    if config.min_gain is not None or config.diversity_threshold == 0:
        return Limits(request.budget, min_gain, costs=costs)
    min_rise = config.diversity_threshold / len(objective.trust)
    if costs is not None:
        min_rise /= float(np.median(costs[is_open])) if is_open.any() else 1.0
    return Limits(request.budget, min_gain, min_rise, costs)


def _spread(pool: Pool, graph: PairGraph, picks: Rows, request: Request) -> Picks:
    """Continue by k-center among the pairs that are neither untypical nor suspicious; those come last."""
    eligibility = request.constraints.resume(pool.num_pairs, request.labelled, picks)
    num_left = request.budget - len(picks)
    centers = np.concatenate([picks, request.labelled])
    outliers = np.flatnonzero(find_outliers(graph, request.config.outlier_fraction))
    spread = continue_k_center(pool, centers, eligibility, request, Limits(num_left), "diversity", left_out=outliers)
    num_left -= len(spread.indices)
    if num_left == 0:
        return spread
    centers = np.concatenate([centers, spread.indices])
    return spread.followed_by(continue_k_center(pool, centers, eligibility, request, Limits(num_left), "outlier"))


def find_outliers(graph: PairGraph, outlier_fraction: float) -> npt.NDArray[np.bool_]:
    """Say which pairs are suspicious, or among the least typical: low sum of the kernel over their neighbours.

    Args:
        graph: over N pairs.
        outlier_fraction: share of the pool that counts as least typical.

    Returns:
        (N,) bool.
    """
    typicality = graph.kernel.sum(axis=1, dtype=np.int64) - graph.kernel.diagonal()
    is_untypical = rankdata(typicality) <= outlier_fraction * len(typicality)
    return np.asarray(is_untypical | (graph.suspicion > 0))
