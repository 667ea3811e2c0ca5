"""The two pools of the features stage through Ray Data: readers that decode shards, actors that embed and publish them.

Without readers the actors decode too: on a single core the two would wait for each other.

One row is one shard. Size shards so that a decoded one is a small part of Ray's object store: 256 images of 224 px take
39 MB. `ray.data.read_images` and its kin were not chosen: they know one modality, and one file a row. Ray's own writers
were not chosen: they name files at random and are not atomic.
"""

import warnings
from collections.abc import Sequence
from functools import cached_property

import pyarrow as pa
import ray.data

from pipelines.features import FeatureShard, FeatureTask, FeatureWorker
from pipelines.shard_decoder import KNOWN, decode_batch, read_decoded, read_known, read_range
from pipelines.shard_pool import MAX_RESTARTS, describe_shards, drain, map_on_actors
from pipelines.stage_names import FEATURES
from pipelines.stage_run import StageRun, reserve_memory


class _EmbedAndCommit:
    """What runs in an actor: publishes the shard of a one-row batch, decoded by a reader where there are any.

    Backbones are loaded with the first shard: of what a constructor raises Ray tells the text alone, not the cause.
    """

    def __init__(self, task: FeatureTask) -> None:
        self._task = task

    @cached_property
    def _worker(self) -> FeatureWorker:
        return FeatureWorker(self._task)

    def __call__(self, batch: pa.Table) -> pa.Table:
        decoded = read_decoded(batch) if self._task.resources.num_readers else None
        self._worker.publish(FeatureShard(read_range(batch), read_known(batch)), decoded)
        return batch.select(["index"])


def embed_on_actors(shards: Sequence[FeatureShard], task: FeatureTask, run: StageRun) -> None:
    """Decode, embed and publish shards, at least one.

    Raises:
        ray.exceptions.RayError: a worker failed for good. Shards that were committed stay.
    """
    described = describe_features(shards)
    has_readers = task.resources.num_readers > 0
    pool = map_on_actors(
        decode_on_readers(described, task) if has_readers else described,
        len(shards),
        _EmbedAndCommit,
        {"task": task},
        task.resources,
        on_gpu=True,
        num_reader_cpus=int(has_readers),
    )
    drain(pool, run, len(shards))


def describe_features(shards: Sequence[FeatureShard]) -> ray.data.Dataset:
    """Return a dataset of one row and one block a shard, with what is known of its pairs."""
    known = [shard.known.tobytes() for shard in shards if shard.known is not None]
    return describe_shards([shard.rows for shard in shards], {KNOWN: known} if known else {})


def decode_on_readers(described: ray.data.Dataset, task: FeatureTask) -> ray.data.Dataset:
    """Decode shards in Ray tasks, one row and one block a shard."""
    with warnings.catch_warnings():
        # Ray 2.60 warns of every option that it passes to the task as it is, and has no other way to bound retries yet.
        warnings.filterwarnings("ignore", message=".*ray_remote_args.* is deprecated")
        return described.map_batches(
            decode_batch,
            fn_kwargs={"pairs": task.pairs, "decoder": task.decoder, "stage": FEATURES},
            compute=ray.data.TaskPoolStrategy(size=task.resources.num_readers),
            batch_size=1,
            batch_format="pyarrow",
            max_retries=MAX_RESTARTS,
            **reserve_memory(task.resources.memory_per_reader_gb),
        )
