"""Whether the picks train a better model: splits, probes, scores, and what they come to. The only reader of labels.

The names below are imported when they are first used: what judges takes a second or more to import.
"""

from typing import TYPE_CHECKING

from mmcsal_core.lazy_names import import_lazily

if TYPE_CHECKING:
    from mmcsal_core.evaluation.config import Contestant, EvaluateConfig, make_contestants
    from mmcsal_core.evaluation.contest import judge_split, run_contest
    from mmcsal_core.evaluation.label_saving import measure_label_saving
    from mmcsal_core.evaluation.labelled_pool import (
        NO_LABEL,
        LabelledPool,
        Split,
        encode_labels,
        make_splits,
        split_pool,
    )
    from mmcsal_core.evaluation.summary import summarise

__all__ = [
    "NO_LABEL",
    "Contestant",
    "EvaluateConfig",
    "LabelledPool",
    "Split",
    "encode_labels",
    "judge_split",
    "make_contestants",
    "make_splits",
    "measure_label_saving",
    "run_contest",
    "split_pool",
    "summarise",
]

__getattr__ = import_lazily(
    __name__,
    {
        "Contestant": "config",
        "EvaluateConfig": "config",
        "make_contestants": "config",
        "judge_split": "contest",
        "run_contest": "contest",
        "measure_label_saving": "label_saving",
        "NO_LABEL": "labelled_pool",
        "LabelledPool": "labelled_pool",
        "Split": "labelled_pool",
        "encode_labels": "labelled_pool",
        "make_splits": "labelled_pool",
        "split_pool": "labelled_pool",
        "summarise": "summary",
    },
)
