"""The train stage: features/ in, encoder/ out: the fitted encoder, its metrics, and each pair's out-of-fold alignment.

Few pairs are fitted by the driver, more by workers on Ray (`pipelines.train_on_ray`). The maths of an epoch is
`EncoderFit`, the same as in process. Every worker maps all features, sorted by `pair_id`, from a scratch file,
and takes its slice of each batch. After each epoch the first worker publishes a checkpoint beside the encoder, from
which a new attempt or a new run goes on; the checkpoints are deleted before the artifact is finished.

Feeding the workers through Ray Data was not chosen: its blocks come in no fixed order.
"""

import logging
from collections.abc import Mapping, Sequence

from mmcsal_core.artifacts import Artifact, Manifest
from mmcsal_core.corpus.modality import ModalityConfig
from mmcsal_core.encoder.checkpoint import CARD_FILE, WEIGHTS_FILE
from mmcsal_core.encoder.config import EncoderConfig
from mmcsal_core.encoder.out_of_fold import check_fold_sizes, has_folds
from mmcsal_core.encoder.training_set import check_counts, check_sizes
from mmcsal_core.pair_agreement import list_unrelated
from mmcsal_core.schema import GROWN_FROM, OUT_OF_FOLD_FILE
from mmcsal_core.storage import FileRecord, Store, hash_bytes
from pipelines.devices import limit_threads
from pipelines.fit_checkpoints import CHECKPOINTS, FitProgress, read_progress
from pipelines.growth import EarlierRun, copy_encoder
from pipelines.shard_runs import is_done_here
from pipelines.stage_names import TRAIN
from pipelines.stage_run import StageProgress, StageRun
from pipelines.train_worker import METRICS_FILE, TrainTask, train_on_device

STAGE = TRAIN

_log = logging.getLogger(__name__)


def train_encoder(
    *,
    features: Artifact,
    modalities: Sequence[str],
    seed: int,
    config: EncoderConfig,
    run: StageRun,
    finetuned: Mapping[str, ModalityConfig] | None = None,
) -> Manifest:
    """Publish an encoder fitted to `features`; an interrupted fit goes on from its last epoch and ends in equal bytes.

    Args:
        features: what the features stage published.
        modalities: two or more, in the order of the configuration.
        seed: of everything random, not negative.
        config: what to fit.
        run: where to publish, on what machines.
        finetuned: resolved modalities whose backbone's last block is trained; every worker loads their backbones once.

    Raises:
        ConfigError: fewer than 2 modalities, more prototypes or workers than the pairs allow, or a backbone that cannot
            be loaded.
        ArtifactError: a backbone is no longer the one that `features` are of.
        DataError: fewer than 4 pairs, or features that cannot be trained on.
        ray.exceptions.RayError, ray.train.TrainingFailedError: the workers failed for good. The last checkpoint stays.
    """
    num_pairs = features.read_manifest().pairs_out
    check_counts(len(modalities), num_pairs)
    check_sizes(num_pairs, config, run.resources.train_workers)
    is_scored = has_folds(num_pairs, config)
    if is_scored:
        check_fold_sizes(num_pairs, config, run.resources.train_workers)
    plan = run.begin(list)
    task = TrainTask(features, run.out, plan, tuple(modalities), seed, config, run.resources, finetuned or {})
    _fit(task, num_pairs, run)
    store = run.out.store
    run.check_lock()
    store.remove(CHECKPOINTS)
    names = [WEIGHTS_FILE, CARD_FILE, METRICS_FILE, *([OUT_OF_FOLD_FILE] if is_scored else [])]
    files = [_record_file(store, name) for name in names]
    metrics = store.read_json(METRICS_FILE)
    for couple in list_unrelated(metrics):
        _log.warning(couple.describe())
    properties = {
        "dim": config.dim,
        "modalities": list(modalities),
        "num_prototypes": store.read_json(CARD_FILE)["num_prototypes"],
        "epochs": metrics["epochs_run"],
        "encoder_sha256": files[0].sha256,
    }
    return run.finish(plan, files=files, num_pairs=num_pairs, properties=properties)


def keep_encoder(*, earlier: EarlierRun, pairs: Artifact, features: Artifact, run: StageRun) -> Manifest:
    """Publish the encoder of an earlier run, as it is, for a pool that has grown.

    Args:
        earlier: finished.
        pairs: of the pool that has grown.
        features: of the same pool.
        run: where to publish.

    Raises:
        ArtifactError: a file of the encoder is missing or damaged.
    """
    known = earlier.encoder.read_manifest().properties
    plan = run.begin(list)
    files = copy_encoder(pairs, earlier, run.out)
    fitted = {"run_id": earlier.run_id, "num_pairs": earlier.encoder.read_manifest().pairs_out}
    properties = {**known, GROWN_FROM: known.get(GROWN_FROM, fitted)}
    return run.finish(plan, files=files, num_pairs=features.read_manifest().pairs_out, properties=properties)


def _record_file(store: Store, name: str) -> FileRecord:
    data = store.read_bytes(name)
    return FileRecord(name=name, num_bytes=len(data), sha256=hash_bytes(data))


def _fit(task: TrainTask, num_pairs: int, run: StageRun) -> None:
    """Fit where it is to be, then report all epochs as done."""
    resources = run.resources

    def tell(progress: FitProgress) -> None:
        run.on_progress(describe_progress(progress))

    if resources.train_workers == 1 and is_done_here(num_pairs, resources, on_gpu=True, is_light=True):
        with limit_threads(resources.num_threads):
            train_on_device(task, "cpu", tell)
    else:
        run.open_ray()
        from pipelines.train_on_ray import fit_on_ray  # noqa: PLC0415  slow to load

        fit_on_ray(task, tell)
    last = read_progress(task.out.store.child(CHECKPOINTS))
    total = last.total_epochs if last else task.config.epochs
    run.on_progress(StageProgress(STAGE, total, total, "epochs"))


def describe_progress(progress: FitProgress) -> StageProgress:
    """Return the progress of all fits as that of the stage, which is not done with the last epoch."""
    done = min(progress.done_epochs, progress.total_epochs - 1)
    return StageProgress(
        STAGE,
        done,
        progress.total_epochs,
        "epochs",
        pairs_per_second=progress.pairs_per_second,
        eta_s=progress.eta_s,
    )
