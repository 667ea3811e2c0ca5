"""A store that refuses or fails for longer than it is tried again: exit 6, no pair lost, and the run goes on later."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import s3fs

from tests.corpora import make_image_text_table
from tests.fault_proxy import Fault, FaultProxy, open_fault_proxy
from tests.integration.job_process import FOLDERS, call_json, call_mmcsal, make_config, read_results, write_config
from tests.s3_server import REGION

SHARD_ROWS = 256
NUM_PAIRS = 2 * SHARD_ROWS + 48
BUCKET = "refused-corpus"


@pytest.fixture(scope="module")
def manifest(s3_endpoint: str) -> str:
    """A manifest in a bucket that points to pictures beside it."""
    store = s3fs.S3FileSystem(endpoint_url=s3_endpoint)
    store.mkdir(BUCKET, region_name=REGION)
    rows = make_image_text_table(NUM_PAIRS).to_pylist()
    store.pipe({f"{BUCKET}/{row['id']}.png": row["image"] for row in rows})
    lines = [json.dumps({"id": row["id"], "image": f"{row['id']}.png", "caption": row["caption"]}) for row in rows]
    store.pipe_file(f"{BUCKET}/pairs.jsonl", "\n".join(lines).encode())
    return f"s3://{BUCKET}/pairs.jsonl"


def describe_job(manifest: str, endpoint: str, output: Path) -> dict[str, Any]:
    once = {"retries": {"max_attempts": 0}}
    values = make_config(Path("unused"), output, source_options={"endpoint_url": endpoint, "config_kwargs": once})
    values["source"] = {"kind": "manifest", "url": manifest, "pair_id_column": "id"}
    values["modalities"]["image"] = {"uri_column": "image", "image_size": 32}
    return values | {"resources": {"rows_per_shard": SHARD_ROWS, "num_readers": 1}}


@pytest.fixture(scope="module")
def undisturbed(manifest: str, s3_endpoint: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    job = write_config(folder / "job.yaml", describe_job(manifest, s3_endpoint, folder / "out"))
    assert call_json("run", job)["executed"]
    return folder / "out" / "run_id=t"


@pytest.fixture
def proxy(s3_endpoint: str) -> Iterator[FaultProxy]:
    with open_fault_proxy(s3_endpoint) as proxy:
        yield proxy


def test_pairs_that_a_store_refuses_for_a_while_are_read_later(
    manifest: str, proxy: FaultProxy, undisturbed: Path, tmp_path: Path
) -> None:
    job = write_config(tmp_path / "job.yaml", describe_job(manifest, proxy.endpoint, tmp_path / "out"))
    run = tmp_path / "out" / "run_id=t"
    faults: list[tuple[Fault, str]] = [("clock", "set the clock right"), ("503", "cannot be asked for now")]
    for num_shards, (fault, words) in enumerate(faults, start=1):
        proxy.plan("pass", "GET", ".png", times=SHARD_ROWS + 8)  # one shard more, and some pairs of the next
        proxy.plan(fault, "GET", ".png", times=9999)
        failed = call_mmcsal("run", job)
        assert (failed.exit_code, words in failed.stderr) == (6, True), failed.stderr
        assert "Traceback" not in failed.stderr
        assert len(list((run / "features" / "data").glob("*.parquet"))) == num_shards
        proxy.forget()
    assert "features" in call_json("run", job)["executed"]
    assert call_json("validate", run)["ok"] is True
    for name in ("features", "embeddings", "neighbors", "selection"):
        assert read_results(run / name) == read_results(undisturbed / name), name


@pytest.mark.parametrize(
    ("fault", "code", "words"),
    [("503", 6, "cannot be asked for now"), ("reset", 6, "cannot be asked for now"), ("403", 3, "check source.url")],
)
def test_a_source_that_cannot_be_listed_is_told_from_one_that_may_not_be(
    manifest: str, proxy: FaultProxy, tmp_path: Path, fault: Fault, code: int, words: str
) -> None:
    job = write_config(tmp_path / "job.yaml", describe_job(manifest, proxy.endpoint, tmp_path / "out"))
    for method in ("HEAD", "GET"):
        proxy.plan(fault, method, times=9999)
    failed = call_mmcsal("run", job)
    assert (failed.exit_code, words in failed.stderr, "Traceback" in failed.stderr) == (code, True, False), (
        failed.stderr
    )


OUTPUT_FAULTS: tuple[tuple[Fault, str, str], ...] = (
    ("500", "PUT", "/pairs/"),
    ("truncate", "GET", "/pairs/data/"),
    ("503", "PUT", "/features/"),
    ("403", "PUT", "/encoder/"),
    ("stall", "PUT", "/neighbors/"),
    ("reset", "PUT", "/report/"),
)
"""What befalls every request of a kind, one after the other, from the first stage to the last."""


def test_a_run_goes_on_after_whatever_its_output_did_for_a_while(
    finished: dict[str, Any], s3_endpoint: str, proxy: FaultProxy, tmp_path: Path
) -> None:
    bucket = s3fs.S3FileSystem(endpoint_url=s3_endpoint, skip_instance_cache=True)
    bucket.mkdir("failing-output", region_name=REGION)
    proxy.stall_s = 1.0
    once = {"retries": {"max_attempts": 0}, "read_timeout": 0.3}
    options = {"endpoint_url": proxy.endpoint, "config_kwargs": once}
    values = finished | {"output": "s3://failing-output/out", "output_options": options}
    job = write_config(tmp_path / "job.yaml", values)
    for fault, method, part in OUTPUT_FAULTS:
        proxy.plan(fault, method, part, times=9999)
        failed = call_mmcsal("run", job)
        assert failed.exit_code == 6, (fault, method, part, failed.output)
        assert "Traceback" not in failed.stderr
        assert proxy.met[-1] == (fault, method, part)
        proxy.forget()
    assert call_json("run", job)["executed"] == ["report"]
    copy = tmp_path / "copy"
    bucket.get("failing-output/out/run_id=t", str(copy), recursive=True)
    assert call_json("validate", copy)["ok"] is True
    for name in FOLDERS.values():
        assert read_results(copy / name) == read_results(Path(finished["output"]) / "run_id=t" / name), name
    bucket.rm("failing-output", recursive=True)
