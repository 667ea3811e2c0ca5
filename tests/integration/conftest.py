"""One corpus and one finished run that several modules compare with."""

import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from jobs.config import parse_config
from jobs.progress import JsonReporter
from jobs.run import STAGES, run_job
from tests.corpora import break_pictures, make_image_text_table
from tests.integration.job_process import make_config

NUM_PAIRS = 1100


@pytest.fixture(scope="session")
def dirty_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus in which every fiftieth picture is none, so that shards differ in what they reject."""
    path = tmp_path_factory.mktemp("corpus") / "pairs.parquet"
    pq.write_table(break_pictures(make_image_text_table(NUM_PAIRS), every=50), path)
    return path


@pytest.fixture(scope="session")
def finished(ray_session: None, dirty_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The configuration of a run that is finished: five shards, five actors. No test changes it."""
    resources = {"rows_per_shard": 256, "num_actors": 5, "cpus_per_actor": 0.2}
    values = make_config(dirty_corpus, tmp_path_factory.mktemp("finished"), resources=resources)
    assert run_job(parse_config(values), JsonReporter()).executed == STAGES
    return values


@pytest.fixture
def copied(finished: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """The configuration of a copy of the finished run, for the test to change."""
    output = tmp_path / "copied"
    shutil.copytree(finished["output"], output)
    return {**finished, "output": str(output)}
