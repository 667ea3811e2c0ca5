"""One worker of the train stage: the fits without each fold, then the encoder's own, each resumed where it stopped.

Every worker runs this; the first one publishes. The encoder's fit comes last because it may distrust the pairs that the
folds found to agree least.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
import torch

from mmcsal_core.artifacts import Artifact, Plan
from mmcsal_core.backbones.last_block import LastBlock
from mmcsal_core.backbones.loading import load_split_backbone
from mmcsal_core.corpus.modality import ModalityConfig
from mmcsal_core.encoder.checkpoint import save_encoder
from mmcsal_core.encoder.config import EncoderConfig
from mmcsal_core.encoder.encoder_fit import EncoderFit
from mmcsal_core.encoder.feature_rows import Features, Rows, Vectors
from mmcsal_core.encoder.out_of_fold import (
    count_fold_epochs,
    draw_fold_seed,
    has_folds,
    leave_out,
    list_folds,
    score_pairs,
)
from mmcsal_core.encoder.workers import Workers
from mmcsal_core.metrics import diagnose_embeddings
from mmcsal_core.schema import OUT_OF_FOLD_FILE, out_of_fold_schema
from pipelines.devices import settle_arithmetic
from pipelines.feature_spool import FeatureSpool, check_pretrained, spool_features
from pipelines.fit_checkpoints import (
    CHECKPOINTS,
    FitPace,
    OnProgress,
    publish_checkpoint,
    publish_scores,
    read_scores,
    resume_fit,
)
from pipelines.stage_run import Resources, ignore_progress, reserve_memory

METRICS_FILE = "metrics.json"


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
    finetuned: Mapping[str, ModalityConfig] = field(default_factory=dict)
    """Resolved modalities whose backbone's last block is trained."""

    @property
    def uses_gpu(self) -> bool:
        """Say whether the workers compute on a GPU."""
        return self.resources.gpus_per_actor > 0

    def list_needs(self) -> dict[str, float]:
        """Return what one worker takes, by kind of resource."""
        gpus = {"GPU": self.resources.gpus_per_actor} if self.uses_gpu else {}
        return {"CPU": self.resources.cpus_per_actor, **gpus, **reserve_memory(self.resources.memory_per_actor_gb)}


def train_on_device(task: TrainTask, device: str, on_progress: OnProgress = ignore_progress) -> None:
    """Run the whole training as one of its workers, which computes on `device`, and tells how far it is."""
    torch.set_num_threads(task.resources.num_threads)
    faiss.omp_set_num_threads(task.resources.num_threads)
    settle_arithmetic()
    spool = spool_features(task.features, task.modalities, task.finetuned)
    blocks = {name: load_split_backbone(modality).make_last_block() for name, modality in task.finetuned.items()}
    for name, block in blocks.items():
        check_pretrained(task.features, name, block)
    TrainWorker(task, spool, device, Workers.current(), blocks, on_progress).train()


class TrainWorker:
    """A worker at its work.

    Args:
        task: what to do.
        spool: the features.
        device: where to compute.
        workers: this worker's place.
        blocks: pretrained last blocks, by modality.
        on_progress: told how far all fits are, now and then.
    """

    def __init__(
        self,
        task: TrainTask,
        spool: FeatureSpool,
        device: str,
        workers: Workers,
        blocks: Mapping[str, LastBlock] | None = None,
        on_progress: OnProgress = ignore_progress,
    ) -> None:
        self._task, self._spool, self._device, self._workers = task, spool, device, workers
        self._blocks, self._on_progress = blocks, on_progress
        self._is_first = workers.rank == 0
        self._checkpoints = task.out.store.child(CHECKPOINTS)
        self._config, self._num_pairs = task.config, len(spool.pair_ids)

    def train(self) -> None:
        """Fit everything, and publish it."""
        folds = self._list_folds()
        fit = self._start_fit(self._spool.features, self._config, self._task.seed)
        self._pace = self._plan_pace(fit, folds)
        trust = self._score_folds(folds)
        if trust is not None and self._config.robust_fraction:
            fit.distrust_pairs(trust)
        before = diagnose_embeddings(fit.embed_diagnosed(), self._task.seed) if self._is_first else {}
        self._run_fit(fit, "encoder")
        encoder = fit.to_encoder()
        if self._is_first:
            self._task.out.check_current(self._task.plan)
            for name, data in save_encoder(encoder).items():
                self._task.out.store.write_bytes(name, data)
            self._publish_metrics(fit, before)

    def _start_fit(self, features: Features, config: EncoderConfig, seed: int) -> EncoderFit:
        return EncoderFit(features, config, seed, self._device, self._workers, self._blocks)

    def _list_folds(self) -> list[Rows]:
        is_scored = has_folds(self._num_pairs, self._config)
        return list_folds(self._num_pairs, self._config, self._task.seed) if is_scored else []

    def _plan_pace(self, fit: EncoderFit, folds: list[Rows]) -> FitPace:
        work = [(self._config.epochs, len(fit.train_rows))]
        for num_rest in (self._num_pairs - len(rows) for rows in folds):
            work.append((count_fold_epochs(num_rest, self._config), num_rest))
        return FitPace(
            self._checkpoints,
            self._is_first,
            total_epochs=sum(epochs for epochs, _ in work),
            total_pairs=sum(epochs * pairs for epochs, pairs in work),
            on_progress=self._on_progress,
        )

    def _score_folds(self, folds: list[Rows]) -> Vectors | None:
        """Return every pair's out-of-fold alignment, (n,), and publish it; None where nothing is scored."""
        if not folds:
            return None
        scores = np.empty(self._num_pairs, np.float32)
        for number, held_out in enumerate(folds):
            scores[held_out] = self._score_fold(number, held_out)
        if self._is_first:
            table = pa.table([self._spool.pair_ids, pa.array(scores)], schema=out_of_fold_schema())
            self._task.out.check_current(self._task.plan)
            self._task.out.store.write_table(OUT_OF_FOLD_FILE, table)
        return scores

    def _score_fold(self, number: int, held_out: Rows) -> Vectors:
        name = f"fold-{number:02d}"
        num_rest = self._num_pairs - len(held_out)
        found = read_scores(self._checkpoints.child(name))
        if found is not None:
            self._pace.skip_epochs(count_fold_epochs(num_rest, self._config), num_rest)
            return found
        features, config = leave_out(self._spool.features, held_out, self._config)
        fit = self._start_fit(features, config, draw_fold_seed(self._task.seed, number))
        self._run_fit(fit, name)
        scores = score_pairs(fit, self._spool.features, held_out)
        if self._is_first:
            self._task.out.check_current(self._task.plan)
            publish_scores(scores, self._checkpoints.child(name))
        return scores

    def _run_fit(self, fit: EncoderFit, name: str) -> None:
        """Run a fit to its end, from its newest checkpoint on."""
        store = self._checkpoints.child(name)
        resume_fit(fit, store)
        self._pace.skip_epochs(fit.epoch, len(fit.train_rows))
        while not fit.is_finished:
            fit.run_epoch(self._pace.count_pairs)
            if self._is_first:
                self._task.out.check_current(self._task.plan)
                publish_checkpoint(fit, store)
            self._pace.count_epoch()

    def _publish_metrics(self, fit: EncoderFit, before: dict[str, Any]) -> None:
        metrics = {
            "before": before,
            "after": diagnose_embeddings(fit.embed_diagnosed(), self._task.seed),
            "losses": fit.describe_losses(),
            "held_back_retrieval": fit.describe_retrieval(),
            "best_epoch": fit.best_epoch or None,
            "epochs_run": fit.epoch,
            "stopped_early": fit.epoch < self._config.epochs,
            "measured_on": "held-back pairs" if len(fit.held_back_rows) else "training pairs",
        }
        self._task.out.store.write_json(METRICS_FILE, metrics)
