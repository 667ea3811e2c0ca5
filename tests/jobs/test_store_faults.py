"""A store that fails for a while fails nobody, and one that refuses is named: a real S3 server behind a proxy."""

import json
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pyarrow as pa
import pytest
import s3fs

from jobs import lock
from jobs.lock import LOCK, RunLock, is_held, read_owner
from jobs.store_health import probe_store, warn_of_store
from mmcsal_core.corpus.sources.locations import find_files
from mmcsal_core.errors import DataError, LockError
from mmcsal_core.storage import Store
from tests.corpora import write_image_text_parquet
from tests.fault_proxy import Fault, FaultProxy, open_fault_proxy
from tests.integration.job_process import call_mmcsal, make_config, write_config
from tests.s3_server import REGION

TABLE = pa.table({"number": list(range(1000))})


@pytest.fixture(scope="module")
def bucket(s3_endpoint: str) -> str:
    s3fs.S3FileSystem(endpoint_url=s3_endpoint).mkdir("faulty", region_name=REGION)
    return "s3://faulty"


@pytest.fixture
def proxy(s3_endpoint: str) -> Iterator[FaultProxy]:
    with open_fault_proxy(s3_endpoint) as proxy:
        yield proxy


def _open(bucket: str, proxy: FaultProxy, name: str) -> Store:
    return Store(f"{bucket}/{name}", {"endpoint_url": proxy.endpoint, "config_kwargs": {"read_timeout": 1}})


@pytest.mark.parametrize("fault", ["500", "503", "reset", "stall", "lost answer"])
def test_a_write_is_tried_again(bucket: str, proxy: FaultProxy, fault: Fault) -> None:
    store = _open(bucket, proxy, f"write-{fault.replace(' ', '-')}")
    proxy.stall_s = 2
    proxy.plan(fault, "PUT", "a.parquet", times=2)
    store.write_table("a.parquet", TABLE)
    assert proxy.is_empty
    assert store.read_table("a.parquet").equals(TABLE)


@pytest.mark.parametrize("fault", ["500", "503", "reset", "stall", "truncate", "lost answer"])
def test_a_read_is_tried_again_and_gives_every_byte(bucket: str, proxy: FaultProxy, fault: Fault) -> None:
    store = _open(bucket, proxy, f"read-{fault.replace(' ', '-')}")
    store.write_table("a.parquet", TABLE)
    proxy.stall_s = 2
    proxy.plan(fault, "GET", "a.parquet", times=2)
    assert store.read_table("a.parquet").equals(TABLE)
    assert proxy.is_empty


@pytest.mark.parametrize("method", ["GET", "PUT"])
def test_what_is_forbidden_is_said_at_once(bucket: str, proxy: FaultProxy, method: str) -> None:
    store = _open(bucket, proxy, "forbidden")
    store.write_bytes("a", b"data")
    proxy.plan("403", method, "/a", times=5)
    with pytest.raises(PermissionError):
        store.write_bytes("a", b"data") if method == "PUT" else store.read_bytes("a")
    assert len(proxy.met) == 1


@pytest.mark.parametrize(
    ("path", "names"),
    [("pairs.parquet", ["pairs.parquet"]), ("", ["pairs.parquet", "text.txt"]), ("*.txt", ["text.txt"])],
)
def test_a_refusal_at_listing_renames_no_file(bucket: str, proxy: FaultProxy, path: str, names: list[str]) -> None:
    store, url = _open(bucket, proxy, "listed"), f"{bucket}/listed/{path}".rstrip("/")
    for name in ("pairs.parquet", "text.txt"):
        store.write_bytes(name, b"x")
    listed = find_files(url, store.options)
    assert [file.name for file in listed.files] == names
    proxy.plan("403", "HEAD", "/listed")
    assert find_files(url, store.options) == listed
    assert proxy.is_empty
    proxy.plan("403", "HEAD", "/listed", times=2)
    proxy.plan("403", "GET", "?list-type=2")
    with pytest.raises(DataError, match=r"source s3://faulty/listed.* cannot be listed .*PermissionError"):
        find_files(url, store.options)


def test_a_lock_whose_answer_was_lost_is_ours(bucket: str, proxy: FaultProxy) -> None:
    run = _open(bucket, proxy, "run_id=lost")
    proxy.plan("lost answer", "PUT", LOCK)
    with RunLock(run):
        assert proxy.is_empty
        assert read_owner(run) is not None
    assert read_owner(run) is None


def test_the_clock_of_the_store_tells_how_old_a_lock_is(bucket: str, proxy: FaultProxy) -> None:
    run = _open(bucket, proxy, "run_id=clock")
    owner = {"token": "t", "host": "elsewhere", "pid": 1, "started": 0.0, "heartbeat": time.time() - 3600}
    run.write_bytes(LOCK, json.dumps(owner).encode())
    with pytest.raises(LockError), RunLock(run):
        pass
    assert is_held(run)
    proxy.plan("403", "PUT", "_clock-")
    assert not is_held(run)  # who may not write is told by the clocks of the two machines
    assert proxy.is_empty
    assert run.list_files() == [LOCK]


def test_of_two_that_hold_a_lock_since_a_request_came_late_the_next_check_leaves_one(
    bucket: str, proxy: FaultProxy, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "EXPIRY_S", 0.0)
    late = _open(bucket, proxy, "run_id=late")
    owner = {"token": "t", "host": "elsewhere", "pid": 1, "started": 0.0, "heartbeat": time.time()}
    late.write_bytes(LOCK, json.dumps(owner).encode())
    proxy.stall_s = 2
    proxy.plan("pass", "POST", "?delete")  # of what tells the store's clock
    proxy.plan("stall", "POST", "?delete", times=3)
    with ThreadPoolExecutor(1) as pool:
        slow, quick = RunLock(late), RunLock(Store(late.url, {"endpoint_url": s3_endpoint}))
        entered = pool.submit(slow.__enter__)
        while len(proxy.met) < 2:
            time.sleep(0.01)
        with quick:
            quick.check()
            entered.result()
            slow.check()
            with pytest.raises(LockError, match="holds it now"):
                quick.check()
        slow.check()
        slow.__exit__(None, None, None)
    assert late.list_files() == []


def test_a_store_that_ignores_conditions_is_warned_of(bucket: str, proxy: FaultProxy, tmp_path: Path) -> None:
    store = _open(bucket, proxy, "run_id=probe")
    assert warn_of_store(store) is None
    assert probe_store(store).conditional_writes
    proxy.dropped_headers.add("if-none-match")
    assert "ignores the condition" in str(warn_of_store(store))
    assert not probe_store(store).conditional_writes
    assert store.list_files() == []
    assert warn_of_store(Store(str(tmp_path))) is None


def test_the_command_says_which_store_cannot_keep_two_runs_apart(
    bucket: str, proxy: FaultProxy, tmp_path: Path
) -> None:
    corpus = write_image_text_parquet(tmp_path / "pairs.parquet", 30)
    values = make_config(corpus, tmp_path, output_options={"endpoint_url": proxy.endpoint})
    config = write_config(tmp_path / "job.yaml", {**values, "output": f"{bucket}/warned"})

    def ingest(run_id: str) -> dict[str, dict[str, str]]:
        result = call_mmcsal("run", config, "--until", "ingest", "--set", f"run_id={run_id}")
        assert result.exit_code == 0, result.output
        told = [json.loads(line) for line in result.stderr.splitlines()]
        return {line["event"]: line for line in told}

    assert set(ingest("heeded")) == {"progress", "stage_done"}
    proxy.dropped_headers.add("if-none-match")
    told = ingest("ignored")
    assert set(told) == {"warning", "progress", "stage_done"}
    assert told["warning"]["message"].startswith(f"{bucket}/warned/run_id=ignored ignores the condition")


MULTIPART_FROM = 100 * 2**20
"""Bytes from which s3fs writes an object in parts, of half as many bytes each."""


def _count_parts(proxy: FaultProxy, name: str) -> list[int]:
    """Return how often each part of an object was sent, the first part first."""
    queries = [urlsplit(request.path) for request in proxy.seen if request.method == "PUT"]
    numbers = [parse_qs(each.query)["partNumber"][0] for each in queries if each.path.endswith(name) and each.query]
    return [count for _, count in sorted(Counter(numbers).items())]


def test_a_large_object_is_written_in_parts_whole_or_not_at_all(bucket: str, proxy: FaultProxy) -> None:
    data = np.random.default_rng(0).bytes(MULTIPART_FROM + 1)
    patient = {"read_timeout": 300}  # a busy machine takes long over 50 MiB, and each part is counted
    once, store = (
        Store(f"{bucket}/large", {"endpoint_url": proxy.endpoint, "config_kwargs": {**patient, **more}})
        for more in ({"retries": {"max_attempts": 0}}, {})
    )
    proxy.plan("500", "PUT", "large/a?partNumber=2")
    with pytest.raises(OSError, match="internal error"):
        once.write_bytes("a", data)
    assert proxy.is_empty
    assert not store.exists("a")
    assert store.filesystem.list_multipart_uploads("faulty") == []
    proxy.plan("503", "PUT", "large/b?partNumber=1")
    proxy.plan("reset", "PUT", "large/b?partNumber=3")
    store.write_bytes("b", data)
    assert _count_parts(proxy, "large/b") == [2, 1, 2]
    assert store.read_bytes("b") == data
    assert store.list_files() == ["b"]
    store.remove()


def test_every_fault_that_passes_befalls_some_request() -> None:
    proxy = FaultProxy("", share=1.0, random=Random(0))
    for method in ("GET", "HEAD", "PUT", "POST", "DELETE") * 40:
        proxy.take(method, "/a")
    assert {fault for fault, _, _ in proxy.met} == {"500", "503", "reset", "stall", "truncate", "lost answer"}
    assert {method for fault, method, _ in proxy.met if fault == "truncate"} == {"GET"}
    assert {method for fault, method, _ in proxy.met if fault == "lost answer"} == {"PUT", "DELETE"}
    assert len(proxy.met) == proxy.num_requests
