"""Pools of actors through Ray Data, one row a shard: a shard is the unit of work, retry and resume.

The rows that travel through Ray are descriptors and counts, never pairs.

A pool of actors starts with as many as the nodes have room for, and grows to the number that was asked for as nodes
join. One that asked for all of them at once would take the last core on a small cluster, and wait for readers that wait
for a core.
"""

import logging
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import ray
import ray.data

from mmcsal_core.artifacts import ShardRange
from pipelines.shard_runs import ShardWorker
from pipelines.stage_run import Resources, StageProgress, StageRun, reserve_memory

MAX_RESTARTS = 3
"""Restarts of a crashed actor, and attempts at a task, before the stage fails; Ray's own default is for ever."""

_ROUNDING = 1e-9

_log = logging.getLogger(__name__)


class _BatchAdapter:
    """Turns a one-row batch into a call of the worker."""

    def __init__(self, worker_class: type[ShardWorker], worker_args: Mapping[str, Any]) -> None:
        self._worker = worker_class(**worker_args)

    def __call__(self, batch: pa.Table) -> pa.Table:
        for row in batch.to_pylist():
            self._worker.run_shard(ShardRange(**row))
        return batch.select(["index"])


def run_on_actors(
    shards: Sequence[ShardRange],
    worker_class: type[ShardWorker],
    worker_args: Mapping[str, Any],
    run: StageRun,
    *,
    on_gpu: bool,
) -> None:
    """Run shards on a pool of actors and wait for all of them; arguments and errors as of `run_shards`."""
    constructor = {"worker_class": worker_class, "worker_args": dict(worker_args)}
    dataset, total = describe_shards(shards), len(shards)
    drain(map_on_actors(dataset, total, _BatchAdapter, constructor, run.resources, on_gpu=on_gpu), run, total)


def map_on_actors(
    dataset: ray.data.Dataset,
    num_shards: int,
    worker: type,
    constructor: Mapping[str, Any],
    resources: Resources,
    *,
    on_gpu: bool,
    num_reader_cpus: int = 0,
) -> ray.data.Dataset:
    """Map one-row batches over a pool of actors, each constructed once: `resources.num_actors`, none that would idle.

    Args:
        dataset: of shards.
        num_shards: in it.
        worker: what an actor constructs.
        constructor: its arguments.
        resources: what an actor takes.
        on_gpu: the worker computes on a GPU where one is configured.
        num_reader_cpus: cores that other parts of the same dataset cannot do without.
    """
    needs = {"CPU": resources.cpus_per_actor, **reserve_memory(resources.memory_per_actor_gb)}
    num_gpus = resources.gpus_per_actor if on_gpu else 0.0
    if num_gpus:
        needs["GPU"] = num_gpus
    most = min(resources.num_actors, num_shards)
    room = count_room(needs, [node["Resources"] for node in ray.nodes() if node["Alive"]], num_reader_cpus)
    if room == 0:
        _log.warning(
            "no node has room for a worker that takes %s; it waits until one joins: lower resources.cpus_per_actor, "
            "gpus_per_actor or memory_per_actor_gb if none will",
            ", ".join(f"{amount:g} {kind}" for kind, amount in needs.items()),
        )
    options: dict[str, Any] = {
        "compute": ray.data.ActorPoolStrategy(min_size=max(1, min(most, room)), max_size=most),
        "batch_size": 1,
        "batch_format": "pyarrow",
        "num_cpus": resources.cpus_per_actor,
        "max_restarts": MAX_RESTARTS,
        "max_task_retries": MAX_RESTARTS,
    }
    if num_gpus:
        options["num_gpus"] = num_gpus
    options |= reserve_memory(resources.memory_per_actor_gb)
    with warnings.catch_warnings():
        # Ray 2.60 warns of options that it passes on to the actor, and has no other way to bound restarts yet.
        warnings.filterwarnings("ignore", message=".*ray_remote_args.* is deprecated")
        return dataset.map_batches(worker, fn_constructor_kwargs=dict(constructor), **options)


def count_room(needs: Mapping[str, float], nodes: Sequence[Mapping[str, float]], num_reader_cpus: int = 0) -> int:
    """Return how many workers the nodes have room for, whatever else is running on them.

    Args:
        needs: what one worker takes, by kind of resource.
        nodes: what each has, by kind.
        num_reader_cpus: cores to leave free, anywhere.
    """
    shares = [min(node.get(kind, 0.0) / amount for kind, amount in needs.items()) for node in nodes]
    num_cpus = sum(node.get("CPU", 0.0) for node in nodes) - num_reader_cpus
    return max(0, min(sum(int(share + _ROUNDING) for share in shares), int(num_cpus / needs["CPU"] + _ROUNDING)))


def describe_shards(shards: Sequence[ShardRange], known: Mapping[str, Sequence[Any]] | None = None) -> ray.data.Dataset:
    """Return a dataset of one row and one block a shard.

    What its workers raise arrives as it is: Ray's own wrapping leaves the cause behind, since a pickled error has none.

    Args:
        shards: at least one.
        known: further columns, a value a shard.
    """
    columns = known or {}
    rows = [
        shard.model_dump() | {name: values[i] for name, values in columns.items()} for i, shard in enumerate(shards)
    ]
    context = ray.data.DataContext.get_current().copy()
    context.raise_original_map_exception = True
    with ray.data.DataContext.current(context):
        return ray.data.from_items(rows, override_num_blocks=len(rows))


def drain(dataset: ray.data.Dataset, run: StageRun, total: int) -> None:
    """Execute a dataset whose rows are finished shards, and report each."""
    for done, _ in enumerate(dataset.iter_rows(), start=1):
        run.on_progress(StageProgress(run.out.stage, done, total))
