"""Labelled pools for the tests of evaluation."""

import numpy as np

from mmcsal_core.evaluation import LabelledPool
from tests.core.pair_pools import make_clustered_pool

NUM_PAIRS, NUM_CLASSES = 240, 6


def make_labelled_pool(num_pairs: int = NUM_PAIRS, num_classes: int = NUM_CLASSES, seed: int = 0) -> LabelledPool:
    """Make pairs whose class is their cluster, every seventh of them mispaired."""
    pool = make_clustered_pool(num_pairs, num_classes, seed=seed)
    return LabelledPool(pool.embeddings, pool.features, pool.clusters, mispaired=np.arange(num_pairs) % 7 == 0)
