"""The features stage: pairs/ in, features/ out: one frozen backbone vector per modality and pair.

Where a backbone's last block is to be trained, features/ also keeps what goes into it, in half precision.

Two pools work side by side through Ray Data (`pipelines.feature_pools`): tasks read and decode a shard, actors that
hold the backbones embed and publish it. A small pool the driver does itself.

Sub-batches are cut from the decodable pairs of one chunk, so the vectors do not depend on how chunks make up shards.
Where the run grows from an earlier one, known pairs are neither read nor decoded: `pipelines.growth` tells which they
are, and their vectors are put back in between. What is new in a chunk is then a batch of its own, so the last bits of
its vectors may differ from those of a run that starts from nothing.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
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
from pipelines.devices import choose_device, keep_freed_memory, limit_threads, settle_arithmetic
from pipelines.features_config import FeaturesConfig
from pipelines.growth import EarlierFeatures, EarlierRun, find_known_rows
from pipelines.shard_decoder import UNKNOWN, DecodedShard, decode_shard
from pipelines.shard_embedder import ShardEmbedder
from pipelines.shard_runs import is_done_here
from pipelines.stage_names import FEATURES
from pipelines.stage_run import Resources, StageProgress, StageRun

STAGE = FEATURES


def load_embedder(decoder: ChunkDecoder, config: FeaturesConfig, resources: Resources) -> ShardEmbedder:
    """Load the configured backbones onto the device that `resources` name."""
    torch.set_num_threads(resources.num_threads)
    settle_arithmetic()
    keep_freed_memory()
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


@dataclass(frozen=True)
class FeatureTask:
    """What every worker is told.

    Args:
        pairs: finished.
        out: where to publish.
        plan: of the stage.
        decoder: of the modalities.
        config: how features are computed.
        resources: machines and sizes.
        earlier: finished, that vectors of known pairs are taken from.
    """

    pairs: Artifact
    out: Artifact
    plan: Plan
    decoder: ChunkDecoder
    config: FeaturesConfig
    resources: Resources
    earlier: EarlierRun | None = None


@dataclass(frozen=True, eq=False)
class FeatureShard:
    """A shard of n rows to work on, and what is known of its pairs: (n,) as for `decode_shard`, None for nothing."""

    rows: ShardRange
    known: Rows | None


class FeatureWorker:
    """Embeds and publishes decoded shards."""

    def __init__(self, task: FeatureTask) -> None:
        self._task = task
        self._earlier = None if task.earlier is None else EarlierFeatures(task.earlier.features)
        self._embedder = load_embedder(task.decoder, task.config, task.resources)

    def publish(self, shard: FeatureShard, decoded: DecodedShard | None = None) -> None:
        """Embed what was decoded of a shard, its new pairs, and commit the shard; decode it where nobody did."""
        if decoded is None:
            decoded = _decode(self._task, shard)
        features, rejects = self._embedder.embed_shard(decoded)
        if self._earlier is not None and shard.known is not None:
            features = _put_back(features, self._earlier, shard.known, shard.rows.start)
        self._task.out.commit_shard(self._task.plan, shard.rows, features, rejects)


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
    plan = run.begin(lambda: plan_ranges(num_pairs, run.resources.rows_per_shard))
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
        task = FeatureTask(pairs, run.out, plan, decoder, config, run.resources, earlier)
        shards = [FeatureShard(rows, None if known is None else known[rows.start : rows.stop]) for rows in missing]
        if is_done_here(num_pairs, run.resources, on_gpu=True, is_light=False):
            _embed_here(shards, task, run)
        else:
            run.open_ray()
            from pipelines.feature_pools import embed_on_actors  # noqa: PLC0415  slow to load

            embed_on_actors(shards, task, run)
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


def _decode(task: FeatureTask, shard: FeatureShard) -> DecodedShard:
    return decode_shard(task.pairs, shard.rows, task.decoder, STAGE, shard.known)


def _check_hub_models(modalities: Mapping[str, ModalityConfig], config: FeaturesConfig) -> None:
    for modality in modalities.values():
        name = modality.resolved_backbone
        if name.startswith(HUGGING_FACE):
            check_hugging_face(name, modality, trust_remote_code=config.trust_remote_code)


def _put_back(features: pa.Table, earlier: EarlierFeatures, known: Rows, start: int) -> pa.Table:
    """Return the features of a shard with those of known pairs in between, in the order of the pairs."""
    places = np.flatnonzero(known != UNKNOWN)
    if len(places) == 0:
        return features
    taken = earlier.take(known[places], places + start).cast(features.schema)
    return pa.concat_tables([features, taken]).sort_by(ROW).combine_chunks()


def _embed_here(shards: Sequence[FeatureShard], task: FeatureTask, run: StageRun) -> None:
    """Do the work in this process, while threads decode the next shards."""
    num_readers = max(1, task.resources.num_readers)
    with limit_threads(task.resources.num_threads), ThreadPoolExecutor(num_readers) as readers:
        worker = FeatureWorker(task)
        decoded = _run_ahead((partial(_decode, task, each) for each in shards), readers, num_readers)
        for done, (shard, contents) in enumerate(zip(shards, decoded, strict=True), start=1):
            worker.publish(shard, contents)
            run.on_progress(StageProgress(STAGE, done, len(shards)))


def _run_ahead(
    tasks: Iterable[Callable[[], DecodedShard]], readers: Executor, num_ahead: int
) -> Iterator[DecodedShard]:
    """Yield the results of tasks in their order, and have the next ones run meanwhile."""
    left = iter(tasks)
    running = deque(readers.submit(task) for task in islice(left, num_ahead))
    while running:
        done = running.popleft().result()
        running.extend(readers.submit(task) for task in islice(left, 1))
        yield done


def _iter_chunks(pairs: Artifact, num_pairs: int) -> Iterator[pa.Table]:
    for start in range(0, num_pairs, CHUNK_ROWS):
        yield pairs.read_rows(start, min(start + CHUNK_ROWS, num_pairs))


def _read_dims(
    out: Artifact, plan: Plan, modalities: Iterable[str], name_column: Callable[[str], str]
) -> dict[str, int]:
    names = list(modalities)
    schema = out.store.read_table(out.read_records(plan)[0].data.name, [name_column(name) for name in names]).schema
    return {name: schema.field(name_column(name)).type.list_size for name in names}
