"""Write a coreset down as the table that a data team reads, under `schema.selection_schema`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmcsal_core.artifacts import Artifact
from mmcsal_core.errors import ConfigError, DataError
from mmcsal_core.neighbors.sorted_tables import locate_ids, read_schema
from mmcsal_core.schema import (
    CONTENT_KEY,
    COST_COLUMN,
    NEAR_DUPLICATE_COUNT,
    PAIR_ID,
    SCHEMA_VERSION,
    SOURCE_ROW,
    bytes_column,
    prototype_column,
    selection_schema,
)
from mmcsal_core.selection.cells import NO_EARLIER, find_nearest_earlier
from mmcsal_core.selection.coreset import Coreset
from mmcsal_core.selection.stored_pool import StoredPool
from mmcsal_core.version import __version__


@dataclass(frozen=True)
class RunOrigin:
    """What a selection says of the run that made it; no timestamps, so that equal runs give equal bytes."""

    run_id: str
    seed: int
    encoder_sha256: str
    config_sha256: str
    cost_column: str | None = None
    """The column that gains were divided by before they were compared, if any."""

    def describe(self) -> dict[str, str]:
        """Return the schema metadata."""
        divided = {} if self.cost_column is None else {COST_COLUMN: self.cost_column}
        return divided | {
            "run_id": self.run_id,
            "seed": str(self.seed),
            "encoder_sha256": self.encoder_sha256,
            "config_sha256": self.config_sha256,
            "code_version": __version__,
            "schema_version": SCHEMA_VERSION,
        }


def list_carried(pairs: pa.Schema, modalities: Sequence[str]) -> list[pa.Field]:
    """Return the columns that a selection carries over from pairs/: all but ids, keys and stored bytes."""
    left_behind = {PAIR_ID, SOURCE_ROW, CONTENT_KEY, *map(bytes_column, modalities)}
    return [field for field in pairs if field.name not in left_behind]


def read_carried(pairs: Artifact, ids: pa.ChunkedArray, modalities: Sequence[str]) -> pa.Table:
    """Read what a selection carries over from pairs/: references, inline text and metadata, unchanged.

    Args:
        pairs: finished.
        ids: pair ids, e.g. those of the picks.
        modalities: whose stored bytes are left behind.

    Returns:
        One row an id, in the order of `ids`, without pair_id.

    Raises:
        ArtifactError: an id is not in pairs/.
        DataError: a metadata column is named like a column of the selection.
    """
    carried = [field.name for field in list_carried(read_schema(pairs), modalities)]
    taken = set(selection_schema(modalities, []).names) & set(carried)
    if taken:
        raise DataError(
            f"a metadata column may not be named like a column of the selection, got {', '.join(sorted(taken))}; "
            "rename the column in the source"
        )
    table = pairs.read_table([PAIR_ID, *carried])
    return table.take(pa.array(locate_ids(ids, table[PAIR_ID], pairs))).drop_columns([PAIR_ID]).combine_chunks()


def tabulate_selection(
    stored: StoredPool, coreset: Coreset, carried: pa.Table, stratum_column: str | None, origin: RunOrigin
) -> pa.Table:
    """Return the selection sorted by rank. Each row speaks of itself and of earlier picks, so any prefix is right.

    Args:
        stored: the pool.
        coreset: B picks of it.
        carried: B rows from `read_carried`.
        stratum_column: column of `carried` that names a pair's group, if any.
        origin: the run.

    Raises:
        ConfigError: there is no such stratum column, or it has no text form.
    """
    facts = stored.facts.take(pa.array(coreset.indices))
    columns = {
        NEAR_DUPLICATE_COUNT: pa.nulls(len(coreset.indices), pa.int64()),
        **_describe_ranking(coreset),
        **_find_nearest_selected(stored, coreset, facts[PAIR_ID]),
        **{name: facts[name] for name in facts.column_names},
        **{name: carried[name] for name in carried.column_names},
        "stratum": read_stratum(carried, stratum_column),
        "run_id": pa.array([origin.run_id] * len(coreset.indices)),
    }
    prefix = prototype_column("")
    modalities = [name.removeprefix(prefix) for name in facts.column_names if name.startswith(prefix)]
    schema = selection_schema(modalities, list(carried.schema)).with_metadata(origin.describe())
    return pa.Table.from_arrays([columns[name] for name in schema.names], schema=schema)


def _describe_ranking(coreset: Coreset) -> Mapping[str, pa.Array]:
    return {
        "rank": pa.array(np.arange(len(coreset.indices), dtype=np.int32)),
        "phase": pa.array(coreset.phases, pa.string()),
        "gain": pa.array(coreset.gains.astype(np.float32)),
        "coverage_term": pa.array(coreset.coverage_terms.astype(np.float32)),
        "diversity_term": pa.array(coreset.diversity_terms.astype(np.float32)),
        "alignment_term": pa.array(coreset.alignment_terms.astype(np.float32)),
        "cluster_weight": pa.array(coreset.weights),
    }


def _find_nearest_selected(stored: StoredPool, coreset: Coreset, ids: pa.ChunkedArray) -> Mapping[str, pa.Array]:
    ranks, distances = find_nearest_earlier(stored.pool.joint, coreset.indices)
    has_none = ranks == NO_EARLIER
    return {
        "nearest_selected_id": ids.take(pa.array(ranks, mask=has_none)),
        "nearest_selected_distance": pa.array(distances.astype(np.float32), mask=has_none),
    }


def read_stratum(carried: pa.Table, stratum_column: str | None) -> pa.Array | pa.ChunkedArray:
    """Return the text of a metadata column, NULL throughout where none is asked for.

    Raises:
        ConfigError: there is no such column, or it has no text form, e.g. lists.
    """
    if stratum_column is None:
        return pa.nulls(carried.num_rows, pa.string())
    if stratum_column not in carried.column_names:
        raise ConfigError(
            f"stratum_column must be a column of pairs/, got {stratum_column!r}; "
            f"choose one of {', '.join(carried.column_names)}"
        )
    try:
        return pc.cast(carried[stratum_column], pa.string())
    except pa.ArrowException as error:
        raise ConfigError(
            f"stratum_column must hold numbers, booleans, dates or text, {stratum_column!r} holds "
            f"{carried[stratum_column].type}; choose another"
        ) from error
