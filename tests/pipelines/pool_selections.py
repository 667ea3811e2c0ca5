"""Selections of one pool that every engine must agree on."""

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np

from mmcsal_core.neighbors.vectors import Rows
from mmcsal_core.selection.config import SelectionConfig
from mmcsal_core.selection.coreset import Picks, Request
from mmcsal_core.selection.covering import cover_greedily
from mmcsal_core.selection.engine.engines import Engine, LocalEngine
from mmcsal_core.selection.engine.lazy_blocks import Round
from mmcsal_core.selection.engine.pick_log import NoPickLog, PickLog
from mmcsal_core.selection.k_center import select_k_center
from mmcsal_core.selection.mmcsal import cover_graph
from mmcsal_core.selection.pair_graph import PairGraph, build_pair_graph
from mmcsal_core.selection.pool import make_pool
from pipelines.selection_engine import RayEngine
from tests.core.pair_pools import make_clustered_pool

NUM_PAIRS, BUDGET = 6500, 400
"""Seven blocks of rows, the last one shorter: four actors hold two, two, two and one."""

CONFIG = SelectionConfig(refine="swap", diversity_threshold=0)
LABELLED = np.array([3, 1024, 6499])
POOL = make_pool(make_clustered_pool(NUM_PAIRS, num_clusters=40, dim=16).embeddings)


class ListLog:
    """A pick log in memory that calls somebody at every round."""

    def __init__(self, done: Sequence[Round] = (), on_round: Callable[[int], None] = lambda _: None) -> None:
        self.done, self.appended, self.on_round = list(done), list[Round](), on_round

    def read(self, part: str) -> Sequence[Round]:
        return self.done

    def append(self, part: str, done: Round) -> None:
        self.appended.append(done)
        self.on_round(len(self.appended))


def start_engine(num_actors: int) -> RayEngine:
    return RayEngine(num_actors, num_cpus=0.1)


def ask(engine: Engine, log: PickLog | None = None, labelled: Rows = LABELLED) -> Request:
    return Request(BUDGET, labelled, 0, CONFIG, engine=engine, log=log or NoPickLog())


def select(name: str, request: Request) -> Picks:
    """Select by `k_center`, `coverage` or `mmcsal`."""
    if name == "k_center":
        return select_k_center(POOL, request)
    graph = _build_graph()
    return cover_graph(graph, request) if name == "mmcsal" else cover_greedily(graph.kernel, request, name)


@cache
def select_plainly(name: str) -> Picks:
    """Select in one shard, by one thread."""
    return select(name, ask(LocalEngine(1, 1)))


def check_same(picks: Picks, expected: Picks) -> None:
    np.testing.assert_array_equal(picks.indices, expected.indices)
    np.testing.assert_array_equal(picks.terms, expected.terms)
    assert picks.phases == expected.phases


@cache
def _build_graph() -> PairGraph:
    return build_pair_graph(POOL, CONFIG, 0)
