"""A small pool on one actor is done by the driver: Ray is neither started nor looked for."""

from pathlib import Path

from jobs.exit_codes import ExitCode
from tests.corpora import write_image_text_parquet
from tests.integration.job_process import make_config, run_mmcsal, write_config

NOWHERE = {"address": "127.0.0.1:9"}


def test_a_small_run_needs_no_cluster_and_another_one_says_that_it_is_not_there(tmp_path: Path) -> None:
    write_image_text_parquet(tmp_path / "pairs.parquet", 60)
    values = make_config(tmp_path / "pairs.parquet", tmp_path / "out", ray=NOWHERE)
    run_mmcsal("run", write_config(tmp_path / "small.yaml", values))
    run_mmcsal("validate", tmp_path / "out" / "run_id=t")
    other = {**values, "run_id": "other", "resources": {"num_actors": 2}}
    said = run_mmcsal("run", write_config(tmp_path / "large.yaml", other), expect=ExitCode.INFRASTRUCTURE)
    assert "ray.address must be that of a Ray cluster that answers, got '127.0.0.1:9'" in said
