"""From a fifth of the pool on, where the number of picks is known, only the backbones' own spaces count."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from mmcsal_core.neighbors import KernelConfig
from mmcsal_core.neighbors.whole_kernel import UNIT
from mmcsal_core.selection import SelectionConfig
from mmcsal_core.selection.constraints.demands import Demands, settle_demands
from mmcsal_core.selection.coreset import Request
from mmcsal_core.selection.pair_graph import build_pair_graph, find_backbone_spaces
from mmcsal_core.selection.pool import Pool, make_pool
from mmcsal_core.selection.strategies import select_from_pool
from tests.core.pair_pools import make_clustered_pool

NUM_PAIRS = 200
MADE = make_clustered_pool(NUM_PAIRS)
POOL = make_pool(MADE.embeddings, MADE.features)
NONE_LABELLED: tuple[int, ...] = ()


def pick(
    alone_from: float,
    budget: int | None,
    pool: Pool = POOL,
    labelled: tuple[int, ...] = NONE_LABELLED,
    demands: dict[str, Any] | None = None,
    **fields: Any,
) -> list[int]:
    config = SelectionConfig(kernel=KernelConfig(backbones_alone_from=alone_from), **fields)
    rows = np.array(labelled, dtype=np.int64)
    settled = settle_demands(pool, rows, config, Demands(budget, **(demands or {})))
    picks = select_from_pool(pool, Request(settled.budget, rows, 0, config, settled.constraints))
    return [int(row) for row in picks.indices]


def follows_the_number(budget: int | None, **given: Any) -> bool:
    """Say whether the default picks as if backbones stood alone; else it must pick as if they never did."""
    default, never, always = (pick(alone_from, budget, **given) for alone_from in (0.2, 2.0, 1e-9))
    assert never != always
    assert default in (never, always)
    return default == always


def test_the_kernel_of_backbones_alone_is_that_of_their_own_spaces() -> None:
    config = SelectionConfig()
    spaces = find_backbone_spaces(POOL, config)
    squared = [np.maximum(2.0 - 2.0 * x.astype(np.float64) @ x.T.astype(np.float64), 0.0) for x in spaces.values()]
    off = ~np.eye(NUM_PAIRS, dtype=bool)
    expected = np.exp(-sum(d / d[off].mean() for d in squared) / len(squared))
    kernel: npt.NDArray[np.float64] = build_pair_graph(POOL, config, 0, backbones_alone=True).kernel.toarray() / UNIT
    np.testing.assert_allclose(kernel, expected, atol=1e-6)
    assert np.abs(build_pair_graph(POOL, config, 0).kernel.toarray() / UNIT - expected).max() > 0.05


def test_a_fifth_of_the_pool_is_where_backbones_stand_alone() -> None:
    assert not follows_the_number(39)
    assert follows_the_number(40)


def test_labelled_pairs_count_with_the_picks() -> None:
    assert not follows_the_number(30, labelled=tuple(range(9)))
    assert follows_the_number(30, labelled=tuple(range(10)))


def test_pools_of_the_graph_do_the_same() -> None:
    config = SelectionConfig(kernel=KernelConfig(max_dense_pairs=0))
    alone, together = (build_pair_graph(POOL, config, 0, backbones_alone=flag).kernel for flag in (True, False))
    whole = build_pair_graph(POOL, SelectionConfig(), 0, backbones_alone=True).kernel.toarray()
    rows, columns = alone.nonzero()
    np.testing.assert_allclose(alone.toarray()[rows, columns] / UNIT, whole[rows, columns] / UNIT, atol=1e-6)
    assert len(alone.data) <= len(together.data)


@pytest.mark.parametrize(
    ("budget", "given"),
    [
        (60, {"refine": "none"}),
        (60, {"min_gain": 1e-4}),
        (None, {"min_gain": 1e-4}),
        (None, {"min_distance": 0.2}),
        (60, {"demands": {"costs": np.linspace(1.0, 2.0, NUM_PAIRS), "cost_budget": 40.0}}),
    ],
    ids=["strict greedy", "a least gain", "a least gain alone", "a least distance alone", "a cost budget"],
)
def test_where_prefixes_are_promised_or_the_number_is_not_known_all_relations_count(
    budget: int | None, given: dict[str, Any]
) -> None:
    assert pick(0.2, budget, **given) == pick(2.0, budget, **given)
    assert pick(1e-9, budget, **given) == pick(2.0, budget, **given)


def test_without_backbone_features_all_relations_count() -> None:
    pool = make_pool(MADE.embeddings)
    assert pick(1e-9, 60, pool) == pick(2.0, 60, pool)
