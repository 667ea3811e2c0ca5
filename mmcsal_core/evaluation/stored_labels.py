"""Read pairs with their labels from the artifacts of a run, in the order of pair_id. Nothing else reads labels."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from mmcsal_core.artifacts import Artifact
from mmcsal_core.errors import ConfigError, DataError, GateError
from mmcsal_core.evaluation.config import EvaluateConfig
from mmcsal_core.evaluation.labelled_pool import NO_LABEL, LabelledPool, encode_labels
from mmcsal_core.neighbors.sorted_tables import locate_ids, read_schema, read_sorted
from mmcsal_core.neighbors.stored_spaces import read_backbone_spaces, read_features
from mmcsal_core.neighbors.stored_suspicion import read_suspicion
from mmcsal_core.neighbors.vectors import Rows
from mmcsal_core.schema import PAIR_ID, SUSPICION, embedding_column
from mmcsal_core.selection.selection_table import list_carried
from mmcsal_core.selection.stored_pool import PoolArtifacts
from mmcsal_core.vector_columns import stack_vectors


@dataclass(frozen=True, eq=False)
class StoredLabels:
    """The pairs of a run with their labels, and the name of each class by its code."""

    pool: LabelledPool
    classes: tuple[str, ...]


def read_labelled_pool(inputs: PoolArtifacts, modalities: Sequence[str], config: EvaluateConfig) -> StoredLabels:
    """Read all embedded pairs: vectors, suspicion, labels and, where it is configured, which are mispaired.

    Raises:
        ConfigError: a column is not there or not of a type that serves.
        GateError: there is no label.
        DataError: it is not known of every pair whether it is mispaired.
        ArtifactError: an artifact is missing or lacks a pair that another one has.
    """
    check_label_columns(config, read_schema(inputs.pairs), modalities)
    table = read_sorted(inputs.embeddings, [embedding_column(name) for name in modalities])
    ids = table[PAIR_ID]
    labels, classes = _read_labels(inputs.pairs, ids, config)
    pool = LabelledPool(
        embeddings={name: stack_vectors(table, embedding_column(name)) for name in modalities},
        features=read_features(inputs.features, ids, modalities),
        labels=labels,
        mispaired=_read_mispaired(inputs.pairs, ids, config.mispaired_column),
        suspicion=read_suspicion(inputs.neighbors, ids)[SUSPICION].to_numpy(),
        spaces=read_backbone_spaces(inputs.indexes),
    )
    return StoredLabels(pool, classes)


def check_label_columns(config: EvaluateConfig, pairs: pa.Schema, modalities: Sequence[str]) -> None:
    """Make sure, on no pair at all, that the columns are there and hold what they are named for.

    Args:
        config: `label_column` and `mispaired_column` are looked at.
        pairs: what pairs/ holds, or is going to hold.
        modalities: by name.

    Raises:
        ConfigError: a column is not there, has no text form, or is not of booleans.
    """
    carried = pa.schema(list_carried(pairs, modalities))
    named = {"label_column": config.label_column, "mispaired_column": config.mispaired_column}
    for key, column in named.items():
        if column is not None and column not in carried.names:
            raise ConfigError(
                f"evaluate.{key} must be a column of pairs/, got {column!r}; choose one of "
                f"{', '.join(carried.names) or 'none'}"
            )
    if config.label_column is not None:
        _spell_labels(pa.chunked_array([], carried.field(config.label_column).type), config.label_column)
    if config.mispaired_column is not None and not pa.types.is_boolean(carried.field(config.mispaired_column).type):
        kind = carried.field(config.mispaired_column).type
        raise ConfigError(
            f"evaluate.mispaired_column must hold booleans, {config.mispaired_column!r} holds {kind}; choose another"
        )


def _read_labels(pairs: Artifact, ids: pa.ChunkedArray, config: EvaluateConfig) -> tuple[Rows, tuple[str, ...]]:
    column = config.label_column
    if column is None:
        raise ConfigError("an evaluation needs labels, got no label_column; set evaluate.label_column")
    labels, classes = encode_labels(_spell_labels(_read_column(pairs, ids, column), column).to_pylist())
    if (labels == NO_LABEL).all():
        raise GateError(f"a label_column must hold labels, {column!r} is null in all {len(ids)} pairs; name another")
    return labels, classes


def _spell_labels(values: pa.ChunkedArray, column: str) -> pa.ChunkedArray:
    try:
        return pc.cast(values, pa.string())
    except pa.ArrowException as error:
        raise ConfigError(
            f"evaluate.label_column must hold text, numbers, booleans or dates, {column!r} holds {values.type}; "
            "choose another"
        ) from error


def _read_mispaired(pairs: Artifact, ids: pa.ChunkedArray, column: str | None) -> npt.NDArray[np.bool_] | None:
    if column is None:
        return None
    values = _read_column(pairs, ids, column)
    if values.null_count:
        raise DataError(
            f"evaluate.mispaired_column must be true or false in every pair, {column!r} is null in {values.null_count} "
            f"of {len(values)}; fill it in, or leave the key out"
        )
    return np.asarray(values.to_numpy(), dtype=np.bool_)


def _read_column(pairs: Artifact, ids: pa.ChunkedArray, column: str) -> pa.ChunkedArray:
    table = pairs.read_table([PAIR_ID, column])
    return table[column].take(pa.array(locate_ids(ids, table[PAIR_ID], pairs)))
