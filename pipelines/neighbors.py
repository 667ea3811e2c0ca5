"""The neighbors stage: embeddings/, features/ and encoder/ in, indexes/ and neighbors/ out.

A space is a set of unit vectors, one a pair: every modality's embeddings, and every backbone's features reduced to
their principal components. Indexes are built first, in the driver, over rows sorted by pair_id, and published with the
reduced features as an artifact of their own. Then actors search them shard by shard: from every modality into every
modality, and in each backbone's own space. Queries are searched in chunks of `CHUNK_ROWS` sorted rows, so an edge does
not depend on how chunks make up shards. What its edges say of a pair's halves lies beside each shard until the driver
ranks all pairs by it, in `suspicion.parquet`. One index over the whole pool was chosen over one a shard, whose lists
would have to be merged; every actor therefore holds all vectors in memory.
"""

from collections.abc import Sequence

import faiss
import numpy as np
import pyarrow as pa

from mmcsal_core.artifacts import CHUNK_ROWS, Artifact, Manifest, Plan, ShardRange, plan_ranges
from mmcsal_core.neighbors.backbone_space import reduce_features
from mmcsal_core.neighbors.config import NeighborConfig
from mmcsal_core.neighbors.index import (
    NO_NEIGHBOR,
    build_index,
    choose_index_key,
    decode_index,
    encode_index,
    search_index,
)
from mmcsal_core.neighbors.sorted_tables import read_schema, read_sorted
from mmcsal_core.neighbors.stored_spaces import read_backbone_spaces, read_features, tabulate_backbone_space
from mmcsal_core.neighbors.stored_suspicion import join_witnesses, publish_suspicion, write_witnesses
from mmcsal_core.neighbors.suspicion import Witnesses, measure_witnesses
from mmcsal_core.neighbors.vectors import Rows, Vectors
from mmcsal_core.schema import PAIR_ID, backbone_space, embedding_column, neighbor_schema, relation_name
from mmcsal_core.vector_columns import stack_vectors
from pipelines.shard_runs import run_shards
from pipelines.stage_names import NEIGHBORS
from pipelines.stage_run import StageProgress, StageRun

STAGE = NEIGHBORS

INDEX_IDS = "pair_ids.parquet"
"""The pair id of each row of every index."""

INDEX_SUFFIX = ".faiss"


class NeighborWorker:
    """Searches the published indexes for the neighbours of a shard's pairs.

    Args:
        embeddings: finished.
        indexes: finished, made from `embeddings`.
        out: where to publish edges.
        plan: of `out`.
        num_neighbors: neighbours wanted for each pair and relation.
        num_threads: threads of one search.
    """

    def __init__(
        self,
        *,
        embeddings: Artifact,
        indexes: Artifact,
        out: Artifact,
        plan: Plan,
        num_neighbors: int,
        num_threads: int,
    ) -> None:
        faiss.omp_set_num_threads(num_threads)
        modalities = list_modalities(read_schema(embeddings))
        table = read_sorted(embeddings, [embedding_column(name) for name in modalities])
        self._embeddings = {name: stack_vectors(table, embedding_column(name)) for name in modalities}
        self._vectors = dict(self._embeddings)
        self._vectors |= {backbone_space(name): x for name, x in read_backbone_spaces(indexes).items()}
        self._indexes = {name: decode_index(indexes.store.read_bytes(name_index(name))) for name in self._vectors}
        self._ids = indexes.store.read_table(INDEX_IDS)[PAIR_ID].combine_chunks()
        self._relations = list_relations(modalities, list(self._vectors))
        self._out, self._plan, self._num_neighbors = out, plan, num_neighbors

    def run_shard(self, shard: ShardRange) -> None:
        """Find and publish the edges of a range of sorted pairs, and what they say of each pair."""
        starts = range(shard.start, shard.stop, CHUNK_ROWS)
        chunks = [self._search_chunk(start, min(start + CHUNK_ROWS, shard.stop)) for start in starts]
        write_witnesses(self._out, self._plan, shard, join_witnesses([witnesses for _, witnesses in chunks]))
        edges = pa.concat_tables([table for table, _ in chunks])
        self._out.commit_shard(self._plan, shard, edges, pairs_out=shard.stop - shard.start)

    def _search_chunk(self, start: int, stop: int) -> tuple[pa.Table, Witnesses]:
        own_rows = np.arange(start, stop, dtype=np.int64)
        tables, neighbors = [], {}
        for query, target in self._relations:
            found = search_index(self._indexes[target], self._vectors[query][start:stop], own_rows, self._num_neighbors)
            name = relation_name(query, target)
            neighbors[name] = found[0]
            tables.append(tabulate_edges(self._ids, own_rows, name, found))
        return pa.concat_tables(tables), measure_witnesses(self._embeddings, neighbors, start)


def list_relations(modalities: Sequence[str], spaces: Sequence[str]) -> list[tuple[str, str]]:
    """Return the spaces that are searched from and into: modalities with each other, other spaces in themselves."""
    own = [(space, space) for space in spaces if space not in modalities]
    return [*((query, target) for query in modalities for target in modalities), *own]


def tabulate_edges(ids: pa.Array, own_rows: Rows, relation: str, found: tuple[Rows, Vectors]) -> pa.Table:
    """Return edges under `schema.neighbor_schema`, by query and rank; neighbours that were not found are left out.

    Args:
        ids: (N,) pair ids by row.
        own_rows: (Q,) the queries' rows.
        relation: name of the relation.
        found: rows (Q, K) and similarities (Q, K), as `search_index` returns them.
    """
    rows, similarities = found
    is_found = rows.ravel() != NO_NEIGHBOR
    ranks = np.tile(np.arange(rows.shape[1], dtype=np.int32), len(rows))[is_found]
    columns = [
        ids.take(pa.array(np.repeat(own_rows, rows.shape[1])[is_found])),
        pa.array([relation], pa.string()).take(pa.array(np.zeros(len(ranks), dtype=np.int64))),
        pa.array(ranks),
        ids.take(pa.array(rows.ravel()[is_found])),
        pa.array(similarities.ravel()[is_found]),
    ]
    return pa.Table.from_arrays(columns, schema=neighbor_schema())


def name_index(space: str) -> str:
    """Return the file name of a space's index."""
    return f"{space}{INDEX_SUFFIX}"


def list_modalities(schema: pa.Schema) -> list[str]:
    """Return the modalities that an embedding schema speaks of, in its order."""
    suffix = embedding_column("")
    return [name.removesuffix(suffix) for name in schema.names if name.endswith(suffix)]


def find_neighbors(
    *,
    embeddings: Artifact,
    features: Artifact,
    encoder: Artifact,
    indexes: Artifact,
    config: NeighborConfig,
    run: StageRun,
) -> Manifest:
    """Index every space, publish each pair's nearest neighbours in every relation, and rank pairs by suspicion.

    Args:
        embeddings: finished.
        features: finished, of the same pairs.
        encoder: finished, what made the embeddings; its out-of-fold cosines bear witness where there are some.
        indexes: published first, under the same fingerprint.
        config: kind of index, number of neighbours, size of the backbones' spaces.
        run: where to publish neighbors/, on what machines.
    """
    if not indexes.is_complete(run.fingerprint):
        publish_indexes(embeddings, features, indexes, config, run)
    num_pairs = int(indexes.read_manifest().properties["pool"])
    plan = run.begin(lambda: plan_ranges(num_pairs, run.resources.rows_per_shard))
    arguments = {
        "embeddings": embeddings,
        "indexes": indexes,
        "out": run.out,
        "plan": plan,
        "num_neighbors": config.num_neighbors,
        "num_threads": run.resources.num_threads,
    }
    run_shards(
        run.out.missing_shards(plan), NeighborWorker, arguments, run, num_rows=plan.shards[-1].stop, is_light=True
    )
    files = [publish_suspicion(run.out, plan, indexes.store.read_table(INDEX_IDS)[PAIR_ID], encoder)]
    properties = {"pool": num_pairs, "num_neighbors": min(config.num_neighbors, num_pairs - 1)}
    return run.finish(plan, files=files, properties=properties)


def publish_indexes(
    embeddings: Artifact, features: Artifact, indexes: Artifact, config: NeighborConfig, run: StageRun
) -> Manifest:
    """Build and publish one index a space over rows sorted by pair_id, the ids of those rows, and reduced features.

    One modality's features are held at a time.
    """
    run.check_lock()
    plan = indexes.begin(run.fingerprint, lambda: [])
    modalities = list_modalities(read_schema(embeddings))
    table = read_sorted(embeddings, [embedding_column(name) for name in modalities])
    files = [indexes.store.write_table(INDEX_IDS, table.select([PAIR_ID]))]
    num_spaces = len(modalities) * (2 if config.backbone_dims else 1)

    def publish(space: str, vectors: Vectors) -> None:
        data = encode_index(build_index(vectors, config))
        run.check_lock()
        files.append(indexes.store.write_bytes(name_index(space), data))
        done = sum(file.name.endswith(INDEX_SUFFIX) for file in files)
        run.on_progress(StageProgress(run.out.stage, done, num_spaces, "indexes", space))

    for name in modalities:
        publish(name, stack_vectors(table, embedding_column(name)))
    for name in modalities if config.backbone_dims else ():
        vectors = reduce_features(read_features(features, table[PAIR_ID], [name])[name], config.backbone_dims)
        publish(backbone_space(name), vectors)
        files.append(indexes.store.write_table(*tabulate_backbone_space(name, vectors)))
    properties = {
        "pool": table.num_rows,
        "index_key": choose_index_key(table.num_rows, config),
        "backbone_spaces": modalities if config.backbone_dims else [],
    }
    run.check_lock()
    return indexes.finish(plan, files=files, num_pairs=table.num_rows, properties=properties)
