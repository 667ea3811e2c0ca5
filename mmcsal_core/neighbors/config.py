"""What can be configured about neighbours: how they are searched, and how near neighbours count."""

from typing import Literal

from pydantic import Field

from mmcsal_core.settings import Settings


class NeighborConfig(Settings):
    """How the nearest neighbours of a pair are found."""

    num_neighbors: int = Field(64, ge=1, description="neighbours kept for each pair and relation, itself left out")
    index_key: str = Field(
        "auto",
        min_length=1,
        description="auto (exact up to 200 000 pairs, inverted lists above) or a FAISS factory string, e.g. HNSW32",
    )
    nprobe: int = Field(32, ge=1, description="inverted lists visited for each query, where the index has lists")
    seed: int = Field(0, ge=0, description="seed of the index's own k-means, where it has one")
    backbone_dims: int = Field(
        128, ge=0, description="principal components kept of each backbone's own space; 0 leaves these spaces out"
    )


class KernelConfig(Settings):
    """How the relations between two pairs make one similarity.

    The relations are uni-modal and cross-modal in the shared space, uni-modal in the backbones' own spaces, and
    between neighbourhoods.
    """

    form: Literal["product", "sum"] = Field(
        "product",
        description="product: pairs are near where all relations together say so; sum: where any relation does",
    )
    bandwidth_neighbor: int | None = Field(
        None,
        ge=1,
        description="a relation's bandwidth is the median squared distance to the neighbour of this rank; by default "
        "the mean squared distance of two pairs",
    )
    unimodal_weight: float = Field(1.0, gt=0, description="weight of each uni-modal relation in the shared space")
    crossmodal_weight: float = Field(1.0, ge=0, description="weight of each cross-modal relation in the shared space")
    backbone_weight: float = Field(2.0, ge=0, description="weight of each relation in a backbone's own space")
    neighborhood_weight: float = Field(
        4.0,
        ge=0,
        description="weight of each relation between the means of two pairs' neighbourhoods, in the backbones' own "
        "spaces where there are any",
    )
    neighborhood_size: int = Field(8, ge=1, description="pairs of a neighbourhood, the pair itself included")
    backbones_alone_from: float = Field(
        0.2,
        gt=0,
        description="share of the pool, picks and labelled pairs together, from which only the backbones' own spaces "
        "count: picks that stand for so few pairs must tell apart what the rest smooths over; above 1 for never. Needs "
        "a known number of picks, and refine other than none",
    )
    max_dense_pairs: int = Field(
        10_240,
        ge=0,
        description="pools of up to so many pairs hold the kernel of all couples, larger ones that of neighbours",
    )
    horizon: float = Field(
        0.85,
        ge=0,
        le=1,
        description="how far a pair counts as covered from the start, as a share of its kernel value with its last "
        "neighbour; nearer 0 the first picks spread more, nearer 1 they go where many pairs are",
    )
