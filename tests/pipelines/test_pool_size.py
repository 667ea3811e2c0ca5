"""How many actors a pool starts with: what the nodes have room for; that too little room is said; when none starts."""

import os
from pathlib import Path

import pytest
import torch
from threadpoolctl import threadpool_info

from mmcsal_core.artifacts import Artifact, Plan, ShardRange, plan_ranges
from mmcsal_core.encoder import EncoderConfig
from mmcsal_core.storage import Store
from pipelines.shard_pool import count_room, describe_shards, map_on_actors
from pipelines.shard_runs import is_done_here, run_shards
from pipelines.stage_run import Resources, StageProgress, StageRun
from pipelines.train_on_ray import warn_of_shortage
from pipelines.train_worker import TrainTask


@pytest.mark.parametrize(
    ("needs", "nodes", "num_reader_cpus", "room"),
    [
        ({"CPU": 1.0}, [{"CPU": 4.0}], 0, 4),
        ({"CPU": 1.0}, [{"CPU": 4.0}], 1, 3),
        ({"CPU": 1.0}, [{"CPU": 1.0}], 1, 0),
        ({"CPU": 0.2}, [{"CPU": 2.0}], 1, 5),
        ({"CPU": 0.1}, [{"CPU": 0.3}], 0, 3),
        ({"CPU": 4.0}, [{"CPU": 6.0}, {"CPU": 6.0}], 0, 2),
        ({"CPU": 4.0}, [{"CPU": 3.0}, {"CPU": 3.0}], 0, 0),
        ({"CPU": 1.0, "GPU": 0.5}, [{"CPU": 8.0, "GPU": 1.0}, {"CPU": 8.0}], 1, 2),
        ({"CPU": 1.0, "memory": 4.0}, [{"CPU": 8.0, "memory": 9.0}], 0, 2),
        ({"CPU": 1.0}, [], 0, 0),
    ],
)
def test_room_is_counted_node_by_node(
    needs: dict[str, float], nodes: list[dict[str, float]], num_reader_cpus: int, room: int
) -> None:
    assert count_room(needs, nodes, num_reader_cpus) == room


def test_what_no_node_has_room_for_is_said(ray_session: None, caplog: pytest.LogCaptureFixture) -> None:
    shards = plan_ranges(1, 1)
    map_on_actors(describe_shards(shards), 1, Path, {}, Resources(cpus_per_actor=0.5), on_gpu=False)
    assert caplog.messages == []
    map_on_actors(describe_shards(shards), 1, Path, {}, Resources(memory_per_actor_gb=10**6), on_gpu=False)
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith("no node has room for a worker that takes 1 CPU, 1.07374e+15 memory; it waits")


def test_training_that_waits_for_room_is_said(
    ray_session: None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    features = Artifact(Store(str(tmp_path)), "features", "features")
    plan = Plan(stage="train", fingerprint="f", shards=())
    for num_workers in (1, 99):
        resources = Resources(train_workers=num_workers, cpus_per_actor=0.5)
        warn_of_shortage(TrainTask(features, features, plan, ("a", "b"), 0, EncoderConfig(), resources))
    assert [message[:62] for message in caplog.messages] == [
        "training waits for room: 99 workers are asked for, and the nod"
    ]


class Teller:
    """A worker that writes down where it works, and on how many threads."""

    def __init__(self, told: Store) -> None:
        torch.set_num_threads(1)
        self._told = told

    def run_shard(self, shard: ShardRange) -> None:
        threads = {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}
        self._told.write_json(f"{shard.index}.json", {"process": os.getpid(), "threads": sorted(threads)})


@pytest.mark.parametrize(
    ("num_rows", "num_actors", "is_light", "is_here"),
    [
        (4096, 1, False, True),
        (4096, 2, True, True),
        (4096, 2, False, False),
        (4097, 1, False, False),
        (4097, 2, True, False),
    ],
)
def test_few_pairs_are_work_of_the_driver_where_one_actor_would_do_it_or_it_is_light(
    num_rows: int, num_actors: int, is_light: bool, is_here: bool
) -> None:
    resources = Resources(num_actors=num_actors)
    assert is_done_here(num_rows, resources, on_gpu=False, is_light=is_light) == is_here
    assert not is_done_here(num_rows, Resources(num_actors=num_actors, max_driver_pairs=0), on_gpu=False, is_light=True)


@pytest.mark.parametrize("is_here", [True, False])
def test_the_driver_works_on_the_threads_of_an_actor(ray_session: None, tmp_path: Path, is_here: bool) -> None:
    plan = Plan(stage="embed", fingerprint="f", shards=tuple(plan_ranges(4096, 2304)))
    resources = Resources(cpus_per_actor=0.5, max_driver_pairs=4096 if is_here else 4095)
    told = list[StageProgress]()
    run = StageRun(Artifact(Store(str(tmp_path)), "out", "embed"), "f", resources, on_progress=told.append)
    torch.set_num_threads(2)
    run_shards(plan.shards, Teller, {"told": Store(str(tmp_path))}, run, on_gpu=True, num_rows=4096)
    assert torch.get_num_threads() == 2
    found = [Store(str(tmp_path)).read_json(f"{shard.index}.json") for shard in plan.shards]
    assert len(found) == 2
    assert [each["process"] == os.getpid() for each in found] == [is_here] * 2
    assert not is_here or [each["threads"] for each in found] == [[1]] * 2
    assert [(each.stage, each.done, each.total) for each in told] == [("embed", 1, 2), ("embed", 2, 2)]


def test_a_gpu_is_asked_of_an_actor_however_few_the_pairs(ray_session: None, tmp_path: Path) -> None:
    plan, told = Plan(stage="embed", fingerprint="f", shards=tuple(plan_ranges(256, 256))), Store(str(tmp_path))
    resources = Resources(cpus_per_actor=0.5, gpus_per_actor=0.5)
    run = StageRun(Artifact(told, "out", "embed"), "f", resources)
    run_shards(plan.shards, Teller, {"told": told}, run, on_gpu=True, num_rows=256)
    assert told.read_json("0.json")["process"] != os.getpid()
    run_shards(plan.shards, Teller, {"told": told}, run, num_rows=256)
    assert told.read_json("0.json")["process"] == os.getpid()
