"""A pool of 120 pairs with groups, costs and labelled pairs, and selections from it under constraints."""

from typing import Any

import numpy as np
import pyarrow as pa

from mmcsal_core.neighbors import KernelConfig
from mmcsal_core.neighbors.vectors import Rows
from mmcsal_core.selection import Coreset, SelectionConfig
from mmcsal_core.selection.constraints.config import QuotaConfig
from mmcsal_core.selection.constraints.demands import Demands, settle_demands
from mmcsal_core.selection.constraints.quotas import group_rows
from mmcsal_core.selection.coreset import Request
from mmcsal_core.selection.engine.eligibility import NO_ROWS
from mmcsal_core.selection.pool import make_pool
from mmcsal_core.selection.strategies import select_from_pool
from tests.core.pair_pools import make_clustered_pool

NUM_PAIRS = 120
MADE = make_clustered_pool(NUM_PAIRS, num_clusters=6, seed=2)
POOL = make_pool(MADE.embeddings, MADE.features)
LETTERS = np.random.default_rng(1).choice(list("abc"), NUM_PAIRS, p=[0.6, 0.3, 0.1])
COSTS = np.random.default_rng(2).integers(1, 6, NUM_PAIRS).astype(float)
GROUPS = group_rows("kind", pa.chunked_array([LETTERS.tolist()]))
LABELLED = np.array([5, 40, 90])


def configure(**fields: Any) -> SelectionConfig:
    continuous = {"num_steps": 5}
    return SelectionConfig.model_validate(
        {"kernel": KernelConfig(bandwidth_neighbor=20), "refine": "none", "continuous": continuous, **fields}
    )


def select(config: SelectionConfig, labelled: Rows = NO_ROWS, **demands: Any) -> Coreset:
    settled = settle_demands(POOL, labelled, config, Demands(**demands))
    return select_from_pool(POOL, Request(settled.budget, labelled, 0, config, settled.constraints))


def quotas(**fields: Any) -> dict[str, Any]:
    return {"quotas": QuotaConfig.model_validate({"column": "kind", **fields}), "groups": GROUPS}
