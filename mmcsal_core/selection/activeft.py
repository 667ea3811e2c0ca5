"""The `activeft` baseline: points fitted to the pool's distribution, each rounded to its nearest pair.

Xie, Lu, Yan, Yang, Tomizuka & Zhan, "Active Finetuning: Exploiting Annotation Budget in the Pretraining-Finetuning
Paradigm" (CVPR 2023, arXiv 2303.14382): as many unit vectors as the budget, drawn from the pool, are moved by Adam to
be near the pool and far from each other. The objective is the paper's; its parameters are those of
`selection.continuous`, whose defaults are the paper's. Not in the paper: mini-batches of a large pool, labelled pairs
as points that stay where they are, and an order, by the share of the pool that each point stands for.
"""

from mmcsal_core.selection.coreset import Picks, Request, collect_picks
from mmcsal_core.selection.pool import Pool
from mmcsal_core.selection.rounding import round_to_rows

REPULSION_WEIGHT = 1.0


def select_activeft(pool: Pool, request: Request) -> Picks:
    """Pick the open row nearest to each fitted point; a coverage term is the share of the pool nearest to the point."""
    from mmcsal_core.selection.continuous_objective import Fit, fit_points  # noqa: PLC0415  torch is slow to import

    config = request.config.continuous.model_copy(update={"lambda_div": REPULSION_WEIGHT})
    joint = Pool({"joint": pool.joint}, {})
    points = fit_points(joint, request.budget, request.labelled, Fit(config, request.seed))
    eligibility = request.constraints.begin(pool.num_pairs, request.labelled)
    rows = round_to_rows(pool.joint, points.mixed, eligibility)
    return collect_picks(rows, "activeft", [(share, 0.0, 0.0) for share in points.shares[: len(rows)]])
