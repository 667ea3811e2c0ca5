"""The whole job on a real S3 server: corpus and output in buckets, secrets in neither."""

from pathlib import Path

import s3fs

from jobs.config import parse_config
from jobs.progress import JsonReporter
from jobs.run import run_job
from mmcsal_core.validation import validate_run
from pipelines.stage_names import STAGES
from tests.corpora import write_image_text_parquet
from tests.integration.job_process import make_config, read_files
from tests.s3_server import REGION


def test_from_bucket_to_bucket_like_from_disk_to_disk(ray_session: None, s3_endpoint: str, tmp_path: Path) -> None:
    corpus = write_image_text_parquet(tmp_path / "pairs.parquet", 300)
    options = {"endpoint_url": s3_endpoint, "key": "AKIAPLANTED", "secret": "planted-secret"}
    bucket = s3fs.S3FileSystem(**options, skip_instance_cache=True)
    bucket.mkdir("corpus-bucket", region_name=REGION)
    bucket.put(str(corpus), "corpus-bucket/pairs.parquet")
    values = make_config(corpus, tmp_path / "out", source_options=options, output_options=options)
    values["source"]["url"] = "s3://corpus-bucket/pairs.parquet"
    values["output"] = "s3://corpus-bucket/out"
    config = parse_config(values)
    assert run_job(config, JsonReporter()).executed == STAGES
    assert run_job(config, JsonReporter()).executed == ()
    assert validate_run(config.run_store).ok
    bucket.invalidate_cache()
    bucket.get("corpus-bucket/out", str(tmp_path / "copy"), recursive=True)
    files = read_files(tmp_path / "copy")
    assert any("selection/data" in name for name in files)
    assert not [name for name, data in files.items() if b"AKIAPLANTED" in data or b"planted-secret" in data]
    bucket.rm("corpus-bucket", recursive=True)
