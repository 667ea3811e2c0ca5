"""What can be configured about a selection. The budget is data, not behaviour, and is an argument."""

from typing import Literal, TypeAlias

from pydantic import Field

from mmcsal_core.neighbors.config import KernelConfig, NeighborConfig
from mmcsal_core.settings import Settings

Strategy: TypeAlias = Literal["mmcsal", "random", "kmeans", "k_center", "maxherding"]


class SelectionConfig(Settings):
    """How the pairs to label first are chosen. The fields concern `mmcsal` unless they say otherwise."""

    strategy: Strategy = Field("mmcsal", description="mmcsal, or a baseline: random, kmeans, k_center, maxherding")
    lambda_div: float = Field(0.1, ge=0, description="weight of the repulsion between a candidate and the picks")
    lambda_align: float = Field(
        0.5,
        ge=0,
        le=1,
        description="weight of suspicion: a candidate's kernel is scaled by 1 - lambda_align * suspicion",
    )
    suspicious_fraction: float = Field(
        0.2, ge=0, le=1, description="share of the pool, the most suspicious pairs, whose suspicion is above 0"
    )
    refine: Literal["swap", "none"] = Field(
        "swap", description="swap: move picks to better members of their cells, then rank again; none: strict greedy"
    )
    max_refine_rounds: int = Field(50, ge=1, description="rounds of swaps, at most")
    diversity_threshold: float = Field(
        0.001, ge=0, lt=1, description="below this share of the first gain, k-center picks the rest; 0 never"
    )
    outlier_fraction: float = Field(
        0.05, ge=0, lt=1, description="share of the pool, the least typical pairs, that k-center leaves for last"
    )
    kernel: KernelConfig = Field(KernelConfig(), description="the pair kernel; maxherding uses its bandwidth_neighbor")
    search: NeighborConfig = Field(
        NeighborConfig(), description="neighbour search where no stored edges serve; maxherding uses it too"
    )
