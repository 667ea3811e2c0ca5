"""A cluster of three nodes and a store that fails now and then: whatever is lost, a rerun ends with the same bytes.

The nodes are raylets of their own on this machine and share nothing but the store, a real S3 server behind a proxy that
lets a share of all requests fail, stall or break off; the job's own process has a disk that no worker sees. Meanwhile a
node is lost, or a worker, or the job's own process, or the whole job: its process and all its workers; 28 seeds aim
each of these at every stage, and where a stage has no worker to lose, or none any more, at one before it. Of what is
left, the rerun leaves all but the picks to workers. `make test` takes one seed, `make faults` all.
"""

import os
import signal
import subprocess
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import psutil
import pytest
import s3fs
import yaml
from ray._private.node import Node
from ray.cluster_utils import Cluster

from jobs.config import parse_config
from jobs.progress import JsonReporter
from jobs.run import run_job
from mmcsal_core.storage import Store
from tests.fault_proxy import FaultProxy, open_fault_proxy
from tests.integration.job_process import FOLDERS, call_json, make_config, read_results, run_json, write_config
from tests.integration.losses import Moment, disturb_job, draw_moments, kill, put_on_workers
from tests.ray_processes import list_children, works_for
from tests.s3_server import REGION

CORPUS = "cluster-corpus"
NUM_SEEDS = int(os.environ.get("MMCSAL_CLUSTER_FAULTS", "1"))
FAULTY_SHARE = float(os.environ.get("MMCSAL_FAULTY_SHARE", "0.02"))
SETTINGS = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 3}


def _list_workers(nodes: Iterable[Node], stage: str) -> list[psutil.Process]:
    """List those of a stage's workers that are on some nodes."""
    raylets = [psutil.Process(node.all_processes["raylet"][0].process.pid) for node in nodes]
    return [child for raylet in raylets for child in list_children(raylet, recursive=False) if works_for(child, stage)]


def _lose_node(cluster: Cluster, job: psutil.Process, stage: str, draw: Random) -> bool:
    busy = [node for node in cluster.worker_nodes if _list_workers([node], stage)]
    if busy:
        cluster.remove_node(draw.choice(busy), allow_graceful=False)
    return bool(busy)


def _kill_job(cluster: Cluster, job: psutil.Process, stage: str, draw: Random) -> bool:
    return kill([job])


def _kill_worker(cluster: Cluster, job: psutil.Process, stage: str, draw: Random) -> bool:
    workers = _list_workers(cluster.list_all_nodes(), stage)
    return kill(draw.sample(workers, min(1, len(workers))))


def _kill_job_and_workers(cluster: Cluster, job: psutil.Process, stage: str, draw: Random) -> bool:
    workers = _list_workers(cluster.list_all_nodes(), stage)
    return bool(workers) and kill([job]) and kill(workers)


LOSSES: dict[str, Callable[[Cluster, psutil.Process, str, Random], bool]] = {
    "a node": _lose_node,
    "the job's own process": _kill_job,
    "a worker": _kill_worker,
    "the whole job": _kill_job_and_workers,
}


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


@pytest.fixture(scope="module")
def undisturbed(dirty_corpus: Path, s3_endpoint: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The configuration of a finished run from a bucket: one process did all of it, on a store that never fails."""
    bucket = s3fs.S3FileSystem(endpoint_url=s3_endpoint, skip_instance_cache=True)
    bucket.mkdir(CORPUS, region_name=REGION)
    bucket.put(str(dirty_corpus), f"{CORPUS}/{dirty_corpus.name}")
    options = {"endpoint_url": s3_endpoint}
    values = make_config(dirty_corpus, tmp_path_factory.mktemp("undisturbed"), source_options=options)
    values["source"]["url"] = f"s3://{CORPUS}/{dirty_corpus.name}"
    run_job(parse_config(values), JsonReporter())
    return values


@pytest.mark.parametrize("seed", range(NUM_SEEDS))
def test_a_rerun_ends_in_the_same_bytes(
    undisturbed: dict[str, Any],
    tmp_path: Path,
    s3_endpoint: str,
    proxy: FaultProxy,
    cluster: Cluster,
    seed: int,
    record_property: Callable[[str, object], None],
) -> None:
    name, draw, reference = f"cluster-faults-{seed}", Random(seed), Path(undisturbed["output"]) / "run_id=t"
    bucket = s3fs.S3FileSystem(endpoint_url=s3_endpoint, skip_instance_cache=True)
    bucket.mkdir(name, region_name=REGION)
    options = {"endpoint_url": proxy.endpoint, "config_kwargs": {"read_timeout": 2}}
    private = tmp_path / "private"
    private.mkdir()
    values = undisturbed | {"source_options": options, "output_options": options, "ray": {"address": cluster.address}}
    target = list(LOSSES)[seed % len(LOSSES)]

    def prepare(moment: Moment) -> tuple[Path, Store]:
        output = f"s3://{name}/{moment.stage}"
        resources = {"rows_per_shard": 256, "num_readers": 2, **put_on_workers(moment.stage)}
        config = write_config(private / "job.yaml", values | {"output": output, "resources": resources})
        return config, Store(f"{output}/run_id=t", {"endpoint_url": s3_endpoint})

    def lose(job: "subprocess.Popen[str]", stage: str) -> bool:
        return LOSSES[target](cluster, psutil.Process(job.pid), stage, draw)

    proxy.random, proxy.share = Random(seed), FAULTY_SHARE
    job = disturb_job(draw_moments(draw, seed + 1, reference), prepare, lose, private)
    lost = f"{target} in {job.stage}"
    record_property("lost", lost)
    assert "Traceback" not in job.told, (lost, job.told)
    is_killed = target in ("the job's own process", "the whole job")
    assert job.returncode in ((-signal.SIGKILL,) if is_killed else (0, 6)), (lost, job.told)
    expected, kinds = FAULTY_SHARE * proxy.num_requests, {fault for fault, _, _ in proxy.met}
    assert proxy.met
    assert abs(len(proxy.met) - expected) <= 4 * expected**0.5 + 1
    assert len(kinds) >= min(3, len(proxy.met) // 7)
    proxy.share = 0.0
    resources = {"rows_per_shard": 256, "num_actors": 2, "max_driver_pairs": 0}
    write_config(job.config, yaml.safe_load(job.config.read_text()) | {"resources": resources})
    run_json("run", job.config, private=private)
    assert call_json("run", job.config)["executed"] == []
    copy = tmp_path / "copy"
    bucket.invalidate_cache()
    bucket.get(job.run.root, str(copy), recursive=True)
    assert call_json("validate", copy)["ok"] is True
    for folder in FOLDERS.values():
        assert read_results(copy / folder) == read_results(reference / folder), (lost, folder)
    bucket.rm(name, recursive=True)
