"""k-center on Ray actors against the same shards on threads of one process: what Ray costs, in one run.

    python -m tests.benchmarks.bench_ray_overhead [--pairs 200000] [--picks 2000]

Both compute on two cores, one BLAS thread each. `cold` counts from the making of the engine: starting the actors and
importing numpy in them, which a job does while it reads the pool. `warm` counts from `open_k_center`, when the actors
are up: putting the rows into the object store. `running` counts from when every shard has answered once. Each is the
best of several runs, taken in turns, since the cores may be shared with others; for the same reason Ray's workers are
not niced here, as they are by default. Ray's own start is in none.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import ray

from mmcsal_core.neighbors.vectors import Vectors, iter_blocks
from mmcsal_core.selection.engine.eligibility import NO_ROWS, Eligibility
from mmcsal_core.selection.engine.engines import Engine, LocalEngine
from mmcsal_core.selection.engine.k_center import KCenter
from mmcsal_core.selection.engine.lazy_blocks import Limits, Round, Search, count_start, pick_greedily
from pipelines.selection_engine import RayEngine

DIM, NUM_CLUSTERS, NUM_SHARDS, NUM_REPEATS = 256, 500, 2, 3


def make_pool(num_pairs: int) -> Vectors:
    """Make unit vectors around `NUM_CLUSTERS` centres, block by block."""
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(NUM_CLUSTERS, DIM)).astype(np.float32)
    vectors = np.empty((num_pairs, DIM), dtype=np.float32)
    for block in iter_blocks(num_pairs, 65_536):
        numbers = rng.integers(0, NUM_CLUSTERS, block.stop - block.start)
        rows = centers[numbers] + 0.7 * rng.standard_normal((len(numbers), DIM), dtype=np.float32)
        vectors[block] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return vectors


@dataclass(frozen=True)
class Timing:
    """One run: seconds from making the engine, from opening the shards, from their first answer, and the picks."""

    cold_s: float
    warm_s: float
    running_s: float
    rounds: Sequence[Round]


def start_actors() -> Engine:
    """Return an engine whose actors are up."""
    engine = RayEngine(NUM_SHARDS)
    ray.get([actor.__ray_ready__.remote() for actor in engine.actors.handles])
    return engine


def time_engine(make: Callable[[], Engine], vectors: Vectors, num_picks: int) -> Timing:
    """Pick by k-center from row 0."""
    start = np.array([0])
    made_at = time.perf_counter()
    engine = make()
    opened_at = time.perf_counter()
    shards = engine.open_k_center(vectors, start, None)
    shards.gather("fetch", NO_ROWS)
    ready_at = time.perf_counter()
    search = Search(KCenter(), shards, Eligibility(len(vectors), start))
    count_start(search, start)
    rounds = pick_greedily(search, Limits(num_picks - 1))
    ended_at = time.perf_counter()
    return Timing(ended_at - made_at, ended_at - opened_at, ended_at - ready_at, rounds)


def main() -> None:
    """Print seconds and ratios as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=200_000)
    parser.add_argument("--picks", type=int, default=2_000)
    arguments = parser.parse_args()
    vectors = make_pool(arguments.pairs)
    settings = {"worker_niceness": 0}
    ray.init(num_cpus=NUM_SHARDS, include_dashboard=False, log_to_driver=False, _system_config=settings)
    in_process, on_ray = list[Timing](), list[Timing]()
    for _ in range(NUM_REPEATS):
        in_process.append(time_engine(lambda: LocalEngine(NUM_SHARDS, NUM_SHARDS), vectors, arguments.picks))
        on_ray.append(time_engine(start_actors, vectors, arguments.picks))
    ray.shutdown()
    found = {
        "num_rounds": len(on_ray[0].rounds),
        "same_picks": all(run.rounds == in_process[0].rounds for run in on_ray),
        "cold": compare([run.cold_s for run in in_process], [run.cold_s for run in on_ray]),
        "warm": compare([run.warm_s for run in in_process], [run.warm_s for run in on_ray]),
        "running": compare([run.running_s for run in in_process], [run.running_s for run in on_ray]),
    }
    print(json.dumps({**vars(arguments), "dim": DIM, **found}, indent=1))


def compare(in_process: Sequence[float], on_ray: Sequence[float]) -> dict[str, float]:
    """Return the least seconds of both and their ratio."""
    local, actors = min(in_process), min(on_ray)
    return {"in_process_s": round(local, 3), "ray_s": round(actors, 3), "ratio": round(actors / local, 3)}


if __name__ == "__main__":
    main()
