"""What can be configured about the baselines, and about the continuous reconstruction of the method."""

from pydantic import Field

from mmcsal_core.settings import Settings


class BaselineConfig(Settings):
    """The parameters of the baselines, by default those of their papers."""

    coverage_neighbor: int = Field(
        60, ge=1, description="coverage: the bandwidth is the median squared distance to the neighbour of this rank"
    )
    maxherding_lengthscale: float = Field(
        1.0, gt=0, description="maxherding: the kernel falls to 1/e at this distance between unit vectors"
    )
    typiclust_max_clusters: int = Field(500, ge=1, description="typiclust: clusters, at most")
    typiclust_neighbors: int = Field(20, ge=1, description="typiclust: neighbours that a typicality is measured by")
    probcover_delta: float | None = Field(
        None, gt=0, le=2, description="probcover: radius of a ball, between unit vectors; by default from the pool"
    )
    probcover_purity: float = Field(
        0.95,
        gt=0,
        le=1,
        description="probcover: share of the balls that keep to one cluster, at least, if from the pool",
    )
    probcover_clusters: int = Field(
        5,
        ge=1,
        description="probcover: clusters that stand for the classes, as many as are expected; the radius hangs on it",
    )


class ContinuousConfig(Settings):
    """How points are fitted to the pool before each is rounded to a pair: `mmcsal_continuous`, in part `activeft`."""

    temperature: float = Field(0.07, gt=0, description="divides every similarity; activeft uses it too")
    num_steps: int = Field(300, ge=0, description="steps of Adam; activeft uses it too")
    learning_rate: float = Field(1e-3, gt=0, description="step size of Adam; activeft uses it too")
    batch_size: int = Field(
        1024, ge=1, description="pairs, and points that repel the others, in each step; activeft uses it too"
    )
    lambda_div: float = Field(1.0, ge=0, description="weight of the repulsion between points")
    lambda_align: float = Field(0.5, ge=0, description="weight of the distance between a point's modalities")
    crossmodal_weight: float = Field(1.0, ge=0, description="weight of each cross-modal similarity; a uni-modal has 1")
    alignment_bonus: float = Field(
        0.1, ge=0, description="what a pair's alignment adds to its similarity to a point that is rounded"
    )
