"""The `alignment` baseline: the pairs whose modalities agree best, as CLIP-score filters keep them.

Schuhmann et al., "LAION-400M: Open Dataset of CLIP-Filtered 400 Million Image-Text Pairs" (arXiv 2111.02114), which
keeps pairs above a cosine; Gadre et al., "DataComp: In search of the next generation of multimodal datasets" (NeurIPS
2023, arXiv 2304.14108), which keeps a share of the pool, as here. The cosine is that of this run's own encoder, not
CLIP's. It looks at each pair alone: nothing keeps it from picking the same thing again and again.
"""

import numpy as np

from mmcsal_core.errors import ConfigError
from mmcsal_core.neighbors.suspicion import measure_alignment
from mmcsal_core.selection.coreset import Picks, Request, collect_picks
from mmcsal_core.selection.pool import Pool


def select_alignment(pool: Pool, request: Request) -> Picks:
    """Pick the pairs of the highest cosine, mean over modality pairs; ties go to the lowest row.

    The alignment term is what the cosine lacks to 1.

    Raises:
        ConfigError: there is a single modality.
        DataError: the modalities' embeddings differ in length.
    """
    if len(pool.embeddings) < 2:
        raise ConfigError(
            f"strategy alignment compares the modalities of a pair, got one ({next(iter(pool.embeddings))}); "
            "set selection.space to joint, or choose another strategy"
        )
    pool.check_shared_space("alignment")
    alignment = measure_alignment(pool.embeddings)
    order = np.argsort(-alignment, kind="stable")
    rows = request.constraints.begin(pool.num_pairs, request.labelled).take_in_order(order, request.budget)
    lacking = np.minimum(alignment[rows] - 1.0, 0.0)
    return collect_picks(rows, "alignment", [(0.0, 0.0, term) for term in lacking.tolist()])
