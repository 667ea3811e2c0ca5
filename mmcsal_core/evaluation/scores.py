"""Scores of predictions and of picks, against the truth."""

import numpy as np

from mmcsal_core.evaluation.labelled_pool import NO_LABEL, LabelledPool
from mmcsal_core.neighbors.vectors import Rows
from mmcsal_core.schema_evaluation import ACCURACY, BALANCED_ACCURACY, CLASS_COVERAGE, MISPAIRED_SHARE


def score_predictions(predicted: Rows, truth: Rows) -> dict[str, float]:
    """Return accuracy and balanced accuracy: the mean recall over the classes of the truth.

    Args:
        predicted: (T,) codes, `NO_LABEL` where nothing was predicted, which is wrong.
        truth: (T,) codes, at least one.
    """
    _, codes = np.unique(truth, return_inverse=True)
    is_right = (predicted == truth).astype(np.float64)
    recalls = np.bincount(codes, weights=is_right) / np.bincount(codes)
    return {ACCURACY: float(is_right.mean()), BALANCED_ACCURACY: float(recalls.mean())}


def describe_picks(pool: LabelledPool, picks: Rows) -> dict[str, float | int | None]:
    """Return what can be said of picks without training on them.

    Args:
        pool: N pairs.
        picks: (B,) rows, at least one.

    Returns:
        `class_coverage`: share of the pool's classes among the picks; `mispaired_share` of the picks and
        `mispaired_share_of_pool`, None where the truth is not known; `num_picks`, and `num_labels` of them.
    """
    labels = pool.labels[picks]
    known = labels[labels != NO_LABEL]
    return {
        CLASS_COVERAGE: len(np.unique(known)) / len(pool.classes),
        MISPAIRED_SHARE: None if pool.mispaired is None else float(pool.mispaired[picks].mean()),
        "mispaired_share_of_pool": None if pool.mispaired is None else float(pool.mispaired.mean()),
        "num_picks": len(picks),
        "num_labels": len(known),
    }
