"""What Ray is asked to reserve for each kind of worker, as Ray itself tells it."""

from pathlib import Path

import pyarrow as pa
import pytest
import ray

from mmcsal_core.artifacts import Artifact, Plan, ShardRange, plan_ranges
from mmcsal_core.corpus.decode_chunk import ChunkDecoder
from mmcsal_core.storage import Store
from pipelines.coreset import choose_engine
from pipelines.feature_pools import decode_on_readers
from pipelines.features import FeatureShard, FeatureTask
from pipelines.features_config import FeaturesConfig
from pipelines.selection_engine import RayEngine
from pipelines.shard_runs import run_shards
from pipelines.stage_run import Resources, StageRun, reserve_memory
from tests.pipelines.pair_artifacts import publish

GIB = 2**30


class Teller:
    """A worker that writes down what it was given."""

    def __init__(self, told: Store) -> None:
        self._told = told

    def run_shard(self, shard: ShardRange) -> None:
        self._told.write_json("actor.json", ray.get_runtime_context().get_assigned_resources())


class TellingDecoder(ChunkDecoder):
    """A decoder that ends the stage with what its reader was given."""

    def decode_chunk(self, pairs: pa.Table, stage: str) -> tuple[pa.RecordBatch, pa.Table]:
        raise RuntimeError(f"memory {ray.get_runtime_context().get_assigned_resources()['memory']:.0f}")


RESOURCES = Resources(
    memory_per_actor_gb=0.5,
    memory_per_reader_gb=0.25,
    selection_memory_gb=0.125,
    selection_actors=1,
    cpus_per_actor=0.1,
)


def test_memory_is_reserved_for_an_actor(ray_session: None, tmp_path: Path) -> None:
    told = Store(str(tmp_path / "told"))
    run = StageRun(Artifact(Store(str(tmp_path)), "out", "features"), "f", RESOURCES)
    run_shards(plan_ranges(1, 1), Teller, {"told": told}, run)
    assert told.read_json("actor.json")["memory"] == GIB / 2


def test_memory_is_reserved_for_a_reader(ray_session: None, tmp_path: Path) -> None:
    pairs, out = (Artifact(Store(str(tmp_path)), name, name) for name in ("pairs", "features"))
    publish(pairs, pa.table({"pair_id": ["a"]}))
    plan = Plan(stage="features", fingerprint="f", shards=tuple(plan_ranges(1, 1)))
    task = FeatureTask(pairs, out, plan, TellingDecoder({}), FeaturesConfig(), RESOURCES)
    with pytest.raises(Exception, match=f"memory {GIB // 4}"):
        decode_on_readers([FeatureShard(plan.shards[0], None)], task).materialize()


def test_memory_is_reserved_for_a_selection_actor(ray_session: None) -> None:
    engine = choose_engine(RESOURCES, open_ray=lambda: None)
    assert isinstance(engine, RayEngine)
    find = lambda _: ray.get_runtime_context().get_assigned_resources()  # noqa: E731
    assert ray.get(engine.actors.handles[0].__ray_call__.remote(find))["memory"] == GIB / 8


def test_nothing_is_reserved_unasked() -> None:
    assert reserve_memory(None) == {}
