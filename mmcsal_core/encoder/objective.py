"""The training objective of one batch: which losses, over which modalities, with which weights."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mmcsal_core.encoder.config import EncoderConfig, PrototypeTarget
from mmcsal_core.encoder.losses import alignment_loss, info_nce, proto_nce, uniformity_loss
from mmcsal_core.encoder.prototypes import Prototypes

INFO_NCE, PROTO_NCE, ALIGNMENT, UNIFORMITY = "info_nce", "proto_nce", "alignment", "uniformity"


@dataclass(frozen=True)
class Batch:
    """One batch as one worker sees it.

    Args:
        rows: the training rows of this worker's anchors, (n,).
        anchors: where these stand among all rows of the batch.
        own: unit vectors of the anchors, (n, d), one tensor a modality.
        whole: unit vectors of all rows of the batch, (m, d), one tensor a modality.
        weights: of all rows of the batch in InfoNCE, (m,); equal by default.
    """

    rows: npt.NDArray[np.int64]
    anchors: slice
    own: Sequence[Tensor]
    whole: Sequence[Tensor]
    weights: Tensor | None = None

    @property
    def share(self) -> float:
        """This worker's part of the batch, n / m."""
        return len(self.rows) / len(self.whole[0])


def list_weights(config: EncoderConfig) -> dict[str, float]:
    """Return the weight of each loss in use."""
    weights = {
        INFO_NCE: 1.0,
        PROTO_NCE: config.lambda_proto,
        ALIGNMENT: config.lambda_align,
        UNIFORMITY: config.lambda_uniform,
    }
    return {name: weight for name, weight in weights.items() if weight}


def measure_losses(
    batch: Batch, temperature: Tensor, prototypes: Mapping[str, Sequence[Prototypes]], config: EncoderConfig
) -> dict[str, Tensor]:
    """Return this worker's share of each loss in use; the shares of all workers add up to the batch's loss.

    Args:
        batch: the embeddings.
        temperature: of InfoNCE, a scalar.
        prototypes: one entry a granularity, by modality; ProtoNCE is left out while there are none.
        config: says which losses.
    """
    pairs, weights = list(combinations(range(len(batch.own)), 2)), list_weights(config)
    anchors, whole, own = batch.anchors, batch.whole, batch.own
    terms = [info_nce(whole[a], whole[b], temperature, anchors, batch.weights) for a, b in pairs]
    losses = {INFO_NCE: torch.stack(terms).mean()}
    if prototypes:
        losses[PROTO_NCE] = batch.share * _measure_proto_nce(batch, list(prototypes.values()), config.prototype_target)
    if ALIGNMENT in weights:
        losses[ALIGNMENT] = batch.share * torch.stack([alignment_loss(own[a], own[b]) for a, b in pairs]).mean()
    if UNIFORMITY in weights:
        losses[UNIFORMITY] = batch.share * torch.stack([uniformity_loss(vectors) for vectors in whole]).mean()
    return losses


def _measure_proto_nce(batch: Batch, prototypes: Sequence[Sequence[Prototypes]], target: PrototypeTarget) -> Tensor:
    """Mean of ProtoNCE over the granularities and the targets, at this worker's anchors."""
    losses = [
        weight * _measure_against(batch.own[modality], level, batch.rows)
        for modality, other, weight in list_targets(len(batch.own), target)
        for level in prototypes[other]
    ]
    return torch.stack(losses).sum() / len(prototypes[0])


def _measure_against(vectors: Tensor, prototypes: Prototypes, rows: npt.NDArray[np.int64]) -> Tensor:
    parts = (prototypes.centroids, prototypes.concentrations, prototypes.assigned[rows].astype(np.int64))
    return proto_nce(vectors, *(torch.from_numpy(part).to(vectors.device) for part in parts))


def list_targets(num_modalities: int, target: PrototypeTarget) -> list[tuple[int, int, float]]:
    """List (modality, modality whose prototypes it is pulled to, weight); the weights add up to 1."""
    own = [(m, m) for m in range(num_modalities)]
    cross = [(m, other) for m in range(num_modalities) for other in range(num_modalities) if m != other]
    groups = {"own": [own], "cross": [cross], "both": [own, cross]}[target]
    return [(m, other, 1 / (len(groups) * len(group))) for group in groups for m, other in group]
