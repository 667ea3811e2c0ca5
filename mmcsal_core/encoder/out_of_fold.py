"""Out-of-fold alignment: how well a pair agrees by an encoder that has not seen it.

An encoder learns mispaired pairs by heart, so the cosine of a pair that it was fitted on says little. Here the pool is
cut into folds; each fold is scored by an encoder fitted on the others, with the same maths and fewer epochs. In:
features, rows in the order of `pair_id`. Out: one number a pair, the mean cosine over modality pairs.
"""

import math
from collections.abc import Mapping
from itertools import combinations

import numpy as np
import torch

from mmcsal_core.artifacts import CHUNK_ROWS
from mmcsal_core.backbones.last_block import LastBlock
from mmcsal_core.encoder.config import EncoderConfig
from mmcsal_core.encoder.encoder_fit import EncoderFit
from mmcsal_core.encoder.feature_rows import Features, Rows, Vectors, count_rows, iter_blocks, read_rows, restrict_rows
from mmcsal_core.encoder.model import embed_rows
from mmcsal_core.encoder.prototypes import count_max_prototypes
from mmcsal_core.encoder.training_set import FOLDS, MIN_PAIRS, check_sizes, count_batches, draw_seed
from mmcsal_core.errors import ConfigError

FOLD_STEPS = 1000
MIN_FOLD_EPOCHS = 3


def measure_out_of_fold(
    features: Features, config: EncoderConfig, seed: int, blocks: Mapping[str, LastBlock] | None = None
) -> Vectors:
    """Return every pair's alignment by an encoder fitted without it, (N,) float32 in [-1, 1].

    Args:
        features: one vector a pair and modality, (N, in_dim) each, rows in the order of `pair_id`.
        config: of the encoder; `out_of_fold_folds` and `out_of_fold_epochs` say how many fits of what length.
        seed: of everything random.
        blocks: pretrained last blocks, by modality, of which each fit trains copies; as for `fit_encoder`.

    Raises:
        ConfigError: the configuration asks for no folds, or the pairs are too few for them.
        DataError: fewer than 4 pairs, or features that cannot be trained on.
    """
    scores = np.empty(count_rows(features), np.float32)
    for number, held_out in enumerate(list_folds(len(scores), config, seed)):
        fit = EncoderFit(*leave_out(features, held_out, config), draw_fold_seed(seed, number), blocks=blocks)
        while not fit.is_finished:
            fit.run_epoch()
        scores[held_out] = score_pairs(fit, features, held_out)
    return scores


def has_folds(num_pairs: int, config: EncoderConfig) -> bool:
    """Say whether pairs are scored: folds are configured, and what is left without one is enough to fit on."""
    folds = config.out_of_fold_folds
    return folds > 0 and num_pairs - -(-num_pairs // folds) >= MIN_PAIRS


def list_folds(num_pairs: int, config: EncoderConfig, seed: int) -> list[Rows]:
    """Return the rows of each fold, ascending; every row is in one, and folds are equal in size up to one.

    Raises:
        ConfigError: the configuration asks for no folds, or the pairs are too few for them.
    """
    if not has_folds(num_pairs, config):
        raise ConfigError(
            f"out-of-fold scores need 2 folds or more and {MIN_PAIRS} pairs outside each, got out_of_fold_folds "
            f"{config.out_of_fold_folds} for {num_pairs} pairs; set it to 3, or add pairs to the source"
        )
    order = np.random.default_rng([seed, FOLDS]).permutation(num_pairs)
    return [np.sort(rows) for rows in np.array_split(order, config.out_of_fold_folds)]


def check_fold_sizes(num_pairs: int, config: EncoderConfig, num_workers: int) -> None:
    """Refuse folds that leave too few pairs for the workers; `num_pairs` are those of the whole pool.

    Raises:
        ConfigError: more workers than pairs in a batch.
    """
    num_rest = num_pairs - -(-num_pairs // config.out_of_fold_folds)
    check_sizes(num_rest, configure_fold(config, num_rest), num_workers)


def draw_fold_seed(seed: int, number: int) -> int:
    """Return the seed of the fit without fold `number`."""
    return draw_seed(seed, FOLDS, number)


def leave_out(features: Features, held_out: Rows, config: EncoderConfig) -> tuple[Features, EncoderConfig]:
    """Return the features of all pairs but those held out, without a copy, and what is fitted to them."""
    rest = np.setdiff1d(np.arange(count_rows(features)), held_out, assume_unique=True)
    return restrict_rows(features, rest), configure_fold(config, len(rest))


def count_fold_epochs(num_pairs: int, config: EncoderConfig) -> int:
    """Return the epochs of a fit to the `num_pairs` outside a fold: what is configured, else about FOLD_STEPS steps.

    Mispaired pairs show after some hundreds of steps, whatever the number of pairs; epochs would make large pools pay
    for what small ones need.
    """
    wanted = config.out_of_fold_epochs
    if wanted is None:
        wanted = max(MIN_FOLD_EPOCHS, math.ceil(FOLD_STEPS / count_batches(num_pairs, config.batch_size)))
    return min(wanted, config.epochs)


def configure_fold(config: EncoderConfig, num_pairs: int) -> EncoderConfig:
    """Return what is fitted to the `num_pairs` outside a fold: all are trained on, and the last state is kept."""
    changes: dict[str, object] = {
        "epochs": count_fold_epochs(num_pairs, config),
        "held_back_fraction": 0.0,
        "early_stop_patience": None,
        "robust_fraction": 0.0,
    }
    if config.num_prototypes:
        changes["num_prototypes"] = min(config.num_prototypes, count_max_prototypes(num_pairs))
    return config.model_copy(update=changes)


def score_pairs(fit: EncoderFit, features: Features, rows: Rows) -> Vectors:
    """Return the mean cosine over modality pairs of these rows, (n,), on every worker; each one scores its slice."""
    mine = rows[fit.workers.slice_of(len(rows))]
    parts = [_score_chunk(fit, features, chunk) for chunk in iter_blocks(mine, CHUNK_ROWS)]
    own = torch.from_numpy(np.concatenate([np.empty(0, np.float32), *parts])[:, None]).to(fit.device)
    return np.asarray(fit.workers.gather_rows(own, len(rows)).cpu().numpy()[:, 0])


def _score_chunk(fit: EncoderFit, features: Features, rows: Rows) -> Vectors:
    embeddings = [embed_rows(tower, read_rows(features[name], rows)) for name, tower in fit.towers.items()]
    cosines = [np.einsum("nd,nd->n", a, b) for a, b in combinations(embeddings, 2)]
    return np.asarray(np.mean(cosines, axis=0, dtype=np.float64), dtype=np.float32)
