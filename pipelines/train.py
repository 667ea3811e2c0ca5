"""The train stage: features/ in, encoder/ out: `encoder.safetensors`, `encoder.json`, `metrics.json`.

Ray Train starts the workers, one on a laptop or many on a cluster, and starts them again after a crash. The maths of an
epoch is `EncoderFit`, the same as in process. Every worker maps all features, sorted by `pair_id`, from a scratch file,
and takes its slice of each batch. After each epoch the first worker publishes a checkpoint beside the encoder, from
which a new attempt or a new run goes on; the checkpoints are deleted before the artifact is finished.

Ray Train's own checkpoints were not chosen: they need a path that all nodes share, and know no fingerprint. Feeding
the workers through Ray Data was not chosen: its blocks come in no fixed order. The fit is driven from a Ray task, not
from the driver: Ray Train replaces the handler of SIGINT, which is the driver's own.
"""

import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import faiss
import ray
import ray.train
import ray.train.torch
import torch

from mmcsal_core.artifacts import Artifact, Manifest, Plan
from mmcsal_core.encoder.checkpoint import CARD_FILE, WEIGHTS_FILE, load_fit, save_encoder, save_fit
from mmcsal_core.encoder.config import EncoderConfig
from mmcsal_core.encoder.encoder_fit import EncoderFit
from mmcsal_core.encoder.training_set import check_counts, check_sizes
from mmcsal_core.encoder.workers import Workers
from mmcsal_core.errors import MmcsalError
from mmcsal_core.metrics import diagnose_embeddings
from mmcsal_core.storage import FileRecord, Store, hash_bytes
from pipelines.feature_spool import spool_features
from pipelines.stage_run import Resources, StageProgress, StageRun

STAGE = "train"

METRICS_FILE = "metrics.json"
CHECKPOINTS = "checkpoints"
KEPT_CHECKPOINTS = 2
MAX_FAILURES = 3
"""Crashes of workers, each followed by a new attempt from the last checkpoint, before the stage fails."""
POLL_INTERVAL_S = 0.5

_CHECKPOINT_NAME = re.compile(r"epoch-(\d+)\.safetensors")


@dataclass(frozen=True)
class TrainTask:
    """What every worker is told."""

    features: Artifact
    out: Artifact
    plan: Plan
    modalities: tuple[str, ...]
    seed: int
    config: EncoderConfig
    resources: Resources


def train_encoder(
    *, features: Artifact, modalities: Sequence[str], seed: int, config: EncoderConfig, run: StageRun
) -> Manifest:
    """Publish an encoder fitted to `features`; an interrupted fit goes on from its last epoch and ends in equal bytes.

    Args:
        features: what the features stage published.
        modalities: two or more, in the order of the configuration.
        seed: of everything random, not negative.
        config: what to fit.
        run: where to publish, on what machines.

    Raises:
        ConfigError: fewer than 2 modalities, or more prototypes or workers than the pairs allow.
        DataError: fewer than 4 pairs, or features that cannot be trained on.
        ray.train.TrainingFailedError: the workers failed for good. The last checkpoint stays.
    """
    num_pairs = features.read_manifest().pairs_out
    check_counts(len(modalities), num_pairs)
    check_sizes(num_pairs, config, run.resources.train_workers)
    plan = run.out.begin(run.fingerprint, list)
    _fit_with_progress(TrainTask(features, run.out, plan, tuple(modalities), seed, config, run.resources), run)
    store = run.out.store
    store.remove(CHECKPOINTS)
    files = [_record_file(store, name) for name in (WEIGHTS_FILE, CARD_FILE, METRICS_FILE)]
    properties = {
        "dim": config.dim,
        "modalities": list(modalities),
        "num_prototypes": store.read_json(CARD_FILE)["num_prototypes"],
        "epochs": config.epochs,
        "encoder_sha256": files[0].sha256,
    }
    return run.finish(plan, files=files, num_pairs=num_pairs, properties=properties)


def _record_file(store: Store, name: str) -> FileRecord:
    data = store.read_bytes(name)
    return FileRecord(name=name, num_bytes=len(data), sha256=hash_bytes(data))


def _fit_with_progress(task: TrainTask, run: StageRun) -> None:
    pending = [ray.remote(num_cpus=0, max_retries=0)(_fit_on_workers).remote(task)]
    last = -1
    while pending:
        finished, pending = ray.wait(pending, timeout=POLL_INTERVAL_S)
        epoch = task.config.epochs if finished else count_epochs(task.out.store)
        if epoch > last and not finished:
            last = epoch
            run.on_progress(StageProgress(STAGE, epoch, task.config.epochs, "epochs"))
    try:
        ray.get(finished)
    except ray.train.WorkerGroupError as error:
        raise find_cause(error) from error
    run.on_progress(StageProgress(STAGE, task.config.epochs, task.config.epochs, "epochs"))


def find_cause(error: ray.train.WorkerGroupError) -> Exception:
    """Return the error that a worker raised on purpose, if any did, else `error`."""
    original: Any = getattr(error, "cause", error)
    failures: list[Exception] = list(original.worker_failures.values())
    causes = [getattr(failure, "cause", failure) for failure in failures]
    return next((cause for cause in causes if isinstance(cause, MmcsalError)), error)


def _fit_on_workers(task: TrainTask) -> None:
    """Run the fit to its end; runs in a Ray task of its own."""
    resources = task.resources
    per_worker = {"CPU": resources.cpus_per_actor, **({"GPU": resources.gpus_per_actor} if _uses_gpu(task) else {})}
    if resources.memory_per_actor_gb:
        per_worker["memory"] = int(resources.memory_per_actor_gb * 2**30)
    with tempfile.TemporaryDirectory(prefix="mmcsal-train-") as scratch:
        trainer = ray.train.torch.TorchTrainer(
            _train_on_worker,
            train_loop_config={"task": task},
            torch_config=ray.train.torch.TorchConfig(backend="nccl" if _uses_gpu(task) else "gloo"),
            scaling_config=ray.train.ScalingConfig(
                num_workers=resources.train_workers, use_gpu=_uses_gpu(task), resources_per_worker=per_worker
            ),
            run_config=ray.train.RunConfig(
                name=STAGE,
                storage_path=scratch,
                failure_config=ray.train.FailureConfig(max_failures=MAX_FAILURES),
            ),
        )
        trainer.fit()


def _uses_gpu(task: TrainTask) -> bool:
    return task.resources.gpus_per_actor > 0


def _train_on_worker(loop_config: dict[str, Any]) -> None:
    task: TrainTask = loop_config["task"]
    num_threads = max(1, int(task.resources.cpus_per_actor))
    torch.set_num_threads(num_threads)
    faiss.omp_set_num_threads(num_threads)
    device = str(ray.train.torch.get_device()) if _uses_gpu(task) else "cpu"
    features = spool_features(task.features, task.modalities)
    fit = EncoderFit(features, task.config, task.seed, device=device, workers=Workers.current())
    is_first = fit.workers.rank == 0
    before = diagnose_embeddings(fit.embed_diagnosed(), task.seed) if is_first else {}
    resume_fit(fit, task.out.store)
    while not fit.is_finished:
        fit.run_epoch()
        if is_first:
            task.out.check_current(task.plan)
            publish_checkpoint(fit, task.out.store)
    encoder = fit.to_encoder()
    if is_first:
        task.out.check_current(task.plan)
        for name, data in save_encoder(encoder).items():
            task.out.store.write_bytes(name, data)
        after = diagnose_embeddings(fit.embed_diagnosed(), task.seed)
        metrics = {"before": before, "after": after, "losses": fit.describe_losses()}
        measured_on = "held-back pairs" if len(fit.held_back_rows) else "training pairs"
        task.out.store.write_json(METRICS_FILE, {**metrics, "measured_on": measured_on})


def publish_checkpoint(fit: EncoderFit, store: Store) -> None:
    """Write the fit's state after its last epoch, and delete all but the newest checkpoints."""
    store.write_bytes(f"{CHECKPOINTS}/epoch-{fit.epoch:04d}.safetensors", save_fit(fit))
    for name in _list_checkpoints(store)[:-KEPT_CHECKPOINTS]:
        store.remove(f"{CHECKPOINTS}/{name}")


def resume_fit(fit: EncoderFit, store: Store) -> None:
    """Set a fresh fit to the newest checkpoint, if there is one.

    Raises:
        ArtifactError: the checkpoint is damaged.
    """
    names = _list_checkpoints(store)
    if names:
        load_fit(fit, store.read_bytes(f"{CHECKPOINTS}/{names[-1]}"))


def count_epochs(store: Store) -> int:
    """Return the number of epochs that are safe in a checkpoint."""
    matches = [_CHECKPOINT_NAME.fullmatch(name) for name in _list_checkpoints(store)[-1:]]
    return sum(int(match[1]) for match in matches if match)


def _list_checkpoints(store: Store) -> list[str]:
    names = [name for name in store.child(CHECKPOINTS).list_files() if _CHECKPOINT_NAME.fullmatch(name)]
    return sorted(names, key=lambda name: (len(name), name))
