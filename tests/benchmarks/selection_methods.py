"""What the selection benchmark times that needs no package of its own: this project's strategies and plain numpy.

A method takes a problem and returns picks; where it can tell the parts of its CPU time apart, it returns those too.
Strategies are called through the door that a user calls, `select_coreset`.
"""

import time
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import faiss
import numpy as np

import mmcsal_core.selection.coverage
import mmcsal_core.selection.mmcsal
from mmcsal_core.neighbors.config import KernelConfig
from mmcsal_core.neighbors.neighborhoods import average_neighborhoods
from mmcsal_core.neighbors.relations import (
    Relation,
    list_neighborhood_relations,
    list_shared_relations,
    measure_bandwidth,
)
from mmcsal_core.neighbors.vectors import Floats, Rows, Vectors, iter_blocks, scale_to_unit
from mmcsal_core.selection import SelectionConfig, select_coreset
from mmcsal_core.selection.coreset import Request
from mmcsal_core.selection.engine.eligibility import NO_ROWS
from mmcsal_core.selection.engine.engines import LocalEngine
from mmcsal_core.selection.pool import make_pool
from mmcsal_core.selection.strategies import SELECTORS, select_from_pool
from tests.benchmarks.selection_pools import SEED, split_modalities

Task: TypeAlias = Literal["k-center", "coverage"]
KernelName: TypeAlias = Literal["joint", "pair", "whole"]
"""One relation; those of `mmcsal` less its neighbourhoods; all of `mmcsal`, which needs N x N products."""

LOOP = "numpy loop"
DENSE = "numpy dense greedy"
DENSE_PAIR = "numpy dense greedy, pair kernel"
COVERAGE = "mmcsal coverage"
MMCSAL = "mmcsal"
PAIR = "mmcsal, coverage alone"
DENSE_WHOLE = "numpy dense greedy, pair kernel with neighbourhoods"
WHOLE = "mmcsal, coverage alone, with neighbourhoods"
MAX_DENSE_ROWS = 20_000
"""Pairs up to which N x N float64 is held: 3.2 GB."""

BLOCK_ROWS = 1024
STALE_ROWS = 64


@dataclass(frozen=True, eq=False)
class Problem:
    """What is asked of a method.

    Args:
        vectors: (N, D) float32 of unit length, read-only.
        start: row that farthest-first starts from.
        num_picks: k.
        bandwidth: s of the kernel exp(-d^2 / s).
    """

    vectors: Vectors
    start: int
    num_picks: int
    bandwidth: float


@dataclass(frozen=True, eq=False)
class Answer:
    """What a method returns.

    Args:
        picks: (k,) rows in pick order.
        parts: CPU seconds by part of the method, e.g. `graph` and `greedy`, where they can be told apart.
    """

    picks: Rows
    parts: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Method:
    """A way of picking.

    Args:
        name: as in the tables.
        run: the call that is timed.
        package: distribution to install and to name with its version, where it is not a dependency of this project.
        is_exact: picks the very rows of the plain loop of its task, up to ties.
        is_one_pick: passes over the pool once for every pick, so that k picks cost k times as much as one.
        is_dense: holds N x N float64.
        kernel: which kernel its coverage is measured with.
    """

    name: str
    run: Callable[[Problem], Answer]
    package: str | None = None
    is_exact: bool = False
    is_one_pick: bool = False
    is_dense: bool = False
    kernel: KernelName = "joint"


@contextmanager
def time_calls(table: MutableMapping[Any, Any], name: str) -> Iterator[Callable[[], float]]:
    """Count the CPU seconds of the calls of one function through a table: a module's names, or a dictionary.

    Yields:
        a function that returns the seconds so far.
    """
    function, spent_s = table[name], 0.0

    def counted(*args: Any, **options: Any) -> Any:
        nonlocal spent_s
        started = time.process_time()
        result = function(*args, **options)
        spent_s += time.process_time() - started
        return result

    table[name] = counted
    try:
        yield lambda: spent_s
    finally:
        table[name] = function


def run_loop(problem: Problem) -> Answer:
    """Pick farthest-first, one matrix-vector product and one maximum in place a pick."""
    vectors = problem.vectors
    picks = np.empty(problem.num_picks, dtype=np.int64)
    picks[0] = problem.start
    nearest, cosines = vectors @ vectors[problem.start], np.empty(len(vectors), dtype=np.float32)
    for rank in range(1, problem.num_picks):
        picks[rank] = nearest.argmin()
        np.matmul(vectors, vectors[picks[rank]], out=cosines)
        np.maximum(nearest, cosines, out=nearest)
    return Answer(picks)


def run_k_center(problem: Problem) -> Answer:
    """Run the strategy `k_center`; its greedy part is told apart from the checks."""
    with time_calls(SELECTORS, "k_center") as greedy_s:
        picked = select_coreset({"joint": problem.vectors}, problem.num_picks, strategy="k_center")
    return Answer(picked.indices, {"greedy": greedy_s()})


def run_screened_k_center(problem: Problem) -> Answer:
    """Run the strategy `k_center` with products of bytes instead of float32."""
    pool = make_pool({"joint": problem.vectors})
    config = SelectionConfig(strategy="k_center")
    request = Request(problem.num_picks, NO_ROWS, 0, config, engine=LocalEngine(screening="int8"))
    return Answer(select_from_pool(pool, request).indices)


def run_weighted_k_center(problem: Problem) -> Answer:
    """Run the strategy `k_center`, then find every row's nearest pick."""
    picked = select_coreset({"joint": problem.vectors}, problem.num_picks, strategy="k_center")
    if picked.weights.sum() != len(problem.vectors):
        raise AssertionError("every row must have a nearest pick")
    return Answer(picked.indices)


def run_coverage(problem: Problem) -> Answer:
    """Run the strategy `coverage`, picking told apart from search and kernel."""
    module = vars(mmcsal_core.selection.coverage)
    with time_calls(SELECTORS, "coverage") as whole_s, time_calls(module, "cover_greedily") as greedy_s:
        picked = select_coreset({"joint": problem.vectors}, problem.num_picks, strategy="coverage")
    return Answer(picked.indices, {"graph": whole_s() - greedy_s(), "greedy": greedy_s()})


def run_mmcsal(problem: Problem) -> Answer:
    """Run the default strategy with its defaults."""
    return _run_mmcsal(problem, SelectionConfig())


def run_pair_coverage(problem: Problem) -> Answer:
    """Run the default strategy as pure greedy coverage: no neighbourhoods, trust, repulsion, swaps or second phase."""
    return _run_mmcsal(problem, _cover_alone(KernelConfig(neighborhood_weight=0.0)))


def run_whole_coverage(problem: Problem) -> Answer:
    """Run the default strategy as pure greedy coverage on its whole kernel."""
    return _run_mmcsal(problem, _cover_alone(KernelConfig()))


def _cover_alone(kernel: KernelConfig) -> SelectionConfig:
    return SelectionConfig(lambda_align=0.0, lambda_div=0.0, refine="none", diversity_threshold=0.0, kernel=kernel)


def _run_mmcsal(problem: Problem, config: SelectionConfig) -> Answer:
    module = vars(mmcsal_core.selection.mmcsal)
    with time_calls(SELECTORS, "mmcsal") as whole_s, time_calls(module, "build_pair_graph") as graph_s:
        picked = select_coreset(split_modalities(problem.vectors), problem.num_picks, config=config)
    return Answer(picked.indices, {"graph": graph_s(), "greedy": whole_s() - graph_s()})


def run_random(problem: Problem) -> Answer:
    """Draw rows uniformly."""
    rng = np.random.default_rng(SEED)
    return Answer(rng.choice(len(problem.vectors), problem.num_picks, replace=False))


def run_kmeans(problem: Problem) -> Answer:
    """Run FAISS k-means with its defaults and take the row nearest to each centroid; two centroids may share a row."""
    vectors = np.ascontiguousarray(problem.vectors)
    kmeans = faiss.Kmeans(vectors.shape[1], problem.num_picks, seed=SEED + 1, min_points_per_centroid=1)
    kmeans.train(vectors)
    index = faiss.IndexFlatL2(vectors.shape[1])
    index.add(vectors)
    return Answer(np.unique(index.search(np.asarray(kmeans.centroids), 1)[1][:, 0]))


def compute_dense_kernel(problem: Problem, kernel: KernelName, columns: Rows | None = None) -> Floats:
    """Compute a kernel in float64, (N, N), or (N, c) for given columns."""
    relations, bandwidths = list_relations(problem, kernel)
    num_rows = len(problem.vectors)
    dense = np.zeros((num_rows, num_rows if columns is None else len(columns)))
    for relation, bandwidth in zip(relations, bandwidths, strict=True):
        right = (relation.pool if columns is None else relation.pool[columns]).astype(np.float64).T
        for block in iter_blocks(num_rows, BLOCK_ROWS):
            squared = np.maximum(2.0 - 2.0 * (relation.queries[block].astype(np.float64) @ right), 0.0)
            dense[block] += relation.weight * squared / bandwidth
    dense /= -sum(relation.weight for relation in relations)
    return np.asarray(np.exp(dense, out=dense))


def list_relations(problem: Problem, kernel: KernelName) -> tuple[list[Relation], list[float]]:
    """Return the relations that a kernel is made of, and their bandwidths."""
    if kernel == "joint":
        return [Relation("joint", problem.vectors, problem.vectors, 1.0)], [problem.bandwidth]
    config = KernelConfig()
    embeddings = scale_to_unit(split_modalities(problem.vectors))
    relations = list_shared_relations(embeddings, config)
    if kernel == "whole":
        means = average_neighborhoods(embeddings, find_nearest(problem, config.neighborhood_size))
        relations += list_neighborhood_relations(means, config)
    return relations, [measure_bandwidth(relation, config.bandwidth_neighbor, SEED) for relation in relations]


def find_nearest(problem: Problem, size: int) -> Rows:
    """Return the rows of each row's largest values of the pair kernel less its neighbourhoods, (N, size)."""
    rows = np.arange(len(problem.vectors))
    # The kernel is symmetric, so some of its columns are as many of its rows.
    blocks = (compute_dense_kernel(problem, "pair", rows[block]).T for block in iter_blocks(len(rows), BLOCK_ROWS))
    return np.concatenate([np.argpartition(-values, size - 1)[:, :size] for values in blocks])


def run_dense(problem: Problem, kernel: KernelName = "joint") -> Answer:
    """Pick by greedy coverage on the dense kernel in float64: lazily, stale bounds being mended a block at a time."""
    started = time.process_time()
    dense = compute_dense_kernel(problem, kernel)
    graph = time.process_time() - started
    bounds, covered = dense.sum(axis=0), np.zeros(len(dense))
    picks: list[int] = []
    while len(picks) < problem.num_picks:
        picks.append(_find_best(dense, covered, bounds))
        np.maximum(covered, dense[picks[-1]], out=covered)
        bounds[picks[-1]] = -np.inf
    return Answer(np.array(picks), {"graph": graph, "greedy": time.process_time() - started - graph})


def _find_best(dense: Floats, covered: Floats, bounds: Floats) -> int:
    """Return the row of the largest gain; `bounds` holds gains that were right once, and are mended on the way."""
    order = np.argsort(-bounds, kind="stable")
    best, best_gain = -1, -np.inf
    for block in iter_blocks(len(order), STALE_ROWS):
        rows = order[block]
        if bounds[rows[0]] < best_gain:
            break
        open_rows = rows[bounds[rows] > -np.inf]
        bounds[open_rows] = np.maximum(dense[open_rows] - covered, 0.0).sum(axis=1)
        if len(open_rows) and bounds[open_rows].max() > best_gain:
            best = int(open_rows[bounds[open_rows].argmax()])
            best_gain = float(bounds[best])
    return best


def run_dense_pair(problem: Problem) -> Answer:
    """Pick by greedy coverage on the dense pair kernel less its neighbourhoods."""
    return run_dense(problem, "pair")


def run_dense_whole(problem: Problem) -> Answer:
    """Pick by greedy coverage on the dense pair kernel."""
    return run_dense(problem, "whole")


OWN: dict[Task, list[Method]] = {
    "k-center": [
        Method(LOOP, run_loop, is_exact=True, is_one_pick=True),
        Method("mmcsal k_center", run_k_center, is_exact=True),
        Method("mmcsal k_center, int8 screening", run_screened_k_center, is_exact=True),
        Method("mmcsal k_center, with weights", run_weighted_k_center, is_exact=True),
        Method("faiss k-means + nearest", run_kmeans),
        Method("random", run_random),
    ],
    "coverage": [
        Method(DENSE, run_dense, is_exact=True, is_dense=True),
        Method(COVERAGE, run_coverage),
        Method(DENSE_PAIR, run_dense_pair, is_dense=True, kernel="pair"),
        Method(PAIR, run_pair_coverage, kernel="pair"),
        Method(MMCSAL, run_mmcsal, kernel="pair"),
        Method("faiss k-means + nearest", run_kmeans),
        Method("random", run_random),
    ],
}

SMALL_COVERAGE = [
    *[method for method in OWN["coverage"] if method.name != MMCSAL],
    Method(DENSE_WHOLE, run_dense_whole, is_dense=True, kernel="whole"),
    Method(WHOLE, run_whole_coverage, kernel="whole"),
    Method(MMCSAL, run_mmcsal, kernel="whole"),
]
"""Coverage where N x N fits; above, there is nothing to judge picks on the whole kernel by."""
