"""The Arrow schemas of `evaluation/`: what one trained probe scored, and what it comes to."""

import pyarrow as pa

from mmcsal_core.schema import describe_field

CONTESTANT = "contestant"
STRATEGY = "strategy"
BUDGET = "budget"
SPLIT = "split"
DRAW = "seed"
PROBE = "probe"
MEASURE = "measure"

ACCURACY = "accuracy"
BALANCED_ACCURACY = "balanced_accuracy"
CLASS_COVERAGE = "class_coverage"
MISPAIRED_SHARE = "mispaired_share"

PROBE_MEASURES = (BALANCED_ACCURACY, ACCURACY)
"""Measures of what a probe has learned from the picks."""

PICK_MEASURES = (CLASS_COVERAGE, MISPAIRED_SHARE)
"""Measures of the picks themselves, the same whatever the probe."""


def contest_schema() -> pa.Schema:
    """Return the schema of `evaluation/data/`: one row per contestant, budget, split, seed and probe."""
    return pa.schema(
        [
            *_contestant_fields(),
            describe_field(BUDGET, pa.int64(), "pairs that were asked for", "pairs", nullable=False),
            describe_field(SPLIT, pa.int32(), "number of the split into pool and test", "number", nullable=False),
            describe_field(DRAW, pa.int32(), "number of the draw; 0 where nothing is drawn", "number", nullable=False),
            describe_field(PROBE, pa.string(), "what learned from the labels of the picks", nullable=False),
            describe_field(ACCURACY, pa.float64(), "share of the test pairs that are named right", nullable=False),
            describe_field(
                BALANCED_ACCURACY, pa.float64(), "mean recall over the classes of the test pairs", nullable=False
            ),
            describe_field(CLASS_COVERAGE, pa.float64(), "share of the pool's classes among the picks", nullable=False),
            describe_field(MISPAIRED_SHARE, pa.float64(), "share of mispaired picks, null where it is not known"),
            describe_field(
                "mispaired_share_of_pool", pa.float64(), "share of mispaired pairs in the pool, null where not known"
            ),
            describe_field("num_picks", pa.int64(), "pairs that were picked", "pairs", nullable=False),
            describe_field("num_labels", pa.int64(), "picks that have a label", "pairs", nullable=False),
        ]
    )


def summary_schema() -> pa.Schema:
    """Return the schema of `evaluation/summary.parquet`: one row per measure, probe, contestant and budget."""
    return pa.schema(
        [
            describe_field(MEASURE, pa.string(), "column of data/ that is summed up", nullable=False),
            describe_field(PROBE, pa.string(), "null for measures of the picks themselves"),
            *_contestant_fields(),
            describe_field(BUDGET, pa.int64(), "null for the mean over the budgets of all contestants", "pairs"),
            *_interval_fields("mean", "over splits, seeds averaged within a split"),
            describe_field("num_splits", pa.int32(), "splits that the mean is over", "splits", nullable=False),
            *_interval_fields("difference_to_random", "less that of random, split by split"),
            describe_field("best_baseline", pa.string(), "the baseline that is best by this measure over all budgets"),
            *_interval_fields("difference_to_best", "less that of the best baseline, split by split"),
        ]
    )


def label_saving_schema() -> pa.Schema:
    """Return the schema of `evaluation/label_saving.parquet`: one row per probe, contestant and budget."""
    return pa.schema(
        [
            describe_field(PROBE, pa.string(), "what learned from the labels of the picks", nullable=False),
            *_contestant_fields(),
            describe_field(BUDGET, pa.int64(), "pairs that the contestant picked", "pairs", nullable=False),
            describe_field(BALANCED_ACCURACY, pa.float64(), "what came of them, mean over splits", nullable=False),
            describe_field("baseline", pa.string(), "whose labels are counted", nullable=False),
            describe_field(
                "baseline_budget", pa.float64(), "labels with which the baseline gets there, interpolated", "pairs"
            ),
            describe_field("factor", pa.float64(), "baseline_budget over budget", "times"),
            describe_field("reason", pa.string(), "why there is no factor"),
        ]
    )


def _contestant_fields() -> list[pa.Field]:
    return [
        describe_field(CONTESTANT, pa.string(), "name of the configured selection", nullable=False),
        describe_field(STRATEGY, pa.string(), "its strategy", nullable=False),
    ]


def _interval_fields(name: str, meaning: str) -> list[pa.Field]:
    """A mean and the ends of its interval; both ends are null where there is one split."""
    return [
        describe_field(name, pa.float64(), f"mean {meaning}"),
        describe_field(f"{name}_low", pa.float64(), "lower end of its interval"),
        describe_field(f"{name}_high", pa.float64(), "upper end of its interval"),
    ]
