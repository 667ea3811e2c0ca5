"""Read a pool from the artifacts of a run, in the order of pair_id, using the stored neighbours again."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from mmcsal_core.artifacts import Artifact
from mmcsal_core.errors import ArtifactError
from mmcsal_core.neighbors.index import NO_NEIGHBOR
from mmcsal_core.neighbors.sorted_tables import locate_ids, read_sorted
from mmcsal_core.neighbors.stored_spaces import read_backbone_spaces
from mmcsal_core.neighbors.vectors import Rows
from mmcsal_core.schema import (
    ALIGNMENT,
    NEIGHBOR_ID,
    NEIGHBOR_RANK,
    PAIR_ID,
    RELATION,
    embedding_column,
    prototype_column,
)
from mmcsal_core.selection.config import SelectionConfig
from mmcsal_core.selection.pool import Pool, make_pool
from mmcsal_core.vector_columns import stack_vectors


@dataclass(frozen=True)
class PoolArtifacts:
    """The finished artifacts that a selection is made from."""

    pairs: Artifact
    features: Artifact
    embeddings: Artifact
    indexes: Artifact
    neighbors: Artifact


@dataclass(frozen=True, eq=False)
class StoredPool:
    """A pool, and what its artifacts say of each pair.

    Args:
        pool: N pairs in the order of pair_id.
        facts: pair_id, alignment and prototype numbers, one row a pair, in the same order.
    """

    pool: Pool
    facts: pa.Table


def read_pool(inputs: PoolArtifacts, modalities: Sequence[str], config: SelectionConfig) -> StoredPool:
    """Read what the configured strategy needs: all the embeddings, `mmcsal` the backbones' spaces and neighbours too.

    Raises:
        ArtifactError: an artifact is missing or lacks a pair that another one has.
        DataError: a vector is NaN, infinite or zero.
    """
    vectors = [embedding_column(name) for name in modalities]
    table = read_sorted(inputs.embeddings, [ALIGNMENT, *map(prototype_column, modalities), *vectors])
    embeddings = {name: stack_vectors(table, embedding_column(name)) for name in modalities}
    facts, ids = table.drop_columns(vectors), table[PAIR_ID]
    if config.strategy != "mmcsal":
        return StoredPool(make_pool(embeddings), facts)
    spaces = read_backbone_spaces(inputs.indexes) if config.kernel.backbone_weight > 0 else {}
    return StoredPool(make_pool(embeddings, {}, read_neighbors(inputs.neighbors, ids), spaces), facts)


def read_neighbors(neighbors: Artifact, ids: pa.ChunkedArray) -> dict[str, Rows]:
    """Read stored edges as lists of rows.

    Args:
        neighbors: finished.
        ids: (N,) pair ids by row.

    Returns:
        (N, K) int64 by relation name, `NO_NEIGHBOR` where a list is shorter.

    Raises:
        ArtifactError: the edges are of other pairs.
    """
    properties = neighbors.read_manifest().properties
    if properties["pool"] != len(ids):
        raise ArtifactError(
            f"{neighbors.store.url} must be of the same pool as the embeddings, but has {properties['pool']} pairs, "
            f"not {len(ids)}; run the stage '{neighbors.stage}' again"
        )
    lists: dict[str, Rows] = {}
    for table in neighbors.iter_tables([PAIR_ID, RELATION, NEIGHBOR_RANK, NEIGHBOR_ID]):
        rows, found = (locate_ids(table[name], ids, neighbors) for name in (PAIR_ID, NEIGHBOR_ID))
        ranks = table[NEIGHBOR_RANK].to_numpy()
        relations = table[RELATION].combine_chunks().dictionary_encode()
        codes = relations.indices.to_numpy()
        for code, relation in enumerate(relations.dictionary.to_pylist()):
            empty = np.full((len(ids), properties["num_neighbors"]), NO_NEIGHBOR, dtype=np.int64)
            chosen = codes == code
            lists.setdefault(relation, empty)[rows[chosen], ranks[chosen]] = found[chosen]
    return lists
