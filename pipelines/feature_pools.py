"""The two pools of the features stage through Ray Data: readers that decode shards, actors that embed and publish them.

One row is one shard. Size shards so that a decoded one is a small part of Ray's object store: 256 images of 224 px take
39 MB. `ray.data.read_images` and its kin were not chosen: they know one modality, and one file a row. Ray's own writers
were not chosen: they name files at random and are not atomic.
"""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import ray.data

from mmcsal_core.artifacts import Artifact, ShardRange
from mmcsal_core.corpus.decode_chunk import ChunkDecoder
from mmcsal_core.neighbors.vectors import Rows
from pipelines.features import FeatureWorker
from pipelines.shard_decoder import KNOWN, decode_batch, read_decoded, read_known, read_range
from pipelines.shard_pool import MAX_RESTARTS, describe_shards, drain, map_on_actors
from pipelines.stage_names import FEATURES
from pipelines.stage_run import Resources, StageRun, reserve_memory


class _EmbedAndCommit:
    """What runs in an actor: publishes the decoded shard of a one-row batch."""

    def __init__(self, **worker_args: Any) -> None:
        self._worker = FeatureWorker(**worker_args)

    def __call__(self, batch: pa.Table) -> pa.Table:
        self._worker.publish(read_range(batch), read_decoded(batch), read_known(batch))
        return batch.select(["index"])


def embed_on_actors(
    shards: Sequence[ShardRange],
    spans: Sequence[Rows | None],
    pairs: Artifact,
    worker_args: Mapping[str, Any],
    run: StageRun,
) -> None:
    """Decode, embed and publish shards.

    Args:
        shards: at least one.
        spans: what is known of the pairs of each shard, as for `decode_shard`; None for all or for none.
        pairs: finished.
        worker_args: of `FeatureWorker`.
        run: of the stage.

    Raises:
        ray.exceptions.RayError: a worker failed for good. Shards that were committed stay.
    """
    decoded = decode_on_readers(shards, spans, pairs, worker_args["decoder"], run.resources)
    pool = map_on_actors(
        decoded, len(shards), _EmbedAndCommit, worker_args, run.resources, on_gpu=True, num_reader_cpus=1
    )
    drain(pool, run, len(shards))


def decode_on_readers(
    shards: Sequence[ShardRange],
    spans: Sequence[Rows | None],
    pairs: Artifact,
    decoder: ChunkDecoder,
    resources: Resources,
) -> ray.data.Dataset:
    """Decode shards in Ray tasks, one row and one block a shard; arguments as of `embed_on_actors`."""
    with warnings.catch_warnings():
        # Ray 2.60 warns of every option that it passes to the task as it is, and has no other way to bound retries yet.
        warnings.filterwarnings("ignore", message=".*ray_remote_args.* is deprecated")
        known = [span.tobytes() for span in spans if span is not None]
        return describe_shards(shards, {KNOWN: known} if known else {}).map_batches(
            decode_batch,
            fn_kwargs={"pairs": pairs, "decoder": decoder, "stage": FEATURES},
            compute=ray.data.TaskPoolStrategy(size=resources.num_readers),
            batch_size=1,
            batch_format="pyarrow",
            max_retries=MAX_RESTARTS,
            **reserve_memory(resources.memory_per_reader_gb),
        )
