"""Evaluate stage: pairs/, features/, embeddings/ and indexes/ in, evaluation/ out: does what is picked teach more?

The only stage that labels decide anything in. It asks nothing of selection/: every contestant picks anew in the pool of
each split. The encoder was fitted on all pairs, test pairs too, though to no label: the evaluation is transductive. A
split is a shard, so an evaluation that was killed goes on at the first missing split, and splits run side by side in
actors where `resources.num_actors` asks for more than one: the same bytes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from mmcsal_core.artifacts import Artifact, Manifest, Plan, ShardRange
from mmcsal_core.evaluation import (
    NO_LABEL,
    Contestant,
    EvaluateConfig,
    LabelledPool,
    judge_split,
    make_contestants,
    make_splits,
    measure_label_saving,
    summarise,
)
from mmcsal_core.evaluation.contest import check_budgets
from mmcsal_core.evaluation.rehearsal import rehearse_contest
from mmcsal_core.evaluation.stored_labels import StoredLabels, read_labelled_pool
from mmcsal_core.metrics import measure_suspicion_auc
from mmcsal_core.reporting.curves import plot_curves
from mmcsal_core.reporting.evaluation_tables import render_evaluation
from mmcsal_core.schema import SCHEMA_VERSION
from mmcsal_core.selection.config import SelectionConfig
from mmcsal_core.selection.stored_pool import PoolArtifacts
from mmcsal_core.storage import FileRecord
from pipelines.shard_runs import run_shards
from pipelines.stage_names import EVALUATE
from pipelines.stage_run import StageProgress, StageRun

__all__ = ["STAGE", "EvaluateConfig", "evaluate_selections"]

STAGE = EVALUATE
SUMMARY = "summary.md"


def evaluate_selections(
    *,
    inputs: PoolArtifacts,
    modalities: Sequence[str],
    selection: SelectionConfig,
    seed: int,
    config: EvaluateConfig,
    run: StageRun,
) -> Manifest:
    """Let every contestant pick from every split, train on the picks, and publish scores, summary and curves.

    Args:
        inputs: finished artifacts; neighbours are searched anew in the pool of each split.
        modalities: by name.
        selection: where contestants take the keys from that they do not give.
        seed: of the splits and of what contestants draw.
        config: labels, budgets, contestants, probes.
        run: where to publish.

    Raises:
        ConfigError: a column does not fit, or a contestant cannot do what is asked.
        GateError: too few labels or classes, or a budget larger than the pool of a split.
        DataError: it is not known of every pair whether it is mispaired.
        ArtifactError: an artifact is missing or lacks a pair that another one has.
    """
    stored, contestants = read_labelled_pool(inputs, modalities, config), make_contestants(config, selection)
    rehearse_contest(contestants, modalities, has_spaces=bool(stored.pool.spaces))
    splits = make_splits(stored.pool, config, seed)
    check_budgets(splits[0].pool, config)  # the pools of all splits are of one size and hold all classes
    plan = run.begin(lambda: plan_splits(config.num_splits, stored.pool.num_pairs))
    missing = run.out.missing_shards(plan)
    if run.resources.num_actors > 1:
        asked = {"inputs": inputs, "modalities": modalities, "selection": selection, "seed": seed, "config": config}
        run_shards(missing, SplitWorker, {**asked, "out": run.out, "plan": plan}, run)
    else:
        _judge_here(missing, Contest(stored.pool, contestants, config, seed, run.out, plan), run)
    about = describe_evaluation(stored, contestants, config, seed)
    about |= {"num_pool": splits[0].pool.num_pairs, "num_test": splits[0].test.num_pairs}
    files = publish_findings(run.out, plan, about, config)
    embeddings = inputs.embeddings.read_manifest().fingerprint
    return run.finish(plan, files=files, properties={"embeddings": embeddings, "label_column": config.label_column})


def plan_splits(num_splits: int, num_pairs: int) -> list[ShardRange]:
    """Return one shard a split, each of all pairs."""
    return [ShardRange(index=split, start=0, stop=num_pairs) for split in range(num_splits)]


@dataclass(frozen=True)
class Contest:
    """A contest whose splits are committed one by one, each by its number.

    Args:
        pool: all pairs.
        contestants: with distinct names.
        config: budgets, splits, probes.
        seed: of the splits and of what contestants draw.
        out: where to publish.
        plan: of `out`.
    """

    pool: LabelledPool
    contestants: Sequence[Contestant]
    config: EvaluateConfig
    seed: int
    out: Artifact
    plan: Plan

    def commit_split(self, shard: ShardRange, on_progress: Callable[[str], None]) -> None:
        """Hold the contest on one split and publish its rows."""
        split = make_splits(self.pool, self.config, self.seed)[shard.index]
        table = judge_split(split, self.contestants, self.config, self.seed, on_progress)
        self.out.commit_shard(self.plan, shard, table, pairs_out=self.pool.num_pairs)


class SplitWorker:
    """Reads the pairs and judges the splits that it is given, in an actor of its own."""

    def __init__(
        self,
        *,
        inputs: PoolArtifacts,
        modalities: Sequence[str],
        selection: SelectionConfig,
        seed: int,
        config: EvaluateConfig,
        out: Artifact,
        plan: Plan,
    ) -> None:
        pool = read_labelled_pool(inputs, modalities, config).pool
        self._contest = Contest(pool, make_contestants(config, selection), config, seed, out, plan)

    def run_shard(self, shard: ShardRange) -> None:
        """Judge one split and publish its rows."""
        self._contest.commit_split(shard, lambda _: None)


def _judge_here(shards: Sequence[ShardRange], contest: Contest, run: StageRun) -> None:
    """Judge splits in this process, and tell which contestant of which split is through."""
    names, num_splits = [contestant.name for contestant in contest.contestants], len(contest.plan.shards)
    total = len(shards) * len(names)
    for number, shard in enumerate(shards):

        def tell(name: str, number: int = number, shard: ShardRange = shard) -> None:
            done = number * len(names) + names.index(name) + 1
            detail = f"split {shard.index + 1} of {num_splits}: {name}"
            run.on_progress(StageProgress(run.out.stage, done, total, "contestants", detail))

        contest.commit_split(shard, tell)


def describe_evaluation(
    stored: StoredLabels, contestants: Sequence[Contestant], config: EvaluateConfig, seed: int
) -> dict[str, Any]:
    """Return what `evaluation.json` says of the pairs and of who contended."""
    pool = stored.pool
    counts = np.bincount(pool.labels[pool.labels != NO_LABEL], minlength=len(stored.classes))
    return {
        "schema_version": SCHEMA_VERSION,
        "seed": seed,
        "config": config.model_dump(mode="json"),
        "contestants": {contestant.name: contestant.config.model_dump(mode="json") for contestant in contestants},
        "classes": dict(zip(stored.classes, counts.tolist(), strict=True)),
        "num_pairs": pool.num_pairs,
        "num_unlabelled": int((pool.labels == NO_LABEL).sum()),
        "num_mispaired": None if pool.mispaired is None else int(pool.mispaired.sum()),
        "suspicion_auc": _judge_suspicion(pool),
    }


def _judge_suspicion(pool: LabelledPool) -> float | None:
    """Return the AUC with which suspicion finds the mispaired pairs; None where it or the truth is not known."""
    if pool.mispaired is None or pool.suspicion is None:
        return None
    return measure_suspicion_auc(pool.suspicion, pool.mispaired)


def publish_findings(out: Artifact, plan: Plan, about: dict[str, Any], config: EvaluateConfig) -> list[FileRecord]:
    """Sum the published rows up, in tables, in Markdown and in curves; none holds a time."""
    table = pa.concat_tables([out.store.read_table(record.data.name) for record in out.read_records(plan)])
    summary, saving = summarise(table, config.confidence), measure_label_saving(table)
    return [
        out.store.write_table("summary.parquet", summary),
        out.store.write_table("label_saving.parquet", saving),
        out.store.write_json("evaluation.json", about),
        out.store.write_bytes(SUMMARY, render_evaluation(about, summary, saving).encode()),
        *(out.store.write_bytes(f"curves_{probe}.svg", plot_curves(summary, probe)) for probe in config.probes),
    ]
