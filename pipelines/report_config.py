"""What can be configured about the report; apart from the stage, since that imports matplotlib and torch."""

from pydantic import Field

from mmcsal_core.reporting.projection import Projection
from mmcsal_core.settings import Settings


class ReportConfig(Settings):
    """What the report shows and how much it measures."""

    title: str = Field("Selected pairs", description="heading of the page")
    gallery_size: int = Field(60, ge=0, le=2000, description="first picks shown with their content")
    thumbnail_px: int = Field(96, ge=16, le=1024, description="longer side of a picture on the page, in CSS pixels")
    num_random_draws: int = Field(20, ge=1, le=1000, description="random draws that the coverage is compared with")
    max_pool_rows: int = Field(20_000, ge=100, description="pairs that the coverage is measured on at most")
    max_budget: int = Field(1_000, ge=1, description="picks up to which the coverage is measured")
    projection: Projection = Field(
        "pca", description="how the pool is laid into a plane: pca, or umap (extra mmcsal[umap])"
    )
    max_projected: int = Field(600, ge=10, le=5000, description="pairs shown in that plane, at most")
