"""The door to suspicion: embeddings and features in, how far each pair is suspected of being mispaired out.

`mmcsal` finds the same by itself where it is given no suspicion. This door is for a caller that selects from one pool
again and again, or has out-of-fold cosines, which selection cannot find since it knows no encoder.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from mmcsal_core.neighbors.relations import list_backbone_relations
from mmcsal_core.neighbors.suspicion import measure_witnesses, score_suspicion
from mmcsal_core.neighbors.vectors import Vectors
from mmcsal_core.selection.config import SelectionConfig
from mmcsal_core.selection.pair_graph import find_backbone_spaces, find_neighbors
from mmcsal_core.selection.pool import check_scores, make_pool


def measure_suspicion(
    embeddings: Mapping[str, npt.NDArray[np.floating]],
    *,
    features: Mapping[str, npt.NDArray[np.floating]] | None = None,
    out_of_fold_alignment: npt.NDArray[np.floating] | None = None,
    config: SelectionConfig | None = None,
) -> Vectors:
    """Rank the pairs of a pool by how far they are suspected of being mispaired.

    Args:
        embeddings: (N, dim) by modality, in the shared space.
        features: (N, dim_m) by modality, the backbones' own features, where there are any.
        out_of_fold_alignment: (N,) cosine of each pair's halves by an encoder that has not seen the pair.
        config: says how neighbours are found, and whether in the backbones' spaces.

    Returns:
        (N,) float32 in [0, 1], the share of other pairs that are less suspicious.

    Raises:
        DataError: a vector is NaN, infinite or zero, the modalities' embeddings differ in length, or the cosines are
            not one finite number a pair.
    """
    chosen = config or SelectionConfig()
    pool = make_pool(embeddings, features)
    if out_of_fold_alignment is not None:
        check_scores(out_of_fold_alignment, pool.num_pairs, "out-of-fold alignment")
    pool.check_shared_space("mmcsal")
    backbones = list_backbone_relations(find_backbone_spaces(pool, chosen), chosen.kernel)
    witnesses = measure_witnesses(pool.embeddings, find_neighbors(pool, backbones, chosen))
    return score_suspicion(witnesses, out_of_fold_alignment)
