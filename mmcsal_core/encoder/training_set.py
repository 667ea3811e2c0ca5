"""What a fit trains on: checked features, the held-back pairs, the batches of an epoch, and the seeds of it all."""

from collections.abc import Mapping

import numpy as np

from mmcsal_core.artifacts import CHUNK_ROWS
from mmcsal_core.backbones.last_block import LastBlock
from mmcsal_core.encoder.config import EncoderConfig
from mmcsal_core.encoder.feature_rows import Features, Rows, RowSource, count_rows, iter_blocks, read_rows
from mmcsal_core.encoder.prototypes import choose_num_prototypes
from mmcsal_core.errors import ConfigError, DataError

MIN_PAIRS = 4
MIN_HELD_BACK = 8
"""Fewer pairs would say nothing; then none is held back."""
MAX_HELD_BACK = 2000

SPLIT, ORDER, AUGMENT, CLUSTER, FOLDS = range(5)
"""The separate streams of randomness that a fit draws from."""


def check_features(features: Features) -> None:
    """Refuse features that no encoder can be trained on, (n, in_dim) a modality; reads all of them, block by block.

    Raises:
        ConfigError: fewer than 2 modalities.
        DataError: fewer than 4 pairs, unequal numbers of rows, or values that are not finite.
    """
    check_counts(len(features), count_rows(features))
    shapes = {name: source.shape for name, source in features.items()}
    if any(len(shape) != 2 for shape in shapes.values()) or len({shape[0] for shape in shapes.values()}) > 1:
        raise DataError(f"every modality needs one feature vector a pair, got shapes {shapes}; embed the pairs again")
    for name, source in features.items():
        wrong = find_not_finite(source)
        if wrong.size:
            raise DataError(
                f"every feature must be finite, but {name} has {wrong.size} rows that are not, the first is row "
                f"{wrong[0]}; remove these pairs from the source"
            )


def check_blocks(features: Features, blocks: Mapping[str, LastBlock]) -> None:
    """Refuse last blocks that do not fit the rows, (n, hidden_dim) a modality with a block.

    Raises:
        ConfigError: a block for no modality, or rows of another length than go into it.
    """
    unknown = sorted(set(blocks) - set(features))
    if unknown:
        raise ConfigError(f"blocks are for {', '.join(features)}, got {', '.join(unknown)}; correct the name")
    for name, block in blocks.items():
        if features[name].shape[1] != block.hidden_dim:
            raise ConfigError(
                f"the last block of {name} takes hidden rows of length {block.hidden_dim}, got "
                f"{features[name].shape[1]}; hand in what `embed_hidden` of its backbone returns first"
            )


def find_not_finite(source: RowSource) -> Rows:
    """Return the rows (n_wrong,) of features that hold NaN or what is infinite as float32, ascending."""
    blocks = iter_blocks(np.arange(source.shape[0]), CHUNK_ROWS)
    wrong = [rows[~np.isfinite(read_rows(source, rows)).all(axis=1)] for rows in blocks]
    return np.concatenate([np.empty(0, np.int64), *wrong])


def check_counts(num_modalities: int, num_pairs: int) -> None:
    """Refuse a corpus that is too small to train on.

    Raises:
        ConfigError: fewer than 2 modalities.
        DataError: fewer than 4 pairs.
    """
    if num_modalities < 2:
        raise ConfigError(f"an encoder needs at least 2 modalities, got {num_modalities}; configure another one")
    if num_pairs < MIN_PAIRS:
        raise DataError(f"an encoder needs at least {MIN_PAIRS} pairs, got {num_pairs}; add pairs to the source")


def check_sizes(num_pairs: int, config: EncoderConfig, num_workers: int) -> None:
    """Refuse sizes that do not fit a corpus of `num_pairs`.

    Raises:
        ConfigError: more prototypes than one per 20 training pairs, or more workers than pairs in a batch.
    """
    num_rows = num_pairs - count_held_back(num_pairs, config.held_back_fraction)
    choose_num_prototypes(num_rows, config.num_prototypes)
    smallest = num_rows // count_batches(num_rows, config.batch_size)
    if smallest < num_workers:
        raise ConfigError(
            f"every worker needs a pair in every batch, got {num_workers} workers for batches of {smallest} pairs; "
            "lower train_workers or raise batch_size"
        )


def count_held_back(num_pairs: int, held_back_fraction: float) -> int:
    """Return the number of pairs kept from training: 0, or 8 to 2000."""
    num_held = min(round(held_back_fraction * num_pairs), MAX_HELD_BACK, num_pairs - MIN_PAIRS)
    return num_held if num_held >= MIN_HELD_BACK else 0


def split_rows(num_pairs: int, held_back_fraction: float, seed: int) -> tuple[Rows, Rows]:
    """Return the rows to train on and the rows held back, each ascending."""
    num_held = count_held_back(num_pairs, held_back_fraction)
    order = np.random.default_rng([seed, SPLIT]).permutation(num_pairs)
    return np.sort(order[num_held:]), np.sort(order[:num_held])


def list_batches(num_rows: int, batch_size: int, seed: int, epoch: int) -> list[Rows]:
    """Shuffle 0 .. num_rows - 1 into batches of about `batch_size`, equal up to one; every row is in exactly one."""
    order = np.random.default_rng([seed, epoch, ORDER]).permutation(num_rows)
    return np.array_split(order, count_batches(num_rows, batch_size))


def count_batches(num_rows: int, batch_size: int) -> int:
    """Return the number of batches of an epoch, at least one."""
    return max(1, round(num_rows / batch_size))


def draw_seed(*words: int) -> int:
    """Mix several non-negative numbers into one seed below 2^63."""
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> 1)
