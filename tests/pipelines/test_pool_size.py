"""How many actors a pool starts with: what the nodes have room for; and that too little room is said."""

from pathlib import Path

import pytest

from mmcsal_core.artifacts import Artifact, Plan, plan_ranges
from mmcsal_core.encoder import EncoderConfig
from mmcsal_core.storage import Store
from pipelines.shard_pool import count_room, describe_shards, map_on_actors
from pipelines.stage_run import Resources
from pipelines.train import warn_of_shortage
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
