"""The whole job on a real S3 server: corpus and output in buckets, secrets neither there nor in any log."""

import io
import json
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import ray
import s3fs

from jobs.config import parse_config
from jobs.exit_codes import ExitCode
from mmcsal_core.validation import validate_run
from pipelines.stage_names import STAGES
from tests.corpora import write_image_text_parquet
from tests.fault_proxy import open_fault_proxy
from tests.integration.job_process import call_mmcsal, make_config, read_files, start_mmcsal, write_config
from tests.s3_server import REGION

SECRETS = (b"AKIAPLANTED", b"planted-secret")
BUCKET = "corpus-bucket"
ON_WORKERS = {"rows_per_shard": 256, "num_actors": 2, "cpus_per_actor": 0.5, "selection_actors": 1}


def test_from_bucket_to_bucket_like_from_disk_to_disk(
    ray_session: None, s3_endpoint: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    corpus = write_image_text_parquet(tmp_path / "pairs.parquet", 300)
    values = _plant(make_config(corpus, tmp_path / "out", resources=ON_WORKERS), s3_endpoint)
    bucket = s3fs.S3FileSystem(**values["source_options"], skip_instance_cache=True)
    bucket.mkdir(BUCKET, region_name=REGION)
    bucket.put(str(corpus), f"{BUCKET}/pairs.parquet")
    config = write_config(tmp_path / "job.yaml", values)
    done, again = call_mmcsal("run", config, "--json"), call_mmcsal("run", config)
    assert json.loads(done.stdout)["executed"] == list(STAGES)
    assert again.stdout.startswith("nothing to do")
    refused = _run_where_workers_may_not_write(values, s3_endpoint, tmp_path)
    assert validate_run(parse_config(values).run_store).ok
    bucket.invalidate_cache()
    bucket.get(f"{BUCKET}/out", str(tmp_path / "copy"), recursive=True)
    files = read_files(tmp_path / "copy")
    picks = next(name for name in files if "run_id=t/selection/data" in name)
    assert f"s3://{BUCKET}/pairs.parquet".encode() in _show(picks, files[picks])
    assert json.loads(files["run_id=refused/run_status.json"])["error"]["kind"] == "PermissionError"
    assert _find_secrets(files) == []
    printed = {"fd": "".join(capfd.readouterr()), "done": done.output, "again": again.output, "refused": refused}
    assert _find_secrets({name: text.encode() for name, text in printed.items()}) == []
    assert _find_secrets(_read_ray_logs()) == []
    bucket.rm(BUCKET, recursive=True)


def test_of_two_commands_at_once_on_one_output_one_is_refused_and_the_other_finishes(
    s3_endpoint: str, tmp_path: Path
) -> None:
    s3fs.S3FileSystem(endpoint_url=s3_endpoint).mkdir("contended", region_name=REGION)
    corpus = write_image_text_parquet(tmp_path / "pairs.parquet", 60)
    options = {"output_options": {"endpoint_url": s3_endpoint}}
    values = {**make_config(corpus, tmp_path, ray={"address": "127.0.0.1:9"}, **options), "output": "s3://contended"}
    config = write_config(tmp_path / "job.yaml", values)
    with start_mmcsal("run", config) as one, start_mmcsal("run", config) as two:
        while one.poll() is None and two.poll() is None:
            time.sleep(0.01)
        refused, holder = (one, two) if two.poll() is None else (two, one)
        assert (refused.wait(), holder.poll()) == (ExitCode.LOCKED, None)
        assert holder.communicate(timeout=300)[0].startswith("done: ingest")
        assert holder.returncode == ExitCode.DONE
    assert validate_run(parse_config(values).run_store).ok


def _plant(values: dict[str, Any], endpoint: str) -> dict[str, Any]:
    options = {"endpoint_url": endpoint, "key": "AKIAPLANTED", "secret": "planted-secret"}
    source = {**values["source"], "url": f"s3://{BUCKET}/pairs.parquet"}
    stores = {"source_options": options, "output_options": options, "output": f"s3://{BUCKET}/out"}
    return {**values, **stores, "source": source}


def _run_where_workers_may_not_write(values: dict[str, Any], endpoint: str, folder: Path) -> str:
    """Let a run with actors fail in them, and return all that the command printed."""
    with open_fault_proxy(endpoint) as proxy:
        proxy.plan("403", "PUT", "refused/pairs/data/", times=100)
        resources = {**ON_WORKERS, "max_driver_pairs": 0}
        changed = _plant({**values, "run_id": "refused", "resources": resources}, proxy.endpoint)
        result = call_mmcsal("run", write_config(folder / "refused.yaml", changed), "--json")
        assert proxy.met
    assert (result.exit_code, json.loads(result.stdout)["exit_code"]) == (6, 6)
    assert "PermissionError" in result.stderr
    return result.output


def _read_ray_logs() -> dict[str, bytes]:
    context = ray.get_runtime_context()
    logs = read_files(Path(context.get_temp_dir()) / context.get_session_name() / "logs")
    assert any(name.startswith("worker-") for name in logs)
    return logs


def _find_secrets(files: dict[str, bytes]) -> list[str]:
    return [name for name, data in files.items() if any(secret in _show(name, data) for secret in SECRETS)]


def _show(name: str, data: bytes) -> bytes:
    """Return what a file says; tables are compressed."""
    if not name.endswith(".parquet"):
        return data
    table = pq.read_table(io.BytesIO(data))
    return repr((table.schema, table.to_pylist())).encode()
