"""Fit the encoder, by regularised contrastive learning over frozen features, or over what goes into a last block.

The first stage (MMSSL) of Shen et al., "Enhancing Modality Representation and Alignment for Multimodal Cold-start
Active Learning" (MM Asia 2024), reconstructed from its public text:

    L = mean over modality pairs of InfoNCE, both ways + lambda_proto * mean over modalities of ProtoNCE

`EncoderFit` is the whole of the maths, one epoch at a time; `fit_encoder` runs it in this process, and the train stage
on workers. The randomness of an epoch comes from (seed, epoch) alone and belongs to the whole batch, of which
a worker takes its slice: an interrupted fit that goes on from a checkpoint ends in the same bits, and several workers
differ from one by rounding only. Every pair is used once an epoch; batches are equal in size up to one.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from mmcsal_core.artifacts import CHUNK_ROWS
from mmcsal_core.backbones.last_block import LastBlock
from mmcsal_core.encoder.clustered_rows import ClusteredRows
from mmcsal_core.encoder.config import EncoderConfig
from mmcsal_core.encoder.feature_rows import Features, Rows, Vectors, count_rows, iter_blocks, read_rows
from mmcsal_core.encoder.model import Encoder, embed_rows
from mmcsal_core.encoder.objective import Batch, list_weights, measure_losses
from mmcsal_core.encoder.prototypes import Prototypes, choose_num_prototypes, list_granularities
from mmcsal_core.encoder.retrieval import measure_reciprocal_rank
from mmcsal_core.encoder.towers import Tower, Towers, build_towers, initialise_towers, pack_towers, unpack_towers
from mmcsal_core.encoder.training_set import (
    AUGMENT,
    CLUSTER,
    MAX_HELD_BACK,
    check_blocks,
    check_features,
    check_sizes,
    draw_seed,
    list_batches,
    split_rows,
)
from mmcsal_core.encoder.workers import Workers
from mmcsal_core.errors import DataError

MIN_TEMPERATURE = 0.01


class EncoderFit:
    """A fit in progress, advanced by `run_epoch`.

    Args:
        features: one vector a pair and modality, (n, in_dim) each, rows in the same order; arrays or memory maps, of
            which only the rows of a batch or a block are read at a time. Hidden rows (n, hidden_dim) where a last block
            is trained.
        config: what to fit.
        seed: of the weights, the split, the batches, the augmentation and the clusterings; not negative.
        device: where the towers live, e.g. `cuda`.
        workers: this worker's place among those that share the fit; every one of them holds all the features.
        blocks: pretrained last blocks, by modality, of which copies are trained with the heads.

    Raises:
        ConfigError: fewer than 2 modalities, more prototypes or workers than the pairs allow, or rows that do not fit a
            block.
        DataError: fewer than 4 pairs, or features that cannot be trained on.
    """

    def __init__(
        self,
        features: Features,
        config: EncoderConfig,
        seed: int,
        device: str = "cpu",
        workers: Workers | None = None,
        blocks: Mapping[str, LastBlock] | None = None,
    ) -> None:
        self.features, self._pretrained = dict(features), dict(blocks or {})
        check_features(features)
        check_blocks(features, self._pretrained)
        self.config, self.seed, self.device = config, seed, torch.device(device)
        self.workers = workers or Workers()
        num_pairs = count_rows(features)
        check_sizes(num_pairs, config, self.workers.size)
        self.train_rows, self.held_back_rows = split_rows(num_pairs, config.held_back_fraction, seed)
        self.num_prototypes = choose_num_prototypes(len(self.train_rows), config.num_prototypes)
        self.granularities = list_granularities(self.num_prototypes, len(self.train_rows))
        self.towers = self._build_towers()
        initialise_towers(self.towers, self.features, self.train_rows, seed, self.device)
        self.log_temperature = nn.Parameter(
            torch.tensor(math.log(config.temperature), device=self.device), requires_grad=config.learn_temperature
        )
        self.optimizer = torch.optim.AdamW(self._parameter_groups(), lr=config.learning_rate, fused=True)
        self.weights = list_weights(config)
        self.losses: list[list[float]] = []
        self.retrieval: list[float] = []
        """Mean reciprocal rank of the held-back pairs after each epoch, NaN where none are held back."""
        self.best: dict[str, Tensor] = {}
        """The towers as of `best_epoch`, kept only where the fit may stop early."""
        self.prototypes: dict[str, list[Prototypes]] = {}
        self._trusted: Vectors | None = None

    @property
    def epoch(self) -> int:
        """Epochs done."""
        return len(self.losses)

    @property
    def is_finished(self) -> bool:
        """Say whether every epoch is done, or retrieval has not risen for `early_stop_patience` epochs."""
        patience = self.config.early_stop_patience
        is_stuck = patience is not None and self.best_epoch > 0 and self.epoch - self.best_epoch >= patience
        return self.epoch >= self.config.epochs or is_stuck

    @property
    def best_epoch(self) -> int:
        """The first epoch, counted from 1, after which held-back pairs were retrieved best; 0 where none is known."""
        return 0 if np.isnan(self.retrieval).all() else int(np.nanargmax(self.retrieval)) + 1

    @property
    def temperature(self) -> Tensor:
        """The temperature of InfoNCE, a scalar tensor."""
        return self.log_temperature.exp().clamp(min=MIN_TEMPERATURE)

    def describe_losses(self) -> list[dict[str, float | None]]:
        """Return for each epoch the mean of each loss in use, before weighting; null before its first epoch."""
        return [
            {name: None if math.isnan(loss) else loss for name, loss in zip(self.weights, epoch, strict=True)}
            for epoch in self.losses
        ]

    def distrust_pairs(self, trust: Vectors) -> None:
        """Keep InfoNCE from pulling the `robust_fraction` of training pairs together whose trust (n,) is lowest."""
        ranks = np.argsort(np.argsort(trust[self.train_rows], kind="stable"), kind="stable")
        num_distrusted = round(self.config.robust_fraction * len(self.train_rows))
        self._trusted = (ranks >= num_distrusted).astype(np.float32)

    def describe_retrieval(self) -> list[float | None]:
        """Return the mean reciprocal rank of the held-back pairs after each epoch; null where none are held back."""
        return [None if math.isnan(value) else value for value in self.retrieval]

    def run_epoch(self, on_batch: Callable[[int], object] = lambda num_pairs: None) -> None:
        """Run the next epoch; the last one leaves the best state behind where the fit may stop early.

        Args:
            on_batch: called after each step with the number of pairs in its batch.

        Raises:
            DataError: the loss is no longer finite.
        """
        if self.config.refreshes_at(self.epoch):
            self.prototypes = {name: self._cluster(name) for name in self.towers}
        generator = torch.Generator(self.device).manual_seed(draw_seed(self.seed, self.epoch, AUGMENT))
        batches = list_batches(len(self.train_rows), self.config.batch_size, self.seed, self.epoch)
        totals = np.zeros(len(self.weights))
        for number, rows in enumerate(batches):
            self._set_learning_rate(self.epoch + (number + 1) / len(batches))
            totals += self._step(rows, generator) * len(rows)
            on_batch(len(rows))
        self.losses.append((totals / len(self.train_rows)).tolist())
        self._watch_retrieval()

    def to_encoder(self) -> Encoder:
        """Return the encoder as it stands, on the CPU, with prototypes of the base granularity made from it."""
        prototypes = {name: self._find_centroids(name) for name in self.towers}
        towers = self._build_towers()
        for name, tower in towers.items():
            tower.load_state_dict(self.towers[name].state_dict())
        return Encoder(towers, prototypes, self.config, self.seed)

    def embed_diagnosed(self) -> dict[str, Vectors]:
        """Embed the held-back pairs, or a sample of the training pairs where none are held back, (n, dim) each."""
        rows = self.held_back_rows if len(self.held_back_rows) else self.train_rows[:MAX_HELD_BACK]
        return {name: self._embed(name, rows) for name in self.towers}

    def _build_towers(self) -> Towers:
        dims = {name: source.shape[1] for name, source in self.features.items()}
        dims |= {name: block.dim for name, block in self._pretrained.items()}
        return build_towers(dims, self.config, self._pretrained)

    def _watch_retrieval(self) -> None:
        """Note how the held-back pairs are retrieved, the first worker's number on all, and keep the best state."""
        found = measure_reciprocal_rank(self.embed_diagnosed()) if len(self.held_back_rows) else math.nan
        self.retrieval.append(
            self.workers.broadcast(torch.tensor(found, dtype=torch.float64, device=self.device)).item()
        )
        if self.config.early_stop_patience is not None and self.best_epoch == self.epoch:
            self.best = {name: tensor.clone() for name, tensor in pack_towers(self.towers).items()}
        if self.is_finished and self.best:
            unpack_towers(self.towers, self.best)

    def _parameter_groups(self) -> list[dict[str, Any]]:
        """List what is trained; `rate` is the share of the learning rate."""
        towers, decay = self.towers.values(), self.config.weight_decay
        weights = [parameter for tower in towers for parameter in tower.layers.parameters()]
        groups: list[dict[str, Any]] = [{"params": weights, "weight_decay": decay, "rate": 1.0}]
        weights = [p for tower in towers if tower.block is not None for p in tower.block.parameters()]
        if weights:
            groups.append({"params": weights, "weight_decay": decay, "rate": self.config.finetune_rate})
        if self.config.learn_temperature:
            groups.append({"params": [self.log_temperature], "weight_decay": 0.0, "rate": 1.0})
        return groups

    def _parameters(self) -> Iterator[nn.Parameter]:
        for group in self.optimizer.param_groups:
            yield from group["params"]

    def _set_learning_rate(self, epochs_done: float) -> None:
        rise = min(1.0, epochs_done)
        fall = 0.5 * (1 + math.cos(math.pi * epochs_done / (self.config.epochs + 1)))
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * rise * fall * group["rate"]

    def _step(self, rows: Rows, generator: torch.Generator) -> npt.NDArray[np.float64]:
        """Take one step on the training rows numbered `rows`, and return the batch's losses, NaN if not in use."""
        self.optimizer.zero_grad(set_to_none=True)
        losses = measure_losses(self._embed_batch(rows, generator), self.temperature, self.prototypes, self.config)
        torch.stack([self.weights[name] * loss for name, loss in losses.items()]).sum().backward()  # type: ignore[no-untyped-call]
        self.workers.sum_gradients(self._parameters())
        values = self.workers.sum_value(torch.stack([loss.detach() for loss in losses.values()])).tolist()
        if not all(math.isfinite(value) for value in values):
            raise DataError(
                f"the training loss must stay finite, got {dict(zip(losses, values, strict=True))} in epoch "
                f"{self.epoch}; lower learning_rate, or look for extreme features"
            )
        self.optimizer.step()
        found = dict(zip(losses, values, strict=True))
        return np.array([found.get(name, math.nan) for name in self.weights])

    def _embed_batch(self, rows: Rows, generator: torch.Generator) -> Batch:
        mine = self.workers.slice_of(len(rows))
        augmented = [self._augment(name, tower, rows, generator) for name, tower in self.towers.items()]
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bfloat16"):
            own = [tower.project(x) for tower, x in zip(self.towers.values(), augmented, strict=True)]
        whole = self.workers.gather_rows(torch.cat(own, dim=1), len(rows))
        trusted = None if self._trusted is None else torch.from_numpy(self._trusted[rows]).to(self.device)
        return Batch(rows[mine], mine, own, whole.tensor_split(len(own), dim=1), trusted)

    def _augment(self, name: str, tower: Tower, rows: Rows, generator: torch.Generator) -> Tensor:
        """Standardise this worker's rows, (n_rank, in_dim); drop features and add noise, drawn for the whole batch."""
        mine = self.workers.slice_of(len(rows))
        features = torch.from_numpy(read_rows(self.features[name], self.train_rows[rows[mine]])).to(self.device)
        standardised = tower.standardise(features)
        shape = (len(rows), standardised.shape[1])
        if self.config.noise:
            noise = torch.randn(shape, generator=generator, device=self.device)[mine]
            standardised = standardised + self.config.noise * noise
        if self.config.dropout:
            kept = torch.rand(shape, generator=generator, device=self.device)[mine] >= self.config.dropout
            standardised = standardised * kept / (1 - self.config.dropout)
        return standardised

    def _embed(self, name: str, rows: Rows) -> Vectors:
        blocks = iter_blocks(rows, CHUNK_ROWS)
        parts = [embed_rows(self.towers[name], read_rows(self.features[name], block)) for block in blocks]
        return np.concatenate([np.empty((0, self.config.dim), np.float32), *parts])

    def _cluster(self, name: str) -> list[Prototypes]:
        temperature, seed = self.temperature.item(), self._draw_cluster_seed()
        rows = self._list_clustered(name)
        return rows.make_prototypes(self.granularities, self.config.prototype_source, temperature, seed)

    def _find_centroids(self, name: str) -> Vectors:
        rows, seed = self._list_clustered(name), self._draw_cluster_seed()
        return rows.find_centroids(self.num_prototypes, self.config.prototype_source, seed)

    def _list_clustered(self, name: str) -> ClusteredRows:
        """Return the training rows of one modality, embedded when they are needed."""
        num_rows, dim = len(self.train_rows), self.config.dim
        return ClusteredRows(
            lambda rows: self._embed(name, self.train_rows[rows]), num_rows, dim, self.workers, self.device
        )

    def _draw_cluster_seed(self) -> int:
        return draw_seed(self.seed, self.epoch, CLUSTER) % 2**31
