"""Whether the picks train a better model: splits, probes, scores, and what they come to. The only reader of labels."""

from mmcsal_core.evaluation.config import Contestant, EvaluateConfig, make_contestants
from mmcsal_core.evaluation.contest import judge_split, run_contest
from mmcsal_core.evaluation.label_saving import measure_label_saving
from mmcsal_core.evaluation.labelled_pool import NO_LABEL, LabelledPool, Split, encode_labels, make_splits, split_pool
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
