"""What can be configured about a selection. The budget is data, not behaviour, and is an argument."""

from typing import Literal, TypeAlias

from pydantic import Field

from mmcsal_core.neighbors.config import KernelConfig, NeighborConfig
from mmcsal_core.selection.baseline_config import BaselineConfig, ContinuousConfig
from mmcsal_core.selection.constraints.config import NearDuplicateConfig
from mmcsal_core.settings import Settings

Strategy: TypeAlias = Literal[
    "mmcsal",
    "mmcsal_continuous",
    "coverage",
    "k_center",
    "random",
    "kmeans",
    "typiclust",
    "probcover",
    "maxherding",
    "activeft",
    "alignment",
]


class SelectionConfig(Settings):
    """How the pairs to label first are chosen. The fields concern `mmcsal` unless they say otherwise."""

    strategy: Strategy = Field("mmcsal", description="how pairs are chosen; docs/method.md has what each does")
    space: str = Field(
        "joint",
        min_length=1,
        description="what every strategy measures on: joint (all embeddings), features (the backbones' own, all "
        "modalities) or one modality's name",
    )
    modality_weights: dict[str, float] = Field(
        default_factory=dict,
        description="weight of a modality in every distance, e.g. {image: 2}; 1 where none is given, 0 leaves it out",
    )
    min_gain: float | None = Field(
        None,
        gt=0,
        description="end before the first pick whose gain (by cost where cost_rule says so) is below; above 0, since a "
        "pick that gains nothing is a matter of when_exhausted",
    )
    min_distance: float | None = Field(
        None, gt=0, le=2, description="no pick lies nearer than this to an earlier pick or a labelled pair"
    )
    near_duplicates: NearDuplicateConfig = Field(
        NearDuplicateConfig(), description="groups of which only one pair may be picked"
    )
    when_exhausted: Literal["fill", "stop"] = Field(
        "fill", description="what to do once no pick gains anything: fill up with the lowest pair ids, or stop"
    )
    lambda_div: float = Field(0.1, ge=0, description="weight of the repulsion between a candidate and the picks")
    lambda_align: float = Field(
        0.5,
        ge=0,
        le=1,
        description="weight of suspicion: the kernel of the most suspicious candidate is scaled by 1 - lambda_align",
    )
    suspicious_fraction: float = Field(
        0.2,
        ge=0,
        le=1,
        description="share of the pool, the most suspicious pairs, that is trusted less, rising with the rank",
    )
    refine: Literal["swap", "none"] = Field(
        "swap", description="swap: move picks to better members of their cells, then rank again; none: strict greedy"
    )
    max_refine_rounds: int = Field(50, ge=1, description="rounds of swaps, at most")
    diversity_threshold: float = Field(
        0.05,
        ge=0,
        description="once a pick covers less than so many pairs' worth, k-center picks the rest; 0 never. Where there "
        "are costs, of a pick of median cost",
    )
    outlier_fraction: float = Field(
        0.05, ge=0, lt=1, description="share of the pool, the least typical pairs, that k-center leaves for last"
    )
    kernel: KernelConfig = Field(KernelConfig(), description="the pair kernel; coverage and maxherding use its horizon")
    search: NeighborConfig = Field(
        NeighborConfig(),
        description="neighbour search where no stored edges serve; coverage, maxherding and probcover use it",
    )
    continuous: ContinuousConfig = Field(
        ContinuousConfig(), description="the points that mmcsal_continuous and activeft fit to the pool"
    )
    baselines: BaselineConfig = Field(BaselineConfig(), description="parameters of the baselines")
