"""The embed stage: features/ and encoder/ in, embeddings/ out: unit vectors, prototype numbers, alignment.

One shard of features becomes one shard of embeddings. The rows of one chunk of pairs/ (`row // CHUNK_ROWS`) are one
batch, whatever the shard that holds them and however many of the chunk were rejected on the way: a shard holds whole
chunks, so equal pairs get equal bits under any number of shards. Cutting batches by position in the shard was not
chosen: rejected pairs would shift them.
"""

from collections.abc import Iterator
from itertools import combinations, pairwise

import faiss
import numpy as np
import pyarrow as pa
import torch

from mmcsal_core.artifacts import CHUNK_ROWS, Artifact, Manifest, Plan, ShardRange
from mmcsal_core.encoder.checkpoint import CARD_FILE, WEIGHTS_FILE, load_encoder
from mmcsal_core.encoder.model import Encoder
from mmcsal_core.errors import ConfigError
from mmcsal_core.schema import PAIR_ID, ROW, embedding_schema, feature_column, hidden_column
from mmcsal_core.storage import Store
from mmcsal_core.vector_columns import list_vectors, stack_vectors
from pipelines.devices import choose_device, settle_arithmetic
from pipelines.shard_runs import run_shards
from pipelines.stage_names import EMBED
from pipelines.stage_run import Resources, StageRun

STAGE = EMBED


def embed_pairs(*, features: Artifact, encoder: Artifact, run: StageRun) -> Manifest:
    """Publish unit vectors, prototype numbers and the alignment of every pair in `features`.

    Args:
        features: what the features stage published.
        encoder: what the train stage published.
        run: where to publish, on what machines.

    Raises:
        DataError: a pair has no direction.
        ray.exceptions.RayError: a worker failed for good.
    """
    properties = encoder.read_manifest().properties
    plan = run.begin(lambda: list_ranges(features))
    worker_args = {"features": features, "encoder": encoder, "out": run.out, "plan": plan, "resources": run.resources}
    missing, num_pairs = run.out.missing_shards(plan), plan.shards[-1].stop
    run_shards(missing, EmbedWorker, worker_args, run, on_gpu=True, num_rows=num_pairs, is_light=True)
    kept = {name: properties[name] for name in ("dim", "modalities", "num_prototypes", "encoder_sha256")}
    return run.finish(plan, properties=kept)


def list_ranges(features: Artifact) -> list[ShardRange]:
    """Return one range a shard of `features`, counted in its pairs."""
    counts = [record.pairs_out for record in features.read_manifest().shards]
    stops = np.cumsum([0, *counts]).tolist()
    return [ShardRange(index=i, start=stops[i], stop=stops[i + 1]) for i in range(len(counts))]


class EmbedWorker:
    """Embeds and publishes shards; holds the encoder.

    Args:
        features: where the shards are read.
        encoder: what embeds them.
        out: where they are published.
        plan: of `out`.
        resources: says the device and the number of threads.
    """

    def __init__(self, features: Artifact, encoder: Artifact, out: Artifact, plan: Plan, resources: Resources) -> None:
        torch.set_num_threads(resources.num_threads)
        faiss.omp_set_num_threads(resources.num_threads)
        settle_arithmetic()
        self._features, self._out, self._plan = features, out, plan
        self._encoder = read_encoder(encoder.store)
        self._encoder.move_to(choose_device(resources.gpus_per_actor))

    def run_shard(self, shard: ShardRange) -> None:
        """Embed and commit the feature shard of this number."""
        record = self._features.read_manifest().shards[shard.index]
        table = embed_table(self._encoder, self._features.store.read_table(record.data.name))
        self._out.commit_shard(self._plan, shard, table)


def read_encoder(store: Store) -> Encoder:
    """Load the encoder that the train stage published.

    Raises:
        ArtifactError: a file is missing or damaged.
    """
    return load_encoder({name: store.read_bytes(name) for name in (WEIGHTS_FILE, CARD_FILE)})


def embed_table(encoder: Encoder, features: pa.Table) -> pa.Table:
    """Embed rows of features/ into rows of embeddings/, in the same order, chunk by chunk.

    Raises:
        ConfigError: a modality of the encoder is missing from the features.
        DataError: a pair has no direction; the message names it.
    """
    missing = [name for name in encoder.modalities if _name_column(encoder, name) not in features.column_names]
    if missing:
        raise ConfigError(f"the features must hold every modality of the encoder, {missing} missing; train again")
    schema = embedding_schema(encoder.modalities, encoder.config.dim)
    chunks = [_embed_chunk(encoder, chunk, schema) for chunk in _iter_chunks(features)]
    return pa.concat_tables([schema.empty_table(), *chunks]).combine_chunks()


def _name_column(encoder: Encoder, name: str) -> str:
    """Name the column that the encoder takes in: what goes into the last block, where that was trained."""
    return hidden_column(name) if name in encoder.blocks else feature_column(name)


def _iter_chunks(features: pa.Table) -> Iterator[pa.Table]:
    numbers = features[ROW].to_numpy() // CHUNK_ROWS
    starts = np.flatnonzero(np.diff(numbers, prepend=-1)).tolist()
    for start, stop in pairwise([*starts, features.num_rows]):
        yield features.slice(start, stop - start)


def _embed_chunk(encoder: Encoder, chunk: pa.Table, schema: pa.Schema) -> pa.Table:
    pair_ids = chunk[PAIR_ID].combine_chunks()
    features = {name: stack_vectors(chunk, _name_column(encoder, name)) for name in encoder.modalities}
    embeddings = encoder.embed(features, pair_ids.to_pylist())
    prototypes = encoder.assign_prototypes(embeddings)
    cosines = [np.einsum("nd,nd->n", a, b) for a, b in combinations(embeddings.values(), 2)]
    columns = [pair_ids]
    columns += [list_vectors(vectors) for vectors in embeddings.values()]
    columns += [pa.array(numbers) for numbers in prototypes.values()]
    columns.append(pa.array(np.mean(cosines, axis=0, dtype=np.float64).astype(np.float32)))
    return pa.table(columns, schema=schema)
