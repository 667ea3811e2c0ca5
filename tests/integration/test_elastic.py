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


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A node with two cores: one for a reader, one for an actor."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    cluster.wait_for_nodes()
    yield cluster
    cluster.shutdown()


def _count_actors(node_pid: int) -> int:
    """Count the actors of the features stage on a node."""
    children = list_children(psutil.Process(node_pid), recursive=False)
    return sum("_EmbedAndCommit" in name_process(child) for child in children)


def test_a_pool_starts_small_and_grows_as_nodes_join(cluster: Cluster, tmp_path: Path) -> None:
    corpus = write_image_text_parquet(tmp_path / "pairs.parquet", NUM_PAIRS)
    values = make_config(corpus, tmp_path / "out", ray={"address": cluster.address})
    values["modalities"]["image"]["image_size"] = 96
    values["resources"] = {"rows_per_shard": 256, "num_actors": NUM_ACTORS}
    markers = tmp_path / "out" / "run_id=t" / "features" / "_shards"
    most = {"alone": 0, "joined": 0}
    with start_mmcsal("run", write_config(tmp_path / "job.yaml", values), "--until", "features") as job:
        raylets = {"alone": cluster.head_node.all_processes["raylet"][0].process.pid}
        deadline = time.monotonic() + 240
        while job.poll() is None and time.monotonic() < deadline:
            if "alone" in raylets and markers.exists() and len(list(markers.iterdir())) >= 2:
                del raylets["alone"]
                raylets["joined"] = cluster.add_node(num_cpus=3).all_processes["raylet"][0].process.pid
            for name, pid in raylets.items():
                most[name] = max(most[name], _count_actors(pid))
            time.sleep(0.1)
        assert job.poll() is not None, "the job hangs"
        _, told = job.communicate()
    assert job.returncode == 0, told
    assert most["alone"] == 1
    assert 1 <= most["joined"] <= NUM_ACTORS - 1
