"""The same corpus in tar archives gives the same selection as in one Parquet file."""

from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq

from jobs.check import check_run
from jobs.config import parse_config
from jobs.estimate import estimate_run
from jobs.progress import JsonReporter
from jobs.run import run_job
from pipelines.stage_names import STAGES
from tests.integration.job_process import make_config
from tests.tar_files import pack, write_tar


def _write_archives(corpus: Path, folder: Path) -> None:
    """Write the pairs of a Parquet file into three archives of 400, the second one compressed."""
    folder.mkdir()
    rows = pq.read_table(corpus).to_pylist()
    for number, start in enumerate(range(0, len(rows), 400)):
        members = []
        for row in rows[start : start + 400]:
            members += [(f"{row['id']}.png", row["image"]), (f"{row['id']}.txt", row["caption"].encode())]
        write_tar(folder / f"{number:05d}.tar", members)
    pack(folder / "00001.tar", ".tar.zst")
    (folder / "00001.tar").unlink()


def test_a_run_on_archives_picks_the_pairs_of_a_run_on_parquet(
    ray_session: None, finished: dict[str, Any], dirty_corpus: Path, tmp_path: Path
) -> None:
    _write_archives(dirty_corpus, tmp_path / "shards")
    resources = {"rows_per_shard": 256, "num_actors": 2, "cpus_per_actor": 0.5}
    values = make_config(dirty_corpus, tmp_path / "out", resources=resources)
    values["source"] = {"kind": "webdataset", "url": str(tmp_path / "shards"), "pair_id_column": "stem"}
    values["modalities"] = {"image": {"image_size": 32}, "text": {}}
    config = parse_config(values)
    assert not estimate_run(config).is_exact
    assert run_job(config, JsonReporter()).executed == STAGES
    assert check_run(config.run_store).ok
    estimate = estimate_run(config)
    assert (estimate.is_exact, estimate.num_pairs) == (True, 1100)
    assert run_job(config, JsonReporter()).executed == ()
    picks = [
        duckdb.execute(f"SELECT pair_id, rank, gain FROM '{run}/selection/data/*.parquet' ORDER BY rank").fetchall()
        for run in (tmp_path / "out" / "run_id=t", Path(finished["output"]) / "run_id=t")
    ]
    assert picks[0] == picks[1]
