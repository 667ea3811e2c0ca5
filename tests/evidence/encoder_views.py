"""The encoders that are compared, and the embeddings that each is looked at through.

    untrained               the projection heads at their initialisation
    InfoNCE only            no other loss, all pairs trusted
    InfoNCE, alignment term the same with the squared distance of a pair's embeddings, weight 1
    own, cross, both        prototypes, by what a pair is pulled to
    default                 the default configuration, where it is none of these
    without prototypes      the default less these, where that is more than InfoNCE

An encoder is fitted on the pool alone. The views of the first two also exist `centred`: each modality's mean over the
pool is subtracted and rows are scaled to unit length again, which removes the centroid gap without any training.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import get_args

import numpy as np

from mmcsal_core.backbones.backbone import Features
from mmcsal_core.encoder.config import EncoderConfig, PrototypeTarget
from mmcsal_core.encoder.encoder_fit import EncoderFit
from mmcsal_core.encoder.fitting import fit_encoder
from mmcsal_core.encoder.model import Vectors
from mmcsal_core.encoder.out_of_fold import measure_out_of_fold
from mmcsal_core.metrics import measure_modality_accuracy, measure_modality_gap, measure_retrieval
from mmcsal_core.selection.suspected_pairs import measure_suspicion

NO_PROTOTYPES = "without prototypes"
UNTRAINED = "untrained"
INFO_NCE = "InfoNCE only"
ALIGNED = "InfoNCE, alignment term"
PROTOTYPES = tuple(f"{target} prototypes" for target in get_args(PrototypeTarget))
CENTRED = ", centred"

ALONE = {"lambda_proto": 0.0, "lambda_align": 0.0, "lambda_uniform": 0.0, "robust_fraction": 0.0}
LAMBDA_PROTO = 0.5
"""Weight of the prototypes' loss where the default has none."""

Embeddings = Mapping[str, Vectors]


@dataclass(frozen=True)
class View:
    """Embeddings of the pool and of the clean test pairs, per modality (n, dim).

    Args:
        name: in the document.
        pool: what contestants pick from.
        test: of pairs that the encoder has not seen.
        suspicion: (N,) how far each pair of the pool is suspected of being mispaired.
    """

    name: str
    pool: Embeddings
    test: Embeddings
    suspicion: Vectors


@dataclass(frozen=True)
class GapMeasures:
    """How far apart the modalities lie on pairs that no encoder saw, the mean over pairs of modalities.

    Args:
        gap: distance of the modalities' means.
        modality_accuracy: of a linear classifier that tells the modality; 0.5 is no gap.
        retrieval: R@1, both ways.
    """

    gap: float
    modality_accuracy: float
    retrieval: float


def list_encoders() -> dict[str, EncoderConfig]:
    """Return the configurations by the name of the encoder; `untrained` is that of the default before any epoch."""
    default = EncoderConfig()
    encoders = {INFO_NCE: default.model_copy(update=ALONE)}
    encoders[ALIGNED] = default.model_copy(update={**ALONE, "lambda_align": 1.0})
    for name, target in zip(PROTOTYPES, get_args(PrototypeTarget), strict=True):
        changes = {"lambda_proto": default.lambda_proto or LAMBDA_PROTO, "prototype_target": target}
        encoders[name] = default.model_copy(update=changes)
    others = {"default": default, NO_PROTOTYPES: default.model_copy(update={"lambda_proto": 0.0})}
    for name, config in others.items():
        if config not in encoders.values():
            encoders[name] = config
    return {UNTRAINED: default, **encoders}


def name_default_encoder() -> str:
    """Return the name of the encoder that is the default configuration."""
    default = EncoderConfig()
    return next(name for name, config in list_encoders().items() if config == default and name != UNTRAINED)


def fit_views(name: str, pool: Mapping[str, Features], test: Mapping[str, Features], seed: int) -> list[View]:
    """Fit an encoder on the pool, and return the views of it."""
    config = list_encoders()[name]
    if name == UNTRAINED:
        encoder, unseen = EncoderFit(pool, config, seed).to_encoder(), None
    else:
        encoder = fit_encoder(pool, config=config, seed=seed)
        unseen = measure_out_of_fold(pool, config, seed) if config.out_of_fold_folds else None
    embeddings = encoder.embed(pool)
    suspicion = measure_suspicion(embeddings, features=pool, out_of_fold_alignment=unseen)
    view = View(name, embeddings, encoder.embed(test), suspicion)
    return [view, centre_view(view)] if name in (UNTRAINED, INFO_NCE) else [view]


def centre_view(view: View) -> View:
    """Subtract each modality's mean over the pool, and scale to unit length again; suspicion stays."""
    means = {name: z.mean(axis=0) for name, z in view.pool.items()}
    pool = {name: _to_unit(z - means[name]) for name, z in view.pool.items()}
    test = {name: _to_unit(z - means[name]) for name, z in view.test.items()}
    return View(f"{view.name}{CENTRED}", pool, test, view.suspicion)


def measure_gap(embeddings: Embeddings, seed: int) -> GapMeasures:
    """Measure the gap between modalities on pairs that no encoder saw."""
    names = list(embeddings)
    couples = [(embeddings[a], embeddings[b]) for i, a in enumerate(names) for b in names[i + 1 :]]
    return GapMeasures(
        gap=float(np.mean([measure_modality_gap(a, b) for a, b in couples])),
        modality_accuracy=float(np.mean([measure_modality_accuracy(a, b, seed) for a, b in couples])),
        retrieval=float(np.mean([_measure_recall(a, b) for a, b in couples])),
    )


def _measure_recall(a: Vectors, b: Vectors) -> float:
    return (measure_retrieval(a, b)["r@1"] + measure_retrieval(b, a)["r@1"]) / 2


def _to_unit(vectors: Vectors) -> Vectors:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), dtype=np.float32)
