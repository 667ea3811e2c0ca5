"""Finished artifacts of a made pool, for the stages that come after them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from mmcsal_core.artifacts import Artifact, Manifest, plan_ranges
from mmcsal_core.corpus.modality import ModalityConfig, resolve_modality
from mmcsal_core.neighbors import NeighborConfig
from mmcsal_core.neighbors.stored_suspicion import publish_suspicion
from mmcsal_core.neighbors.suspicion import measure_alignment
from mmcsal_core.neighbors.vectors import Rows, Vectors
from mmcsal_core.schema import (
    ALIGNMENT,
    OUT_OF_FOLD_FILE,
    PAIR_ID,
    ROW,
    SOURCE,
    SOURCE_ROW,
    bytes_column,
    embedding_column,
    embedding_schema,
    feature_column,
    feature_schema,
    out_of_fold_schema,
    prototype_column,
    uri_column,
)
from mmcsal_core.selection.selection_table import RunOrigin
from mmcsal_core.selection.stored_pool import PoolArtifacts
from mmcsal_core.storage import Store
from pipelines import coreset
from pipelines.coreset_config import CoresetConfig
from pipelines.coreset_demands import PairLists
from pipelines.neighbors import NeighborWorker, publish_indexes
from pipelines.stage_run import StageRun
from tests.core.pair_pools import ClusteredPool, make_clustered_pool

MODALITIES = ["image", "text"]
RESOLVED = {name: resolve_modality(name, ModalityConfig()) for name in MODALITIES}
ORIGIN = RunOrigin("run-1", 7, "e" * 64, "c" * 64)


@dataclass(frozen=True, eq=False)
class PairArtifacts:
    """The artifacts, and the pool behind them in the order of pair_id."""

    run: Store
    pairs: Artifact
    features: Artifact
    encoder: Artifact
    embeddings: Artifact
    pool: ClusteredPool
    ids: list[str]
    unseen: Vectors
    """Out-of-fold cosines."""

    def locate(self) -> PoolArtifacts:
        """Return what a selection reads."""
        indexes, neighbors = (Artifact(self.run, name, "neighbors") for name in ("indexes", "neighbors"))
        return PoolArtifacts(self.pairs, self.features, self.embeddings, indexes, neighbors)


def write_pair_artifacts(run: Store, num_pairs: int) -> PairArtifacts:
    """Write the artifacts of a run whose rows are not in the order of pair_id."""
    pool = make_clustered_pool(num_pairs)
    ids = [f"pair-{row:05d}" for row in range(num_pairs)]
    order = np.random.default_rng(9).permutation(num_pairs)
    pairs, features, embeddings = (Artifact(run, name, name) for name in ("pairs", "features", "embeddings"))
    publish(pairs, tabulate_pairs(ids, pool, order))
    publish(features, tabulate_features(ids, pool, order))
    publish(embeddings, tabulate_embeddings(ids, pool, order))
    encoder, unseen = Artifact(run, "encoder", "train"), make_unseen(pool)
    publish_out_of_fold(encoder, ids, unseen)
    return PairArtifacts(run, pairs, features, encoder, embeddings, pool, ids, unseen)


def make_unseen(pool: ClusteredPool) -> Vectors:
    """Return cosines that differ from those of the embeddings, (N,)."""
    cosines = measure_alignment(pool.embeddings)
    return (cosines - np.random.default_rng(4).uniform(0, 0.5, len(cosines))).astype(np.float32)


def publish_out_of_fold(
    encoder: Artifact, ids: Sequence[str], unseen: Vectors, properties: Mapping[str, Any] | None = None
) -> None:
    """Publish an encoder of which only the out-of-fold cosines are there, in the order of the ids."""
    table = pa.table([pa.array(ids), pa.array(unseen)], schema=out_of_fold_schema())
    plan = encoder.begin("f-encoder", list)
    files = [encoder.store.write_table(OUT_OF_FOLD_FILE, table)]
    encoder.finish(plan, files=files, num_pairs=len(ids), properties=properties)


def publish_neighbors(made: PairArtifacts, num_neighbors: int, rows_per_shard: int) -> PoolArtifacts:
    """Find and publish the pool's neighbours, and return what a selection reads."""
    inputs, num_pairs = made.locate(), len(made.ids)
    indexes, neighbors = inputs.indexes, inputs.neighbors
    publish_indexes(made.embeddings, made.features, indexes, NeighborConfig(), StageRun(neighbors, "f"))
    plan = neighbors.begin("f", lambda: plan_ranges(num_pairs, rows_per_shard))
    worker = NeighborWorker(
        embeddings=made.embeddings,
        indexes=indexes,
        out=neighbors,
        plan=plan,
        num_neighbors=num_neighbors,
        num_threads=1,
    )
    for shard in plan.shards:
        worker.run_shard(shard)
    files = [publish_suspicion(neighbors, plan, pa.chunked_array([made.ids]), made.encoder)]
    neighbors.finish(plan, files=files, properties={"pool": num_pairs, "num_neighbors": num_neighbors})
    return inputs


def rank_made(
    made: PairArtifacts, folder: Path, config: CoresetConfig, lists: PairLists | None = None
) -> tuple[Artifact, Manifest]:
    """Run the coreset stage and publish below a folder."""
    out = Artifact(Store(str(folder)), "selection", coreset.STAGE)
    manifest = coreset.rank_pairs(
        inputs=made.locate(),
        source_options={},
        modalities=RESOLVED,
        origin=ORIGIN,
        config=config,
        run=StageRun(out, "f"),
        lists=lists,
    )
    return out, manifest


def publish(artifact: Artifact, table: pa.Table) -> None:
    """Publish a table in shards of one chunk."""
    plan = artifact.begin("made", lambda: plan_ranges(table.num_rows, 1))
    for shard in plan.shards:
        artifact.commit_shard(plan, shard, table.slice(shard.start, shard.stop - shard.start))
    artifact.finish(plan)


def tabulate_pairs(ids: list[str], pool: ClusteredPool, order: Rows) -> pa.Table:
    """Make pairs with images stored as bytes, inline text, and metadata."""
    names = [ids[row] for row in order]
    license_field = pa.field("license", pa.dictionary(pa.int32(), pa.string()), metadata={"comment": "of the drawing"})
    columns = {
        pa.field(PAIR_ID, pa.string()): names,
        pa.field(SOURCE, pa.string()): ["corpus.parquet"] * len(names),
        pa.field(SOURCE_ROW, pa.int64()): list(range(len(names))),
        pa.field(uri_column("image"), pa.string()): [f"file:///{name}.png" for name in names],
        pa.field(bytes_column("image"), pa.large_binary()): [name.encode() for name in names],
        pa.field("text", pa.string()): [f"a picture of {name}" for name in names],
        pa.field("category", pa.int64()): pool.clusters[order].tolist(),
        license_field: ["CC-0"] * len(names),
    }
    arrays = [pa.array(values, field.type) for field, values in columns.items()]
    return pa.Table.from_arrays(arrays, schema=pa.schema(list(columns)))


def tabulate_features(ids: list[str], pool: ClusteredPool, order: Rows) -> pa.Table:
    """Make backbone features."""
    columns = {ROW: pa.array(np.arange(len(order))), PAIR_ID: pa.array([ids[row] for row in order])}
    columns |= {feature_column(name): to_vectors(x[order]) for name, x in pool.features.items()}
    return pa.table(columns, schema=feature_schema({name: x.shape[1] for name, x in pool.features.items()}))


def tabulate_embeddings(ids: list[str], pool: ClusteredPool, order: Rows) -> pa.Table:
    """Make embeddings, whose prototypes are the true clusters."""
    image, text = pool.embeddings["image"][order], pool.embeddings["text"][order]
    columns = {
        PAIR_ID: pa.array([ids[row] for row in order]),
        embedding_column("image"): to_vectors(image),
        embedding_column("text"): to_vectors(text),
        prototype_column("image"): pa.array(pool.clusters[order].astype(np.int32)),
        prototype_column("text"): pa.array(pool.clusters[order].astype(np.int32)),
        ALIGNMENT: pa.array((image * text).sum(axis=1)),
    }
    return pa.table(columns, schema=embedding_schema(MODALITIES, image.shape[1]))


def to_vectors(matrix: Vectors) -> pa.FixedSizeListArray:
    """Return the rows of a matrix as a column."""
    return pa.FixedSizeListArray.from_arrays(pa.array(matrix.ravel()), matrix.shape[1])
