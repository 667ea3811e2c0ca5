"""The coreset stage: pairs/, features/, embeddings/ and neighbors/ in, selection/ out: the ranked pairs to label first.

The driver holds the pool's vectors and its sparse kernel in memory and picks by itself, or with the shards of the pool
in Ray actors where `resources.selection_actors` asks for some: the same picks. The edges that the neighbors stage found
are used again. Every round of picks goes into a log, so that a selection that was killed goes on where it was. The
selection is one shard, since a ranking is one sequence.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from mmcsal_core.artifacts import Manifest, ShardRange
from mmcsal_core.corpus.modality import ModalityConfig
from mmcsal_core.schema import PAIR_ID
from mmcsal_core.selection.constraints.demands import Settlement, settle_demands
from mmcsal_core.selection.coreset import Coreset, Request
from mmcsal_core.selection.engine.engines import Engine, LocalEngine
from mmcsal_core.selection.near_duplicate_tables import note_group_sizes, tabulate_near_duplicates
from mmcsal_core.selection.selection_table import RunOrigin, read_carried, tabulate_selection
from mmcsal_core.selection.stored_pool import PoolArtifacts, read_pool
from mmcsal_core.selection.strategies import select_from_pool
from pipelines.coreset_config import CoresetConfig
from pipelines.coreset_demands import Chosen, PairLists, choose_pool, hash_pair_lists, read_pair_lists
from pipelines.devices import find_multiplier
from pipelines.pick_log import ReportedPickLog, StoredPickLog
from pipelines.stage_names import CORESET
from pipelines.stage_run import Resources, StageProgress, StageRun

__all__ = ["STAGE", "CoresetConfig", "rank_pairs"]

STAGE = CORESET
NEAR_DUPLICATES = "near_duplicates.parquet"


def rank_pairs(
    *,
    inputs: PoolArtifacts,
    source_options: Mapping[str, Any],
    modalities: Mapping[str, ModalityConfig],
    origin: RunOrigin,
    config: CoresetConfig,
    run: StageRun,
    lists: PairLists | None = None,
) -> Manifest:
    """Choose the pairs to label first and publish them, sorted by rank.

    Args:
        inputs: finished artifacts; features and neighbours are read only where the strategy uses them.
        source_options: storage options for fsspec, for lists of pairs.
        modalities: of the corpus.
        origin: what the selection says of the run; its seed is that of everything random.
        config: budget, strategy and constraints.
        run: where to publish.
        lists: what the lists of pairs hold, where they were read already: they may change while a run goes on.

    Raises:
        GateError: the budget is larger than the pool, quotas cannot be kept, or nothing may be picked.
        ConfigError: a column or condition does not fit, or the strategy cannot do what is asked.
        DataError: a list is unreadable or names a pair that is not there, or a cost is not a number above 0.
        ArtifactError: an artifact lacks a pair that another one has.
    """
    names = list(modalities)
    lists = read_pair_lists(config, source_options) if lists is None else lists
    engine = choose_engine(run.resources, run.open_ray)  # first: its actors start while the pool is read
    everything = read_pool(inputs, names, config)
    chosen = choose_pool(everything, inputs.pairs, modalities, config, lists)
    stored, num_pairs = chosen.stored, everything.pool.num_pairs
    settled = settle_demands(stored.pool, chosen.labelled, config, chosen.demands)
    log = StoredPickLog(run.out, run.fingerprint, stored.pool.num_pairs)
    told = ReportedPickLog(log, settled.budget, run)
    request = Request(settled.budget, chosen.labelled, origin.seed, config, settled.constraints, engine, told)
    coreset = select_from_pool(stored.pool, request)
    if settled.quotas is not None:
        settled.quotas.check_met(coreset.indices)
    carried = read_carried(inputs.pairs, stored.facts[PAIR_ID].take(coreset.indices), names)
    divided = None if settled.constraints.costs is None else config.cost_column
    table = tabulate_selection(
        note_group_sizes(stored, settled.near_duplicates),
        coreset,
        carried,
        config.group_column,
        replace(origin, cost_column=divided),
    )
    shard = ShardRange(index=0, start=0, stop=num_pairs)
    plan = run.begin(lambda: [shard])  # now: what was published before stays until here
    run.out.commit_shard(plan, shard, table, pairs_out=num_pairs)
    files = []
    if settled.near_duplicates is not None:
        groups = tabulate_near_duplicates(stored, settled.near_duplicates)
        files.append(run.out.store.write_table(NEAR_DUPLICATES, groups))
    run.on_progress(StageProgress(run.out.stage, settled.budget, settled.budget, "picks"))
    properties = describe_selection(chosen, settled, coreset)
    manifest = run.finish(
        plan, files=files, properties={"strategy": config.strategy, "lists": hash_pair_lists(lists), **properties}
    )
    log.remove()
    return manifest


def choose_engine(resources: Resources, open_ray: Callable[[], object]) -> Engine:
    """Return the engine on actors where any are asked for, after `open_ray`, else that of this process."""
    screening = resources.selection_screening
    if resources.selection_actors == 0:
        return LocalEngine(screening=screening, device=find_multiplier(resources.gpus_per_actor))
    open_ray()
    from pipelines.selection_engine import RayEngine  # noqa: PLC0415  slow to load

    return RayEngine(
        resources.selection_actors,
        num_cpus=min(1.0, resources.cpus_per_actor),
        screening=screening,
        num_gpus=resources.selection_gpus,
        memory_gb=resources.selection_memory_gb,
    )


def describe_selection(chosen: Chosen, settled: Settlement, coreset: Coreset) -> dict[str, Any]:
    """Return what the manifest says of a selection."""
    costs, groups = chosen.demands.costs, settled.near_duplicates
    return {
        "pool": chosen.stored.pool.num_pairs,
        "left_out": chosen.num_left_out,
        "labelled": len(chosen.labelled),
        "budget": settled.budget,
        "cost": None if costs is None else math.fsum(costs[coreset.indices].tolist()),
        "ended_by": coreset.ended_by,
        "exhausted_at": coreset.exhausted_at,
        "near_duplicates": None if groups is None else groups.describe(),
        "covering_radius": coreset.covering_radius,
    }
