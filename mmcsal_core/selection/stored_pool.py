"""Read a pool from the artifacts of a run, in the order of pair_id, using the stored neighbours again."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mmcsal_core.artifacts import Artifact
from mmcsal_core.errors import ArtifactError
from mmcsal_core.neighbors.index import NO_NEIGHBOR
from mmcsal_core.neighbors.sorted_tables import locate_ids, read_sorted
from mmcsal_core.neighbors.stored_spaces import read_backbone_spaces
from mmcsal_core.neighbors.stored_suspicion import read_suspicion
from mmcsal_core.neighbors.vectors import Rows
from mmcsal_core.schema import (
    ALIGNMENT,
    NEIGHBOR_ID,
    NEIGHBOR_RANK,
    PAIR_ID,
    RELATION,
    SUSPICION,
    embedding_column,
    prototype_column,
    witness_fields,
)
from mmcsal_core.selection.config import SelectionConfig
from mmcsal_core.selection.pool import Pool, make_pool
from mmcsal_core.selection.space import FEATURES
from mmcsal_core.vector_columns import stack_vectors

MIN_BATCH_EDGES = 1_000_000
"""Stored edges whose ids are looked up together, at least, where there are so many."""


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
        facts: pair_id, alignment, prototype numbers and `schema.witness_fields`, one row a pair, in the same order.
    """

    pool: Pool
    facts: pa.Table

    def restrict(self, rows: Rows) -> "StoredPool":
        """Return some of the pairs.

        Stored edges to pairs outside are dropped. Where fewer than half of the edges remain on average, none is used,
        and the strategy searches again among these pairs.

        Args:
            rows: (n,) distinct, rising.
        """
        pool = self.pool

        def take(matrices: Mapping[str, npt.NDArray[np.floating]]) -> dict[str, npt.NDArray[np.floating]]:
            return {name: x[rows] for name, x in matrices.items()}

        kept = replace(
            pool,
            embeddings=take(pool.embeddings),
            features=take(pool.features),
            neighbors=None if pool.neighbors is None else restrict_neighbors(pool.neighbors, rows),
            spaces=None if pool.spaces is None else take(pool.spaces),
            suspicion=None if pool.suspicion is None else pool.suspicion[rows],
        )
        return StoredPool(kept, self.facts.take(pa.array(rows)))


def read_pool(inputs: PoolArtifacts, modalities: Sequence[str], config: SelectionConfig) -> StoredPool:
    """Read what the configured strategy needs: embeddings always, for `mmcsal` backbones' spaces and neighbours too.

    The backbones' spaces are read as well where the configured space is made of them.

    Raises:
        ArtifactError: an artifact is missing or lacks a pair that another one has.
        DataError: a vector is NaN, infinite or zero.
    """
    vectors = [embedding_column(name) for name in modalities]
    table = read_sorted(inputs.embeddings, [ALIGNMENT, *map(prototype_column, modalities), *vectors])
    embeddings = {name: stack_vectors(table, embedding_column(name)) for name in modalities}
    facts, ids = table.drop_columns(vectors), table[PAIR_ID]
    told = read_suspicion(inputs.neighbors, ids)
    for field in witness_fields():
        facts = facts.append_column(field, told[field.name])
    is_kernel = config.strategy == "mmcsal"
    needs_spaces = config.space == FEATURES or (is_kernel and config.kernel.backbone_weight > 0)
    spaces = read_backbone_spaces(inputs.indexes) if needs_spaces else {}
    if not is_kernel:
        return StoredPool(make_pool(embeddings, spaces=spaces, weights=config.modality_weights), facts)
    neighbors = read_neighbors(inputs.neighbors, ids)
    suspicion = told[SUSPICION].to_numpy()
    return StoredPool(make_pool(embeddings, {}, neighbors, spaces, config.modality_weights, suspicion), facts)


def restrict_neighbors(neighbors: Mapping[str, Rows], rows: Rows) -> dict[str, Rows] | None:
    """Return the edges among some rows, by their new numbers; None where it is better to search again.

    That is where fewer than half of the edges remain, and where the rows are so few that all could be neighbours.

    Args:
        neighbors: (N, K) rows by relation name, `NO_NEIGHBOR` where there is none.
        rows: (n,) distinct, rising.

    Returns:
        (n, K) by relation name, `NO_NEIGHBOR` in the place of what was dropped.
    """
    lists: dict[str, Rows] = {}
    if len(rows) - 1 <= max((found.shape[1] for found in neighbors.values()), default=0):
        return None
    num_before = num_after = 0
    for name, found in neighbors.items():
        numbers = np.full(len(found) + 1, NO_NEIGHBOR, dtype=np.int64)  # the last stands for NO_NEIGHBOR
        numbers[rows] = np.arange(len(rows))
        before = found[rows]
        lists[name] = numbers[before]
        num_before += int(np.count_nonzero(before != NO_NEIGHBOR))
        num_after += int(np.count_nonzero(lists[name] != NO_NEIGHBOR))
    return lists if 2 * num_after >= num_before else None


def _join_tables(tables: Iterable[pa.Table], min_rows: int) -> Iterator[pa.Table]:
    """Join tables until they have `min_rows` rows, so that ids are looked up in few large steps: each costs a pool."""
    waiting: list[pa.Table] = []
    for table in tables:
        waiting.append(table)
        if sum(part.num_rows for part in waiting) >= min_rows:
            yield pa.concat_tables(waiting)
            waiting = []
    if waiting:
        yield pa.concat_tables(waiting)


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
    tables = neighbors.iter_tables([PAIR_ID, RELATION, NEIGHBOR_RANK, NEIGHBOR_ID])
    return collect_edges(_join_tables(tables, max(len(ids), MIN_BATCH_EDGES)), ids, neighbors)


def collect_edges(tables: Iterable[pa.Table], ids: pa.ChunkedArray, neighbors: Artifact) -> dict[str, Rows]:
    """Put edges into lists, which are held once beside the table at hand; arguments and errors as in `read_neighbors`.

    Args:
        tables: columns of neighbors/.
        ids: (N,) pair ids by row.
        neighbors: where the tables are from.
    """
    num_neighbors = neighbors.read_manifest().properties["num_neighbors"]
    lists: dict[str, Rows] = {}
    for table in tables:
        rows, found = (locate_ids(table[name], ids, neighbors) for name in (PAIR_ID, NEIGHBOR_ID))
        ranks = table[NEIGHBOR_RANK].to_numpy()
        relations = table[RELATION].combine_chunks().dictionary_encode()
        codes = relations.indices.to_numpy()
        for code, relation in enumerate(relations.dictionary.to_pylist()):
            if relation not in lists:
                lists[relation] = np.full((len(ids), num_neighbors), NO_NEIGHBOR, dtype=np.int64)
            chosen = codes == code
            lists[relation][rows[chosen], ranks[chosen]] = found[chosen]
    return lists
