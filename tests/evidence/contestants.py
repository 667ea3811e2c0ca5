"""Who competes for the picks: the default strategy, every baseline, and the default with parts left out.

Everything is derived from the defaults, so that the rows follow when a default changes. The ladder begins with the
uni-modal kernel alone and adds one part a step; its last step is the default itself.
"""

from typing import Any, get_args

from mmcsal_core.selection.baseline_config import ContinuousConfig
from mmcsal_core.selection.config import SelectionConfig, Strategy
from mmcsal_core.selection.space import FEATURES, JOINT

DEFAULT = "mmcsal"
RANDOM = "random"
CONTINUOUS = "mmcsal_continuous"
NO_SWAPS = "mmcsal without swaps"
NO_ALIGNMENT = "mmcsal without alignment"
SUM = "mmcsal, sum of narrow kernels"
RAW = "mmcsal on raw features"
ONE_KERNEL = "mmcsal, all relations at any budget"

NO_CROSS: dict[str, Any] = {"kernel": {"crossmodal_weight": 0.0}}
NO_BACKBONE: dict[str, Any] = {"kernel": {"backbone_weight": 0.0}}
NO_NEIGHBORHOODS: dict[str, Any] = {"kernel": {"neighborhood_weight": 0.0}}
SUM_OF_KERNELS: dict[str, Any] = {
    "kernel": {"form": "sum", "bandwidth_neighbor": 60, "backbone_weight": 1.0, "neighborhood_weight": 0.0}
}
ALL_RELATIONS: dict[str, Any] = {"kernel": {"backbones_alone_from": 2.0}}
NO_TRUST: dict[str, Any] = {"lambda_align": 0.0}
NO_DIVERSITY: dict[str, Any] = {"lambda_div": 0.0, "diversity_threshold": 0.0}

LADDER: tuple[tuple[str, tuple[dict[str, Any], ...]], ...] = (
    ("uni-modal kernel", (NO_CROSS, NO_BACKBONE, NO_NEIGHBORHOODS, NO_TRUST, NO_DIVERSITY)),
    ("+ cross-modal", (NO_BACKBONE, NO_NEIGHBORHOODS, NO_TRUST, NO_DIVERSITY)),
    ("+ backbone relations", (NO_NEIGHBORHOODS, NO_TRUST, NO_DIVERSITY)),
    ("+ neighbourhoods", (NO_TRUST, NO_DIVERSITY)),
    ("+ alignment", (NO_DIVERSITY,)),
)
"""The steps below the default, each with the parts that it lacks; the next one is `+ diversity`, the default."""

BASELINES: tuple[Strategy, ...] = tuple(
    name for name in get_args(Strategy) if name not in ("mmcsal", "mmcsal_continuous", "random")
)
ONE_SPACE: tuple[Strategy, ...] = ("alignment",)
"""Strategies that compare modalities and so need the shared space."""


def list_contestants() -> dict[str, SelectionConfig]:
    """Return the configuration of every contestant by its name, the default first."""
    default = SelectionConfig()
    contestants = {DEFAULT: default, RANDOM: default.model_copy(update={"strategy": "random"})}
    for strategy in BASELINES:
        for space in (JOINT,) if strategy in ONE_SPACE else (JOINT, FEATURES):
            changes = {"strategy": strategy, "space": space}
            contestants[f"{strategy} ({space})"] = default.model_copy(update=changes)
    for name, parts in LADDER:
        contestants[name] = leave_out(default, *parts)
    contestants[NO_SWAPS] = leave_out(default, {"refine": "none"})
    contestants[NO_ALIGNMENT] = leave_out(default, NO_TRUST)
    contestants[ONE_KERNEL] = leave_out(default, ALL_RELATIONS)
    contestants[SUM] = leave_out(default, SUM_OF_KERNELS)
    contestants[RAW] = leave_out(default, {"space": FEATURES})
    contestants[CONTINUOUS] = default.model_copy(update={"strategy": CONTINUOUS, "continuous": ContinuousConfig()})
    return contestants


def list_baselines() -> list[str]:
    """Return the names of the contestants that are not ours, chance included."""
    own = {DEFAULT, NO_SWAPS, NO_ALIGNMENT, ONE_KERNEL, SUM, RAW, CONTINUOUS, *(name for name, _ in LADDER)}
    return [name for name in list_contestants() if name not in own]


def leave_out(default: SelectionConfig, *parts: dict[str, Any]) -> SelectionConfig:
    """Return the default with the values of `parts` in place of its own; a nested section keeps its other values."""
    values = default.model_dump()
    for part in parts:
        for key, value in part.items():
            values[key] = {**values[key], **value} if isinstance(value, dict) else value
    return SelectionConfig.model_validate(values)
