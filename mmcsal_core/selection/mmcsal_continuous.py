"""The `mmcsal_continuous` strategy: pairs of unit vectors fitted to the pool, each rounded to its nearest pair.

A second reconstruction of the selection of Shen, Wei, Yin, Rajan, Hu & See, "Enhancing Modality Representation and
Alignment for Multimodal Cold-start Active Learning" (arXiv 2412.09126), whose equations are not public: distribution,
diversity and alignment as three terms of one continuous objective in the manner of ActiveFT (Xie et al., arXiv
2303.14382), over uni-modal and cross-modal similarities. The objective is in `continuous_objective`.
"""

import numpy as np

from mmcsal_core.neighbors.suspicion import measure_alignment
from mmcsal_core.selection.coreset import Picks, Request, collect_picks
from mmcsal_core.selection.pool import Pool
from mmcsal_core.selection.rounding import round_to_rows


def select_mmcsal_continuous(pool: Pool, request: Request) -> Picks:
    """Pick for each fitted point the open pair of the largest similarity plus alignment bonus.

    A coverage term is the share of the pool nearest to the point.

    Raises:
        DataError: the modalities' embeddings differ in length, so they cannot be compared.
    """
    from mmcsal_core.selection.continuous_objective import Fit, fit_points  # noqa: PLC0415  torch is slow to import

    pool.check_shared_space("mmcsal_continuous")
    config = request.config.continuous
    points = fit_points(pool, request.budget, request.labelled, Fit(config, request.seed))
    bonus = config.alignment_bonus * measure_alignment(pool.embeddings)[:, None]
    vectors = np.hstack([*pool.embeddings.values(), bonus], dtype=np.float32)
    targets = np.hstack([points.mixed, np.ones((request.budget, 1))], dtype=np.float32)
    rows = round_to_rows(vectors, targets, request.constraints.begin(pool.num_pairs, request.labelled))
    return collect_picks(rows, "mmcsal_continuous", [(share, 0.0, 0.0) for share in points.shares[: len(rows)]])
