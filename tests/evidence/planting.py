"""Plant mispaired pairs in a pool, and keep the truth.

Among a random share of the pairs the contents of one modality are passed on in a single cycle, so that each of these
pairs gets the content of another one. Every modality keeps its contents: marginals are the same as before. A pair's
label stays that of the modalities which were not moved. A moved content may be of the same class as the pair: it counts
as mispaired all the same.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from mmcsal_core.backbones.backbone import Features
from mmcsal_core.errors import ConfigError

MIN_CYCLE = 2


def plant_mispairs(
    features: Mapping[str, Features], share: float, moved: str, rng: np.random.Generator
) -> tuple[dict[str, Features], npt.NDArray[np.bool_]]:
    """Mispair a share of the pairs.

    Args:
        features: per modality (N, in_dim).
        share: of the pairs, in [0, 1]; 0 plants nothing.
        moved: the modality whose contents are passed on.
        rng: of the pairs and their order.

    Returns:
        Features per modality, and which pairs are mispaired, (N,).

    Raises:
        ConfigError: the share is out of range, or of a single pair.
    """
    num_pairs = len(features[moved])
    num_moved = round(share * num_pairs)
    if not 0 <= share <= 1 or 0 < num_moved < MIN_CYCLE:
        raise ConfigError(
            f"the share of mispaired pairs must be in [0, 1] and 0 or {MIN_CYCLE} pairs at least, got {share} of "
            f"{num_pairs}; choose another share"
        )
    cycle = rng.choice(num_pairs, num_moved, replace=False)
    planted = dict(features)
    planted[moved] = features[moved].copy()
    planted[moved][cycle] = features[moved][np.roll(cycle, 1)]
    is_mispaired = np.zeros(num_pairs, dtype=np.bool_)
    is_mispaired[cycle] = True
    return planted, is_mispaired
