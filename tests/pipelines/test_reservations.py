"""What Ray is asked to reserve for each kind of worker, as Ray itself tells it: so each lands on a node that has it."""

from pathlib import Path

import pyarrow as pa
import pytest
import ray

from mmcsal_core.artifacts import Artifact, Manifest, Plan, ShardRange, plan_ranges
from mmcsal_core.corpus.decode_chunk import ChunkDecoder
from mmcsal_core.encoder.config import EncoderConfig
from mmcsal_core.storage import Store
from pipelines.coreset import choose_engine
from pipelines.feature_pools import decode_on_readers, describe_features
from pipelines.features import FeatureShard, FeatureTask
from pipelines.features_config import FeaturesConfig
from pipelines.selection_engine import RayEngine
from pipelines.shard_runs import run_shards
from pipelines.stage_run import Resources, StageRun, ignore_progress, reserve_memory
from pipelines.train_on_ray import fit_on_ray
from pipelines.train_worker import TrainTask
from tests.pipelines.pair_artifacts import publish

GIB = 2**30


def describe_given() -> str:
    """Return what Ray has assigned to the worker that asks."""
    given = ray.get_runtime_context().get_assigned_resources()
    return "given " + ", ".join(f"{kind}={given[kind]:.12g}" for kind in sorted(given))


class Teller:
    """A worker that writes down what it was given."""

    def __init__(self, told: Store) -> None:
        self._told = told

    def run_shard(self, shard: ShardRange) -> None:
        self._told.write_json("actor.json", ray.get_runtime_context().get_assigned_resources())


class TellingDecoder(ChunkDecoder):
    """A decoder that ends the stage with what its reader was given."""

    def decode_chunk(self, pairs: pa.Table, stage: str) -> tuple[pa.RecordBatch, pa.Table]:
        raise RuntimeError(describe_given())


class TellingFeatures(Artifact):
    """Features that end a fit with what its worker was given."""

    def read_manifest(self) -> Manifest:
        raise RuntimeError(describe_given())


RESOURCES = Resources(
    memory_per_actor_gb=0.5,
    memory_per_reader_gb=0.25,
    selection_memory_gb=0.125,
    selection_actors=1,
    cpus_per_actor=0.1,
    gpus_per_actor=0.25,
    selection_gpus=0.5,
)


@pytest.mark.parametrize(("on_gpu", "gpus"), [(True, {"GPU": 0.25}), (False, {})])
def test_memory_and_a_gpu_where_it_uses_one_are_reserved_for_an_actor(
    ray_session: None, tmp_path: Path, on_gpu: bool, gpus: dict[str, float]
) -> None:
    told = Store(str(tmp_path / "told"))
    run = StageRun(Artifact(Store(str(tmp_path)), "out", "features"), "f", RESOURCES)
    run_shards(plan_ranges(1, 1), Teller, {"told": told}, run, on_gpu=on_gpu)
    assert told.read_json("actor.json") == {"CPU": 0.1, "memory": GIB / 2, **gpus}


def test_memory_and_no_gpu_are_reserved_for_a_reader(ray_session: None, tmp_path: Path) -> None:
    pairs, out = (Artifact(Store(str(tmp_path)), name, name) for name in ("pairs", "features"))
    publish(pairs, pa.table({"pair_id": ["a"]}))
    plan = Plan(stage="features", fingerprint="f", shards=tuple(plan_ranges(1, 1)))
    task = FeatureTask(pairs, out, plan, TellingDecoder({}), FeaturesConfig(), RESOURCES)
    with pytest.raises(Exception, match=f"(?m)given CPU=1, memory={GIB // 4}$"):
        decode_on_readers(describe_features([FeatureShard(plan.shards[0], None)]), task).materialize()


def test_memory_and_a_gpu_are_reserved_for_a_worker_of_training(ray_session: None, tmp_path: Path) -> None:
    run = Store(str(tmp_path))
    features, out = TellingFeatures(run, "features", "features"), Artifact(run, "encoder", "train")
    plan = Plan(stage="train", fingerprint="f", shards=tuple(plan_ranges(1, 1)))
    task = TrainTask(features, out, plan, ("text", "image"), 0, EncoderConfig(), RESOURCES)
    with pytest.raises(Exception, match=f"(?m)given CPU=0.1, GPU=0.25, memory={GIB // 2}$"):
        fit_on_ray(task, ignore_progress)


def test_memory_and_a_gpu_are_reserved_for_a_selection_actor(ray_session: None) -> None:
    engine = choose_engine(RESOURCES, open_ray=lambda: None)
    assert isinstance(engine, RayEngine)
    find = lambda _: ray.get_runtime_context().get_assigned_resources()  # noqa: E731
    given = ray.get(engine.actors.handles[0].__ray_call__.remote(find))
    assert (given["GPU"], given["memory"]) == (0.5, GIB / 8)


def test_nothing_is_reserved_unasked() -> None:
    assert reserve_memory(None) == {}
