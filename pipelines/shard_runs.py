"""Run a stage's missing shards: on a pool of actors, or in the driver where the pool is small.

A worker is a class whose constructor loads what it needs once and whose `run_shard(shard)` publishes one shard itself.
Starting an actor takes three seconds and Ray itself five, light work on a small pool less: the driver does it, however
many actors there are. So a stage imports Ray, and asks for it to be started, only where it uses it.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from mmcsal_core.artifacts import ShardRange
from pipelines.devices import limit_threads
from pipelines.stage_run import Resources, StageProgress, StageRun


class ShardWorker(Protocol):
    """What runs in an actor: publishes the shards that it is given."""

    def run_shard(self, shard: ShardRange) -> None:
        """Compute and commit one shard."""


def run_shards(
    shards: Sequence[ShardRange],
    worker_class: type[ShardWorker],
    worker_args: Mapping[str, Any],
    run: StageRun,
    *,
    on_gpu: bool = False,
    num_rows: int | None = None,
    is_light: bool = False,
) -> None:
    """Run `shards` and wait for all of them; without shards, do nothing.

    Args:
        shards: that are missing.
        worker_class: of the workers.
        worker_args: of their constructor.
        run: of the stage.
        on_gpu: actors take the configured share of a GPU.
        num_rows: of all shards, pairs or archives, where the driver may do the work itself if they are few.
        is_light: as for `is_done_here`.

    Raises:
        ray.exceptions.RayError: a worker failed for good. Shards that were committed stay.
    """
    if not shards:
        return
    if num_rows is not None and is_done_here(num_rows, run.resources, on_gpu=on_gpu, is_light=is_light):
        with limit_threads(run.resources.num_threads):
            worker = worker_class(**worker_args)
            for done, shard in enumerate(shards, start=1):
                worker.run_shard(shard)
                run.on_progress(StageProgress(run.out.stage, done, len(shards)))
        return
    run.open_ray()
    from pipelines.shard_pool import run_on_actors  # noqa: PLC0415  slow to load

    run_on_actors(shards, worker_class, worker_args, run, on_gpu=on_gpu)


def is_done_here(num_rows: int, resources: Resources, *, on_gpu: bool, is_light: bool) -> bool:
    """Say whether the driver does the work itself: on few pairs, without a GPU.

    Args:
        num_rows: of all shards.
        resources: how many rows are few, and how many actors are asked for.
        on_gpu: the work goes to a GPU where one is configured.
        is_light: the work on few pairs takes less time than an actor to start; other work is shared among actors where
            more than one is asked for.
    """
    if num_rows > resources.max_driver_pairs or (on_gpu and resources.gpus_per_actor):
        return False
    return is_light or resources.num_actors == 1
