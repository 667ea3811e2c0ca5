"""The backbones' own spaces as they are stored: features/ in, reduced features beside the indexes out, and back."""

from collections.abc import Sequence

import pyarrow as pa

from mmcsal_core.artifacts import Artifact
from mmcsal_core.neighbors.sorted_tables import locate_ids
from mmcsal_core.neighbors.vectors import Vectors
from mmcsal_core.schema import PAIR_ID, backbone_space, describe_field, feature_column, vector_type
from mmcsal_core.vector_columns import list_vectors, stack_vectors


def read_features(features: Artifact, ids: pa.ChunkedArray, modalities: Sequence[str]) -> dict[str, Vectors]:
    """Read the backbone features of given pairs.

    Args:
        features: finished.
        ids: (N,) pair ids.
        modalities: which to read.

    Returns:
        (N, dim_m) float32 by modality, in the order of `ids`.

    Raises:
        ArtifactError: a pair has no features.
    """
    table = features.read_table([PAIR_ID, *map(feature_column, modalities)])
    table = table.take(pa.array(locate_ids(ids, table[PAIR_ID], features))).combine_chunks()
    return {name: stack_vectors(table, feature_column(name)) for name in modalities}


def tabulate_backbone_space(modality: str, vectors: Vectors) -> tuple[str, pa.Table]:
    """Return the file name and the table of a backbone's space, (N, dim) in the order of pair_id."""
    space = backbone_space(modality)
    comment = f"{modality} features: standardised, principal components, unit length; rows are those of the indexes"
    field = describe_field(space, vector_type(vectors.shape[1]), comment, nullable=False)
    return _name_file(modality), pa.Table.from_arrays([list_vectors(vectors)], schema=pa.schema([field]))


def read_backbone_spaces(indexes: Artifact) -> dict[str, Vectors]:
    """Read the backbones' spaces that lie beside the indexes.

    Returns:
        (N, dim_m) float32 of unit length by modality, in the order of pair_id; empty where there are none.
    """
    modalities = indexes.read_manifest().properties["backbone_spaces"]
    tables = {name: indexes.store.read_table(_name_file(name)) for name in modalities}
    return {name: stack_vectors(table, backbone_space(name)) for name, table in tables.items()}


def _name_file(modality: str) -> str:
    return f"{backbone_space(modality)}.parquet"
