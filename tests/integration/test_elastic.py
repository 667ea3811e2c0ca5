"""A cluster that is too small for what was asked for does the job all the same, and uses the node that joins it."""

import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from ray.cluster_utils import Cluster

from tests.corpora import write_image_text_parquet
from tests.integration.job_process import make_config, start_mmcsal, write_config
from tests.ray_processes import list_children, name_process

NUM_PAIRS, NUM_ACTORS = 4096, 4
GIB = 2**30


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A node with two cores, for a reader and an actor, and memory for one actor, whoever else leaves a core free."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "memory": GIB})
    cluster.wait_for_nodes()
    yield cluster
    cluster.shutdown()


def _list_actors(node_pid: int) -> list[psutil.Process]:
    """List the actors of the features stage on a node."""
    children = list_children(psutil.Process(node_pid), recursive=False)
    return [child for child in children if "_EmbedAndCommit" in name_process(child)]


def test_a_pool_starts_small_and_grows_as_nodes_join(cluster: Cluster, tmp_path: Path) -> None:
    corpus = write_image_text_parquet(tmp_path / "pairs.parquet", NUM_PAIRS)
    values = make_config(corpus, tmp_path / "out", ray={"address": cluster.address})
    values["resources"] = {"rows_per_shard": 256, "num_actors": NUM_ACTORS, "memory_per_actor_gb": 1}
    markers = tmp_path / "out" / "run_id=t" / "features" / "_shards"
    most, held = {"alone": 0, "joined": 0}, list[psutil.Process]()
    with start_mmcsal("run", write_config(tmp_path / "job.yaml", values), "--until", "features") as job:
        raylets = {"alone": cluster.head_node.all_processes["raylet"][0].process.pid}
        deadline = time.monotonic() + 240
        while job.poll() is None and time.monotonic() < deadline:
            if "alone" in raylets and markers.exists() and any(markers.iterdir()):
                # However fast it is, the first actor must not have done everything before the other node is there.
                held = _list_actors(raylets.pop("alone"))
                for actor in held:
                    actor.suspend()
                joined = cluster.add_node(num_cpus=3, memory=3 * GIB)
                raylets["joined"] = joined.all_processes["raylet"][0].process.pid
            for name, pid in raylets.items():
                most[name] = max(most[name], len(_list_actors(pid)))
            while most["joined"] and held:
                held.pop().resume()
            time.sleep(0.05)
        assert job.poll() is not None, "the job hangs"
        _, told = job.communicate()
    assert job.returncode == 0, told
    assert most["alone"] == 1
    assert 1 <= most["joined"] <= NUM_ACTORS - 1
