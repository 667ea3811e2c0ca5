"""The coreset stage: pairs/, features/, embeddings/ and neighbors/ in, selection/ out: the ranked pairs to label first.

It computes in the driver's process and holds the pool's vectors and its sparse kernel in memory, without Ray: right for
pools of tens of thousands of pairs, where reading costs more than choosing. The edges that the neighbors stage found
are used again. The selection is one shard, since a ranking is one sequence.
"""

from collections.abc import Mapping

from pydantic import Field, model_validator

from mmcsal_core.artifacts import Manifest, ShardRange
from mmcsal_core.corpus.modality import ModalityConfig
from mmcsal_core.errors import GateError
from mmcsal_core.schema import PAIR_ID
from mmcsal_core.selection.config import SelectionConfig
from mmcsal_core.selection.coreset import Request
from mmcsal_core.selection.selection_table import RunOrigin, read_carried, tabulate_selection
from mmcsal_core.selection.stored_pool import PoolArtifacts, read_pool
from mmcsal_core.selection.strategies import NO_LABELS, select_from_pool
from pipelines.stage_run import StageProgress, StageRun

STAGE = "coreset"


class CoresetConfig(SelectionConfig):
    """How many pairs are chosen, and how."""

    budget: int | None = Field(None, ge=1, description="pairs to pick; give this or budget_fraction")
    budget_fraction: float | None = Field(None, gt=0, le=1, description="share of the pool to pick, one pair at least")
    stratum_column: str | None = Field(None, description="metadata column that is copied into the stratum column")

    @model_validator(mode="after")
    def _check_budget(self) -> "CoresetConfig":
        if (self.budget is None) == (self.budget_fraction is None):
            raise ValueError(
                f"give exactly one of budget and budget_fraction, got {self.budget} and {self.budget_fraction}; "
                "write e.g. budget: 100, and with --set budget_fraction also --set selection.budget=null"
            )
        return self

    def count_picks(self, num_pairs: int) -> int:
        """Return the budget in pairs for a pool of this size.

        Raises:
            GateError: the budget is larger than the pool.
        """
        if self.budget is None:
            return max(1, round((self.budget_fraction or 0.0) * num_pairs))
        if self.budget > num_pairs:
            raise GateError(
                f"the budget must not exceed the pool, but {self.budget} pairs are asked for and {num_pairs} are "
                "usable; lower the budget or see rejects/ for what was lost"
            )
        return self.budget


def rank_pairs(
    *,
    inputs: PoolArtifacts,
    modalities: Mapping[str, ModalityConfig],
    origin: RunOrigin,
    config: CoresetConfig,
    run: StageRun,
) -> Manifest:
    """Choose the pairs to label first and publish them, sorted by rank.

    Args:
        inputs: finished artifacts; features and neighbours are read only where the strategy uses them.
        modalities: of the corpus.
        origin: what the selection says of the run; its seed is that of everything random.
        config: budget and strategy.
        run: where to publish.

    Raises:
        GateError: the budget is larger than the pool.
        ConfigError: there is no such stratum column.
        ArtifactError: an artifact lacks a pair that another one has.
    """
    names = list(modalities)
    stored = read_pool(inputs, names, config)
    budget = config.count_picks(stored.pool.num_pairs)
    shard = ShardRange(index=0, start=0, stop=stored.pool.num_pairs)
    coreset = select_from_pool(stored.pool, Request(budget, NO_LABELS, origin.seed, config))
    carried = read_carried(inputs.pairs, stored.facts[PAIR_ID].take(coreset.indices), names)
    table = tabulate_selection(stored, coreset, carried, config.stratum_column, origin)
    plan = run.out.begin(run.fingerprint, lambda: [shard])  # now: what was published before stays until here
    run.out.commit_shard(plan, shard, table, pairs_out=stored.pool.num_pairs)
    run.on_progress(StageProgress(run.out.stage, 1, 1))
    return run.out.finish(
        plan,
        properties={
            "pool": stored.pool.num_pairs,
            "budget": budget,
            "strategy": config.strategy,
            "covering_radius": coreset.covering_radius,
        },
    )
