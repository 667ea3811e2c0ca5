"""From what is asked of a selection to what the engine keeps to: a budget in rows, closed rows, rules and costs."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from mmcsal_core.errors import ConfigError, GateError
from mmcsal_core.neighbors.vectors import Floats, Rows
from mmcsal_core.selection.config import SelectionConfig, Strategy
from mmcsal_core.selection.constraints.config import QuotaConfig
from mmcsal_core.selection.constraints.cost_budget import CostBudget, allow, hold_back
from mmcsal_core.selection.constraints.minimum_distance import MinimumDistance
from mmcsal_core.selection.constraints.near_duplicates import NearDuplicates, group_near_duplicates
from mmcsal_core.selection.constraints.quotas import Groups, QuotaPlan, Quotas, find_barred, plan_quotas
from mmcsal_core.selection.engine.eligibility import NO_ROWS, Constraints, Rule
from mmcsal_core.selection.pool import Pool

BY_GAIN: tuple[Strategy, ...] = ("mmcsal", "coverage", "k_center", "maxherding")
"""Strategies whose order of picks is the order of one gain, which can be divided by costs and compared."""

ENDS_BY_GAIN: tuple[Strategy, ...] = (*BY_GAIN, "probcover")
"""Strategies that a minimum gain can end."""

BY_NUMBER: tuple[Strategy, ...] = ("mmcsal_continuous", "kmeans", "typiclust", "activeft")
"""Strategies that place as many points as there are picks, before they pick."""


@dataclass(frozen=True, eq=False)
class Demands:
    """What is asked of the picks beside `SelectionConfig`: numbers of the rows of one pool.

    Args:
        budget: rows to pick; None where another limit ends the selection.
        budget_fraction: share of the unlabelled rows to pick, instead.
        costs: (N,) above 0.
        cost_budget: what the picks may cost together.
        divides_gain: whether gains are divided by costs.
        quotas: on `groups`.
        groups: of N rows, where there are quotas.
    """

    budget: int | None = None
    budget_fraction: float | None = None
    costs: Floats | None = None
    cost_budget: float = np.inf
    divides_gain: bool = True
    quotas: QuotaConfig = field(default_factory=QuotaConfig)
    groups: Groups | None = None

    @property
    def divisors(self) -> Floats | None:
        """What gains are divided by, (N,), if anything."""
        return self.costs if self.divides_gain else None


@dataclass(frozen=True, eq=False)
class Settlement:
    """What the engine is told.

    Args:
        budget: rows to pick, at most.
        constraints: what the picks must keep to.
        quotas: what every group gets, where there are quotas.
        near_duplicates: groups of near-duplicates, where they were asked for.
    """

    budget: int
    constraints: Constraints
    quotas: QuotaPlan | None
    near_duplicates: NearDuplicates | None


def settle_demands(pool: Pool, labelled: Rows, config: SelectionConfig, demands: Demands) -> Settlement:
    """Work out budget and constraints, and make sure that they can be kept.

    Args:
        pool: N pairs.
        labelled: (L,) rows that count as picked.
        config: strategy, minimum distance and near-duplicates.
        demands: numbers of the rows.

    Raises:
        ConfigError: the strategy cannot do what is asked.
        GateError: quotas cannot be kept, or cost too much, or near-duplicates leave fewer pairs than the budget.
    """
    has_budget = demands.budget is not None or demands.budget_fraction is not None
    check_options(config, has_budget=has_budget, divides_gain=demands.divisors is not None)
    is_open = np.ones(pool.num_pairs, dtype=bool)
    is_open[labelled] = False
    num_unlabelled = int(is_open.sum())
    is_allowed = _find_allowed(pool, labelled, config, demands)
    near_duplicates = None
    if config.near_duplicates.threshold is not None:
        threshold = config.near_duplicates.threshold
        may_lead = is_allowed if demands.groups is None else is_allowed & ~find_barred(demands.quotas, demands.groups)
        near_duplicates = group_near_duplicates(pool.joint, labelled, threshold, config.search, may_lead)
        is_open[near_duplicates.list_closed()] = False
        _check_leaders(demands, num_unlabelled, int(is_open.sum()))
    num_leading = int(is_open.sum())
    is_open &= is_allowed
    num_left = num_leading if demands.groups is None else int(is_open.sum())  # quotas share out what there is
    asked = _count_asked(demands, num_unlabelled)
    budget = asked
    if asked is not None and demands.budget_fraction is not None:
        budget = max(1, min(asked, num_left))
    plan = None
    if demands.groups is not None:
        plan = plan_quotas(demands.quotas, demands.groups, is_open, budget)
        if demands.costs is not None:
            plan = hold_back(plan, is_open, demands.costs, demands.cost_budget)
    constraints = Constraints(
        closed=NO_ROWS if near_duplicates is None else near_duplicates.list_closed(),
        make_rules=lambda: _make_rules(pool, labelled, config, demands, plan),
        costs=demands.divisors,
        kinds=None if plan is None else plan.groups.codes,
        prices=demands.costs,
        may_exchange=config.min_distance is None,
        leave_fewer=budget is None or budget != asked,
    )
    most = int(is_open.sum()) if plan is None else plan.budget
    return Settlement(max(1, most) if budget is None else budget, constraints, plan, near_duplicates)


def check_options(config: SelectionConfig, *, has_budget: bool, divides_gain: bool) -> None:
    """Refuse what a strategy cannot do.

    Args:
        config: the strategy and its options.
        has_budget: whether the number of picks is known, as rows or as a share.
        divides_gain: whether gains are divided by costs.

    Raises:
        ConfigError: naming the strategy and the option.
    """
    strategy = config.strategy
    if config.min_gain is not None and strategy not in ENDS_BY_GAIN:
        raise ConfigError(
            f"min_gain needs a strategy that picks by one gain ({', '.join(ENDS_BY_GAIN)}), got {strategy}; leave it "
            "out"
        )
    if divides_gain and strategy not in BY_GAIN:
        raise ConfigError(
            f"cost_rule gain_per_cost needs a strategy whose gains can be divided ({', '.join(BY_GAIN)}), got "
            f"{strategy}; set cost_rule: gain"
        )
    if strategy in BY_NUMBER and not has_budget:
        raise ConfigError(f"strategy {strategy} must know how many pairs to pick, got no budget; give budget too")
    if config.modality_weights and config.space != "joint":
        raise ConfigError(
            f"modality_weights need space joint, got {config.space!r}; leave the weights out, or set space: joint"
        )


def is_distance_the_gain(config: SelectionConfig, costs: Floats | None) -> bool:
    """Say whether a minimum distance is a minimum gain, which is kept for nothing; `costs` divide gains, if any."""
    return config.strategy == "k_center" and config.space == "joint" and costs is None


def _check_leaders(demands: Demands, num_unlabelled: int, num_open: int) -> None:
    wanted = 1 if demands.budget is None else demands.budget
    if wanted > num_open:
        raise GateError(
            f"of {num_unlabelled} unlabelled pairs near_duplicates leaves {num_open} that may be picked, the others "
            f"lie near one of these or near a labelled pair, and {wanted} are asked for; lower the budget or raise "
            "near_duplicates.threshold"
        )


def _count_asked(demands: Demands, num_unlabelled: int) -> int | None:
    if demands.budget_fraction is not None:
        return max(1, round(demands.budget_fraction * num_unlabelled))
    return demands.budget


def _find_allowed(pool: Pool, labelled: Rows, config: SelectionConfig, demands: Demands) -> npt.NDArray[np.bool_]:
    """Return the rows (N,) that can be afforded and lie far enough from labelled ones."""
    is_allowed = np.ones(pool.num_pairs, dtype=bool)
    if demands.costs is not None:
        is_allowed &= demands.costs <= allow(demands.cost_budget)
    if config.min_distance is not None:
        is_allowed[MinimumDistance(pool.joint, labelled, config.min_distance).close_at_start()] = False
    return is_allowed


def _make_rules(
    pool: Pool, labelled: Rows, config: SelectionConfig, demands: Demands, plan: QuotaPlan | None
) -> list[Rule]:
    rules: list[Rule] = [] if plan is None else [Quotas(plan)]
    if demands.costs is not None and np.isfinite(demands.cost_budget):
        rules.append(CostBudget(demands.costs, demands.cost_budget, plan))
    if config.min_distance is not None and not is_distance_the_gain(config, demands.divisors):
        rules.append(MinimumDistance(pool.joint, labelled, config.min_distance))
    return rules
