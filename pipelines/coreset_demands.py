"""From the configuration of the coreset stage to a pool and numbers of its rows: lists, conditions, costs, groups."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from mmcsal_core.artifacts import Artifact
from mmcsal_core.errors import ConfigError, GateError
from mmcsal_core.neighbors.sorted_tables import read_schema
from mmcsal_core.neighbors.vectors import Rows
from mmcsal_core.schema import PAIR_ID, embedding_schema, witness_fields
from mmcsal_core.selection.constraints.cost_budget import read_costs
from mmcsal_core.selection.constraints.demands import Demands
from mmcsal_core.selection.constraints.metadata_filter import match_rows
from mmcsal_core.selection.constraints.pair_lists import find_listed_rows, hash_pair_list, read_pair_list
from mmcsal_core.selection.constraints.quotas import group_rows
from mmcsal_core.selection.selection_table import list_carried, read_carried, read_stratum
from mmcsal_core.selection.stored_pool import StoredPool
from pipelines.coreset_config import CoresetConfig

PairLists = Mapping[str, pa.Array]
"""Distinct pair ids by key: `labelled`, `exclude`."""


@dataclass(frozen=True, eq=False)
class Chosen:
    """The pairs that a selection is about.

    Args:
        stored: N pairs.
        labelled: (L,) rows of them that count as picked.
        demands: numbers of the rows.
        num_left_out: pairs of the run that are not among them.
    """

    stored: StoredPool
    labelled: Rows
    demands: Demands
    num_left_out: int


def read_pair_lists(config: CoresetConfig, options: Mapping[str, Any]) -> PairLists:
    """Read the lists of pairs that a configuration names.

    Raises:
        DataError: a list is missing or unreadable.
    """
    named = {"labelled": config.labelled, "exclude": config.exclude}
    return {key: read_pair_list(listed, options) for key, listed in named.items() if listed is not None}


def hash_pair_lists(lists: PairLists) -> dict[str, str]:
    """Hash each list."""
    return {key: hash_pair_list(ids) for key, ids in lists.items()}


def choose_pool(
    stored: StoredPool, pairs: Artifact, modalities: Mapping[str, Any], config: CoresetConfig, lists: PairLists
) -> Chosen:
    """Leave out what the configuration leaves out, and read costs and groups of the rest.

    Args:
        stored: all pairs of the run.
        pairs: finished.
        modalities: by name.
        config: what is asked.
        lists: from `read_pair_lists`.

    Raises:
        ConfigError: the condition or a column does not fit the metadata.
        DataError: a listed pair is not in the pool, or a cost is not a number above 0.
        GateError: no pair is left, or fewer than the budget.
    """
    names, ids = list(modalities), stored.facts[PAIR_ID]
    check_columns(config, read_schema(pairs), names)
    metadata = None
    if config.where is not None or config.list_columns():
        metadata = read_carried(pairs, ids, names)
    rows = np.arange(stored.pool.num_pairs)
    labelled = find_listed_rows("labelled", lists["labelled"], ids) if "labelled" in lists else rows[:0]
    is_kept = np.ones(len(rows), dtype=bool)
    if "exclude" in lists:
        is_kept[find_listed_rows("exclude", lists["exclude"], ids)] = False
    if config.where is not None and metadata is not None:
        facts = stored.facts
        is_kept &= match_rows(pa.table({**_columns(facts), **_columns(metadata)}), config.where)
    num_free = int(np.delete(is_kept, labelled).sum())
    _check_left(config, num_free, len(rows))
    is_kept[labelled] = True
    kept = rows[is_kept]
    whole, own = len(kept) == len(rows), np.searchsorted(kept, labelled)
    facts = metadata if whole or metadata is None else metadata.take(kept)
    return Chosen(
        stored=stored if whole else stored.restrict(kept),
        labelled=own,
        demands=_make_demands(config, facts, metadata, ids.take(kept), own),
        num_left_out=len(rows) - len(kept),
    )


def check_columns(config: CoresetConfig, pairs: pa.Schema, modalities: Sequence[str]) -> None:
    """Make sure, on no pair at all, that the metadata columns are there and hold what they are named for.

    Args:
        config: `stratum_column`, `quotas.column` and `cost_column` are looked at.
        pairs: what pairs/ holds, or is going to hold.
        modalities: by name.

    Raises:
        ConfigError: a column is not there, has no text form to group by, or holds no numbers to sum up.
    """
    carried = pa.schema(list_carried(pairs, modalities)).empty_table()
    for key, column in config.list_columns().items():
        if column not in carried.column_names:
            known = ", ".join(carried.column_names) or "none"
            raise ConfigError(f"{key} must be a column of pairs/, got {column!r}; choose one of {known}")
    _make_demands(config, carried, carried, pa.chunked_array([], pa.string()), np.arange(0))
    read_stratum(carried, config.group_column)


def check_condition(config: CoresetConfig, pairs: pa.Schema, modalities: Sequence[str]) -> None:
    """Try the condition on no pair at all, before there are any.

    Args:
        config: `where` is looked at.
        pairs: what pairs/ is going to hold.
        modalities: by name.

    Raises:
        ConfigError: the condition does not fit the columns.
    """
    if config.where is not None:
        facts = [field for field in embedding_schema(modalities, 1) if not pa.types.is_fixed_size_list(field.type)]
        facts += witness_fields()
        match_rows(pa.schema([*facts, *list_carried(pairs, modalities)]).empty_table(), config.where)


def _check_left(config: CoresetConfig, num_free: int, num_pairs: int) -> None:
    if num_free == 0:
        where = "" if config.where is None else f"loosen where {config.where!r} or "
        raise GateError(
            f"none of {num_pairs} pairs may be picked after labelled, exclude and where; {where}shorten the lists"
        )
    config.count_picks(num_free)


def _make_demands(
    config: CoresetConfig,
    metadata: pa.Table | None,
    everything: pa.Table | None,
    ids: pa.ChunkedArray,
    labelled: Rows,
) -> Demands:
    """Read costs and groups of the pool; `everything` is the metadata of the pairs left out too."""
    costs = groups = None
    if metadata is not None and config.cost_column is not None:
        free = np.delete(np.arange(len(ids)), labelled)  # what is labelled is paid for, whatever its cost says
        costs = np.ones(len(ids))
        costs[free] = read_costs(config.cost_column, metadata[config.cost_column].take(free), ids.take(free))
    if metadata is not None and everything is not None and config.quotas.column is not None:
        column = config.quotas.column
        groups = group_rows(column, metadata[column], everything[column])
    return Demands(
        budget=config.budget,
        budget_fraction=config.budget_fraction,
        costs=costs,
        cost_budget=np.inf if config.cost_budget is None else config.cost_budget,
        divides_gain=config.cost_rule == "gain_per_cost",
        quotas=config.quotas,
        groups=groups,
    )


def _columns(table: pa.Table) -> dict[str, pa.ChunkedArray]:
    return {name: table[name] for name in table.column_names}
