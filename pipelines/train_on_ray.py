"""The workers of the train stage on Ray: a worker alone is a task, several are a group of Ray Train.

Either is started again after a crash. The driver waits, and reads how far the fit is from the folder of checkpoints.
"""

import logging

import ray

from pipelines.devices import choose_device
from pipelines.fit_checkpoints import CHECKPOINTS, FitProgress, OnProgress, read_progress
from pipelines.shard_pool import MAX_RESTARTS, count_room
from pipelines.train_worker import TrainTask, train_on_device

_log = logging.getLogger(__name__)

POLL_INTERVAL_S = 0.5


def fit_on_ray(task: TrainTask, on_progress: OnProgress) -> None:
    """Run the fit to its end.

    Args:
        task: what every worker is told.
        on_progress: told how far the fit is, whenever that has changed.

    Raises:
        ray.exceptions.RayError, ray.train.TrainingFailedError: the workers failed for good.
    """
    warn_of_shortage(task)
    pending, checkpoints = [_start_fit(task)], task.out.store.child(CHECKPOINTS)
    last: FitProgress | None = None
    while pending:
        finished, pending = ray.wait(pending, timeout=POLL_INTERVAL_S)
        progress = read_progress(checkpoints)
        if progress is not None and progress != last:
            last = progress
            on_progress(progress)
    ray.get(finished)


def warn_of_shortage(task: TrainTask) -> None:
    """Say so where the nodes have no room for all workers: Ray waits for it without a word."""
    room = count_room(task.list_needs(), [node["Resources"] for node in ray.nodes() if node["Alive"]])
    if room < task.resources.train_workers:
        _log.warning(
            "training waits for room: %d workers are asked for, and the nodes have room for %d; add nodes, or lower "
            "resources.train_workers, cpus_per_actor, gpus_per_actor or memory_per_actor_gb",
            task.resources.train_workers,
            room,
        )


def _start_fit(task: TrainTask) -> ray.ObjectRef[None]:
    """Start the workers. One alone needs nobody to watch it but Ray: a group of one would be six processes."""
    if task.resources.train_workers > 1:
        from pipelines.train_group import fit_on_group  # noqa: PLC0415  Ray Train is slow to load

        return ray.remote(num_cpus=0, max_retries=0)(fit_on_group).remote(task)
    needs = task.list_needs()
    options = {"num_cpus": needs["CPU"], "num_gpus": needs.get("GPU", 0), "memory": needs.get("memory")}
    return ray.remote(max_retries=MAX_RESTARTS, max_calls=1, **options)(_fit_alone).remote(task)


def _fit_alone(task: TrainTask) -> None:
    train_on_device(task, choose_device(task.resources.gpus_per_actor))
