"""What the pools of the selection benchmark are: kinds and sizes, what every method is told of them, their modalities.

A pool is two modalities of equal length side by side, each half of unit length up to a common factor where the data has
modalities, and one vector cut in two where it has not. `selection_sources` makes them.
"""

from dataclasses import dataclass
from typing import Literal, TypeAlias

from mmcsal_core.neighbors.vectors import Vectors

Kind: TypeAlias = Literal["clustered", "uniform", "power-law", "openmoji", "digits"]

DESCRIPTIONS: dict[Kind, str] = {
    "clustered": "500 clusters of equal share, their centers and the noise around them normal (0.7 of a center)",
    "uniform": "uniform on the sphere",
    "power-law": "as clustered, but the share of the r-th cluster is proportional to 1 / r",
    "openmoji": "the drawings and names of the demo under this project's own backbones (`efficientnet-lite0` and "
    "`wordllama`), each modality reduced to D / 2 principal components; every copy but the first has normal noise of "
    "half a vector's length",
    "digits": "the 1797 scanned digits of scikit-learn, upper and lower half as two modalities",
}

SEED = 0
"""Of everything random."""


@dataclass(frozen=True)
class PoolSpec:
    """Which pool: its kind, N and D."""

    kind: Kind
    num_pairs: int
    dim: int

    @property
    def stem(self) -> str:
        """Name of its files."""
        return f"{self.kind}-{self.num_pairs}x{self.dim}"


@dataclass(frozen=True)
class PoolFacts:
    """What every method is told.

    Args:
        vectors: path of a .npy file, (N, D) float32 of unit length.
        start: the row nearest to the mean, where farthest-first starts.
        bandwidth: s of the kernel exp(-d^2 / s): the median squared distance to the 60th neighbour.
    """

    vectors: str
    start: int
    bandwidth: float


def split_modalities(vectors: Vectors) -> dict[str, Vectors]:
    """Cut a pool's vectors into its two modalities."""
    half = vectors.shape[1] // 2
    return {"image": vectors[:, :half], "text": vectors[:, half:]}
