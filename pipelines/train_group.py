"""Several workers of the train stage as one group of Ray Train, which starts them again where one is lost.

Ray Train's own checkpoints were not chosen: they need a path that all nodes share, and know no fingerprint. The group
is driven from a Ray task, not from the driver: Ray Train replaces the handler of SIGINT, which is the driver's own.
"""

import tempfile
from typing import Any

import ray.train
import ray.train.torch

from mmcsal_core.filesystems import foreseen_errors
from pipelines.shard_pool import MAX_RESTARTS
from pipelines.train_worker import TrainTask, train_on_device


def fit_on_group(task: TrainTask) -> None:
    """Run the fit to its end.

    Raises:
        ray.train.WorkerGroupError: the workers failed for good, and none said why.
    """
    resources = task.resources
    with tempfile.TemporaryDirectory(prefix="mmcsal-train-") as scratch:
        trainer = ray.train.torch.TorchTrainer(
            _train_in_group,
            train_loop_config={"task": task},
            torch_config=ray.train.torch.TorchConfig(backend=choose_backend(resources.gpus_per_actor)),
            scaling_config=ray.train.ScalingConfig(
                num_workers=resources.train_workers, use_gpu=task.uses_gpu, resources_per_worker=task.list_needs()
            ),
            run_config=ray.train.RunConfig(
                name="train",
                storage_path=scratch,
                failure_config=ray.train.FailureConfig(max_failures=MAX_RESTARTS),
            ),
        )
        try:
            trainer.fit()
        except ray.train.WorkerGroupError as error:
            raise find_cause(error) from error


def choose_backend(gpus_per_worker: float) -> str:
    """Return how the workers talk: by NCCL where each has whole GPUs, else by gloo, since NCCL shares no GPU."""
    return "nccl" if gpus_per_worker >= 1 else "gloo"


def _train_in_group(loop_config: dict[str, Any]) -> None:
    task: TrainTask = loop_config["task"]
    # Ray Train shows each worker all GPUs of its node, so `cuda` alone would be the same one for all
    train_on_device(task, str(ray.train.torch.get_device()) if task.uses_gpu else "cpu")


def find_cause(error: ray.train.WorkerGroupError) -> Exception:
    """Return the error that a worker raised on purpose or that its store gave it, if there is one, else `error`."""
    causes = [getattr(failure, "cause", failure) for failure in error.worker_failures.values()]
    return next((cause for cause in causes if isinstance(cause, foreseen_errors())), error)
