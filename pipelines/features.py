"""The features stage: pairs/ in, features/ out: one frozen backbone vector per modality and pair.

Where a backbone's last block is to be trained, features/ also keeps what goes into it, in half precision.

Two pools work side by side through Ray Data: CPU tasks read and decode a shard, actors that hold the backbones embed
and publish it. One row is one shard.
Size shards so that a decoded one is a small part of Ray's object store: 256 images of 224 px take 39 MB.

Sub-batches are cut from the decodable pairs of one chunk, so the vectors do not depend on how chunks make up shards.
Where the run grows from an earlier one, known pairs are neither read nor decoded: `pipelines.growth` tells which they
are, and their vectors are put back in between. What is new in a chunk is then a batch of its own, so the last bits of
its vectors may differ from those of a run that starts from nothing.

`ray.data.read_images` and its kin were not chosen: they know one modality, and one file a row. Ray's own writers were
not chosen: they name files at random and are not atomic.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import ray.data
import torch

from mmcsal_core.artifacts import CHUNK_ROWS, Artifact, Manifest, Plan, ShardRange, plan_ranges
from mmcsal_core.backbones.hugging_face import check_hugging_face
from mmcsal_core.backbones.loading import load_backbone
from mmcsal_core.backbones.names import HUGGING_FACE
from mmcsal_core.corpus.decode_chunk import ChunkDecoder, find_vector_dim
from mmcsal_core.corpus.modality import ModalityConfig
from mmcsal_core.errors import GateError
from mmcsal_core.neighbors.vectors import Rows
from mmcsal_core.schema import GROWN_FROM, ROW, feature_column, hidden_column
from pipelines.devices import choose_device, settle_arithmetic
from pipelines.features_config import FeaturesConfig
from pipelines.growth import EarlierFeatures, EarlierRun, find_known_rows
from pipelines.shard_decoder import KNOWN, UNKNOWN, decode_batch, read_decoded, read_known, read_range
from pipelines.shard_embedder import ShardEmbedder
from pipelines.shard_pool import MAX_RESTARTS, describe_shards, drain, map_on_actors
from pipelines.stage_names import FEATURES
from pipelines.stage_run import Resources, StageRun, reserve_memory

STAGE = FEATURES


def load_embedder(decoder: ChunkDecoder, config: FeaturesConfig, resources: Resources) -> ShardEmbedder:
    """Load the configured backbones onto the device that `resources` name."""
    torch.set_num_threads(max(1, int(resources.cpus_per_actor)))
    settle_arithmetic()
    device = choose_device(resources.gpus_per_actor)
    backbones = {
        name: load_backbone(
            modality.resolved_backbone,
            modality,
            device=device,
            trust_remote_code=config.trust_remote_code,
            vector_dim=decoder.vector_dims.get(name),
        )
        for name, modality in decoder.modalities.items()
    }
    return ShardEmbedder(decoder, backbones, config.batch_size, STAGE)


class _EmbedAndCommit:
    """What runs in an actor: embeds and publishes the decoded shard of a one-row batch."""

    def __init__(self, out: Artifact, plan: Plan, earlier: EarlierRun | None, **embedder_args: Any) -> None:
        self._out, self._plan = out, plan
        self._earlier = None if earlier is None else EarlierFeatures(earlier.features)
        self._embedder = load_embedder(**embedder_args)

    def __call__(self, batch: pa.Table) -> pa.Table:
        shard, known = read_range(batch), read_known(batch)
        features, rejects = self._embedder.embed_shard(read_decoded(batch))
        if self._earlier is not None and known is not None:
            features = _put_back(features, self._earlier, known, shard.start)
        self._out.commit_shard(self._plan, shard, features, rejects)
        return batch.select(["index"])


def extract_features(
    *,
    pairs: Artifact,
    modalities: Mapping[str, ModalityConfig],
    source_options: Mapping[str, Any],
    config: FeaturesConfig,
    run: StageRun,
    earlier: EarlierRun | None = None,
) -> Manifest:
    """Publish one backbone vector per modality for every pair that decodes.

    Args:
        pairs: what ingest published.
        modalities: resolved, in the order of the configuration.
        source_options: storage options for the files that pairs/ refers to.
        config: how features are computed.
        run: where to publish, on what machines.
        earlier: finished, with the same modalities and configuration; vectors of pairs that it knows are taken over.

    Raises:
        GateError: there are no pairs, or more are rejected than allowed.
        ConfigError: there is no such model on the hub, or its last block cannot be trained although it should be.
        DataError: a modality of kind vector has no usable vector at all.
        ray.exceptions.RayError: a worker failed for good. Shards that were committed stay.
    """
    num_pairs = pairs.read_manifest().pairs_out
    if not num_pairs:
        raise GateError("features needs at least one pair, but pairs/ has none; read rejects/data/ingest.parquet")
    plan = run.out.begin(run.fingerprint, lambda: plan_ranges(num_pairs, run.resources.rows_per_shard))
    missing = run.out.missing_shards(plan)
    known = None if earlier is None else find_known_rows(pairs, earlier)
    if missing:
        _check_hub_models(modalities, config)
        given = {} if earlier is None else earlier.features.read_manifest().properties["dims"]
        dims = {
            name: given.get(name) or find_vector_dim(_iter_chunks(pairs, num_pairs), name, modality, source_options)
            for name, modality in modalities.items()
            if modality.resolved_kind == "vector"
        }
        decoder = ChunkDecoder(modalities, source_options, dims)
        constructor = {
            "out": run.out,
            "plan": plan,
            "earlier": earlier,
            "decoder": decoder,
            "config": config,
            "resources": run.resources,
        }
        decoded = decode_on_readers(missing, known, pairs, decoder, run.resources)
        pool = map_on_actors(
            decoded, len(missing), _EmbedAndCommit, constructor, run.resources, on_gpu=True, num_reader_cpus=1
        )
        drain(pool, run, len(missing))
    properties = {
        "dims": _read_dims(run.out, plan, modalities, feature_column),
        "backbones": {name: modality.resolved_backbone for name, modality in modalities.items()},
    }
    if earlier is not None and known is not None:
        properties[GROWN_FROM] = {
            "run_id": earlier.run_id,
            "fingerprint": earlier.features.read_manifest().fingerprint,
            "encoder_fingerprint": earlier.encoder.read_manifest().fingerprint,
            "num_pairs": int((known != UNKNOWN).sum()),
        }
    finetuned = [name for name, modality in modalities.items() if modality.finetune_last_block]
    if finetuned:
        properties["hidden_dims"] = _read_dims(run.out, plan, finetuned, hidden_column)
    return run.finish(plan, properties=properties)


def _check_hub_models(modalities: Mapping[str, ModalityConfig], config: FeaturesConfig) -> None:
    models = {(modality.resolved_backbone, modality.finetune_last_block) for modality in modalities.values()}
    for name, is_split in sorted(models):
        if name.startswith(HUGGING_FACE):
            check_hugging_face(name, trust_remote_code=config.trust_remote_code, is_split=is_split)


def _put_back(features: pa.Table, earlier: EarlierFeatures, known: Rows, start: int) -> pa.Table:
    """Return the features of a shard with those of known pairs in between, in the order of the pairs."""
    places = np.flatnonzero(known != UNKNOWN)
    if len(places) == 0:
        return features
    taken = earlier.take(known[places], places + start).cast(features.schema)
    return pa.concat_tables([features, taken]).sort_by(ROW).combine_chunks()


def decode_on_readers(
    shards: Sequence[ShardRange], known: Rows | None, pairs: Artifact, decoder: ChunkDecoder, resources: Resources
) -> ray.data.Dataset:
    """Decode shards in Ray tasks, one row and one block a shard; arguments as in `decode_shard`."""
    with warnings.catch_warnings():
        # Ray 2.60 warns of every option that it passes to the task as it is, and has no other way to bound retries yet.
        warnings.filterwarnings("ignore", message=".*ray_remote_args.* is deprecated")
        spans = {} if known is None else {KNOWN: [known[shard.start : shard.stop].tobytes() for shard in shards]}
        return describe_shards(shards, spans).map_batches(
            decode_batch,
            fn_kwargs={"pairs": pairs, "decoder": decoder, "stage": STAGE},
            compute=ray.data.TaskPoolStrategy(size=resources.num_readers),
            batch_size=1,
            batch_format="pyarrow",
            max_retries=MAX_RESTARTS,
            **reserve_memory(resources.memory_per_reader_gb),
        )


def _iter_chunks(pairs: Artifact, num_pairs: int) -> Iterator[pa.Table]:
    for start in range(0, num_pairs, CHUNK_ROWS):
        yield pairs.read_rows(start, min(start + CHUNK_ROWS, num_pairs))


def _read_dims(
    out: Artifact, plan: Plan, modalities: Iterable[str], name_column: Callable[[str], str]
) -> dict[str, int]:
    names = list(modalities)
    schema = out.store.read_table(out.read_records(plan)[0].data.name, [name_column(name) for name in names]).schema
    return {name: schema.field(name_column(name)).type.list_size for name in names}
