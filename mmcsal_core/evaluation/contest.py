"""The contest: every contestant picks from the same pools, the same probes learn from its picks, the same pairs test.

Pools of labelled pairs in, one row per contestant, budget, split, seed and probe out. Labels are looked at after the
picks are made, and by nothing else than the probes and the scores.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from mmcsal_core.errors import GateError
from mmcsal_core.evaluation.config import RANDOM, Contestant, EvaluateConfig
from mmcsal_core.evaluation.labelled_pool import NO_LABEL, LabelledPool, Split, make_splits
from mmcsal_core.evaluation.probes import open_probes
from mmcsal_core.evaluation.scores import describe_picks, score_predictions
from mmcsal_core.neighbors.backbone_space import reduce_features
from mmcsal_core.neighbors.vectors import Rows, Vectors
from mmcsal_core.schema_evaluation import contest_schema
from mmcsal_core.selection.constraints.demands import Demands, settle_demands
from mmcsal_core.selection.coreset import Request
from mmcsal_core.selection.engine.eligibility import NO_ROWS
from mmcsal_core.selection.pool import Pool, make_pool
from mmcsal_core.selection.strategies import select_from_pool

OnProgress = Callable[[str], None]


def ignore_progress(_: str) -> None:
    """Tell nobody."""


def run_contest(
    pool: LabelledPool,
    contestants: Sequence[Contestant],
    config: EvaluateConfig,
    seed: int,
    test: LabelledPool | None = None,
) -> pa.Table:
    """Let contestants pick, train probes on their picks, and score them.

    Args:
        pool: N pairs, to be split into pool and test.
        contestants: with distinct names.
        config: budgets, splits, probes.
        seed: of the splits and of what contestants draw.
        test: other pairs, under the same codes, to test on; then all of `pool` may be picked, and there is one split.

    Returns:
        A table under `contest_schema`.

    Raises:
        GateError: fewer than two classes, no class with two pairs, or a budget larger than the pool.
        ConfigError: a contestant cannot do what is asked, or a probe has nothing to learn from.
    """
    splits = make_splits(pool, config, seed) if test is None else [Split(0, pool, test)]
    return pa.concat_tables([judge_split(split, contestants, config, seed) for split in splits])


def judge_split(
    split: Split,
    contestants: Sequence[Contestant],
    config: EvaluateConfig,
    seed: int,
    on_progress: OnProgress = ignore_progress,
) -> pa.Table:
    """Hold the contest on one split; as `run_contest` else.

    Args:
        split: pool and test.
        contestants: with distinct names.
        config: budgets and probes.
        seed: of what contestants draw, beside the number of the split.
        on_progress: told the name of each contestant that is through.
    """
    check_budgets(split.pool, config)
    probes, spaces = open_probes(split, config), _make_spaces(split.pool, contestants)
    rows: list[dict[str, Any]] = []
    for contestant in contestants:
        dims = contestant.config.search.backbone_dims
        weights, suspicion = contestant.config.modality_weights, split.pool.suspicion
        pool = make_pool(split.pool.embeddings, {}, None, spaces[dims], weights, suspicion)
        for key, picks in _iter_picks(pool, contestant, split, config, seed):
            labels = split.pool.labels[picks]
            is_known = labels != NO_LABEL
            facts = {**key, **describe_picks(split.pool, picks)}
            for name, predict in probes.items():
                known = picks[is_known], labels[is_known]
                named = predict(*known) if is_known.any() else np.full(split.test.num_pairs, NO_LABEL)
                rows.append({**facts, "probe": name, **score_predictions(named, split.test.labels)})
        on_progress(contestant.name)
    return pa.Table.from_pylist(rows, schema=contest_schema())


def check_budgets(pool: LabelledPool, config: EvaluateConfig) -> None:
    """Make sure that every budget fits the pool of a split.

    Raises:
        GateError: a budget is larger than the pool.
    """
    largest = config.list_budgets(len(pool.classes))[-1]
    if largest > pool.num_pairs:
        raise GateError(
            f"a budget must not exceed the pool of a split, but {largest} pairs are asked for ({len(pool.classes)} "
            f"classes) and {pool.num_pairs} are there; lower budgets, budgets_per_class or test_fraction"
        )


def _iter_picks(
    pool: Pool, contestant: Contestant, split: Split, config: EvaluateConfig, seed: int
) -> Iterator[tuple[dict[str, Any], Rows]]:
    """Yield what names a row of the table, and the picks, by draw and budget."""
    num_classes = len(split.pool.classes)
    budgets = config.list_budgets(num_classes)
    if contestant.name == RANDOM:
        budgets = config.list_random_budgets(num_classes, pool.num_pairs)
    for draw in range(config.num_seeds if contestant.is_drawn else 1):
        own = derive_seed(seed, split.number, draw)
        whole = _pick(pool, contestant, budgets[-1], own) if contestant.is_prefix else None
        for budget in budgets:
            picks = _pick(pool, contestant, budget, own) if whole is None else whole[:budget]
            key = {"contestant": contestant.name, "strategy": contestant.config.strategy}
            yield {**key, "budget": budget, "split": split.number, "seed": draw}, picks


def derive_seed(seed: int, split: int, draw: int) -> int:
    """Return the seed of one draw in one split, below 2^31, as FAISS asks."""
    return int(np.random.SeedSequence([seed, split, draw]).generate_state(1)[0] >> 1)


def _pick(pool: Pool, contestant: Contestant, budget: int, seed: int) -> Rows:
    config = contestant.config
    settled = settle_demands(pool, NO_ROWS, config, Demands(budget))
    request = Request(settled.budget, NO_ROWS, seed, config, settled.constraints)
    return select_from_pool(pool, request).indices


def _make_spaces(pool: LabelledPool, contestants: Sequence[Contestant]) -> dict[int, Mapping[str, Vectors]]:
    """Return the backbones' own spaces by the number of dimensions that contestants ask for."""
    asked = {contestant.config.search.backbone_dims for contestant in contestants}
    if pool.spaces is not None:
        return dict.fromkeys(asked, pool.spaces)
    return {
        dims: {name: reduce_features(x, dims) for name, x in pool.features.items()} if dims else {} for dims in asked
    }
