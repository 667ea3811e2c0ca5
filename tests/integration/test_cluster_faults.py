"""A cluster of three nodes and a store that fails now and then: whatever is lost, a rerun ends with the same picks.

The nodes are raylets of their own on this machine and share nothing but the store, a real S3 server behind a proxy that
lets one request in fifty fail, stall or break off. Meanwhile a node is lost, or a worker, or the job's own process.
`make test` takes one seed, `make faults` all.
"""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import s3fs
from ray.cluster_utils import Cluster

from tests.fault_proxy import FaultProxy, open_fault_proxy
from tests.integration.job_process import call_json, make_config, run_json, start_mmcsal, write_config
from tests.ray_processes import is_busy_worker, list_children
from tests.s3_server import REGION

NUM_SEEDS = int(os.environ.get("MMCSAL_CLUSTER_FAULTS", "1"))
FAULTY_SHARE = 0.02
TIMEOUT_S = 400.0
SETTINGS = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 3}


def _lose_node(cluster: Cluster, job: "subprocess.Popen[str]", draw: Random) -> None:
    cluster.remove_node(draw.choice(list(cluster.worker_nodes)), allow_graceful=False)


def _kill_worker(cluster: Cluster, job: "subprocess.Popen[str]", draw: Random) -> None:
    raylets = [node.all_processes["raylet"][0].process.pid for node in cluster.list_all_nodes()]
    children = [child for pid in raylets for child in list_children(psutil.Process(pid), recursive=False)]
    busy = [child for child in children if is_busy_worker(child)]
    for worker in draw.sample(busy, min(1, len(busy))):
        worker.send_signal(signal.SIGKILL)


def _kill_job(cluster: Cluster, job: "subprocess.Popen[str]", draw: Random) -> None:
    job.send_signal(signal.SIGKILL)


LOSSES: tuple[Callable[[Cluster, "subprocess.Popen[str]", Random], None], ...] = (_lose_node, _kill_job, _kill_worker)


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """The head, and two more nodes."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "_system_config": SETTINGS})
    for _ in range(2):
        cluster.add_node(num_cpus=2)
    cluster.wait_for_nodes()
    yield cluster
    cluster.shutdown()


@pytest.fixture
def proxy(s3_endpoint: str) -> Iterator[FaultProxy]:
    with open_fault_proxy(s3_endpoint) as proxy:
        proxy.stall_s = 3.0
        yield proxy


def _wait_for_objects(bucket: s3fs.S3FileSystem, folder: str, count: int, job: "subprocess.Popen[str]") -> None:
    """Wait until the run has written so many objects, or has ended."""
    deadline = time.monotonic() + TIMEOUT_S
    while job.poll() is None and time.monotonic() < deadline:
        bucket.invalidate_cache()
        if bucket.exists(folder) and len(bucket.find(folder)) >= count:
            return
        time.sleep(0.2)


def _read_picks(folder: Path) -> pa.Table:
    """Return the selection without what names the place of the corpus."""
    return pq.read_table(folder / "selection" / "data").drop_columns(["image_uri"]).replace_schema_metadata()


@pytest.mark.parametrize("seed", range(NUM_SEEDS))
def test_a_rerun_ends_in_the_same_picks(
    finished: dict[str, Any],
    dirty_corpus: Path,
    tmp_path: Path,
    s3_endpoint: str,
    proxy: FaultProxy,
    cluster: Cluster,
    seed: int,
) -> None:
    name, draw = f"cluster-faults-{seed}", Random(seed)
    bucket = s3fs.S3FileSystem(endpoint_url=s3_endpoint, skip_instance_cache=True)
    bucket.mkdir(name, region_name=REGION)
    bucket.put(str(dirty_corpus), f"{name}/{dirty_corpus.name}")
    options = {"endpoint_url": proxy.endpoint, "config_kwargs": {"read_timeout": 2}}
    values = make_config(dirty_corpus, tmp_path, source_options=options, output_options=options)
    values |= {"output": f"s3://{name}/out", "ray": {"address": cluster.address}}
    values["source"]["url"] = f"s3://{name}/{dirty_corpus.name}"
    values["resources"] = {"rows_per_shard": 256, "num_readers": 2, "num_actors": 2, "selection_actors": 2}
    config = write_config(tmp_path / "job.yaml", values)
    lose = LOSSES[seed % len(LOSSES)]
    proxy.random, proxy.share = Random(seed), FAULTY_SHARE
    with start_mmcsal("run", config) as job:
        _wait_for_objects(bucket, f"{name}/out", draw.randrange(2, 90), job)
        lose(cluster, job, draw)
        _, told = job.communicate(timeout=TIMEOUT_S)
    assert "Traceback" not in told
    assert job.returncode in ((-signal.SIGKILL,) if lose is _kill_job else (0, 6)), told
    assert proxy.met
    proxy.share = 0.0
    run_json("run", config)
    assert call_json("run", config)["executed"] == []
    bucket.invalidate_cache()
    bucket.get(f"{name}/out", str(tmp_path / "copy"), recursive=True)
    copy = tmp_path / "copy" / "run_id=t"
    assert call_json("validate", copy)["ok"] is True
    assert _read_picks(copy).equals(_read_picks(Path(finished["output"]) / "run_id=t"))
    bucket.rm(name, recursive=True)
