"""One corpus and one finished run that several modules compare with."""

import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from filelock import FileLock

from jobs.config import parse_config
from jobs.progress import JsonReporter
from jobs.run import run_job
from pipelines.stage_names import STAGES
from tests.corpora import break_pictures, make_image_text_table
from tests.integration.job_process import make_config

NUM_PAIRS = 1100


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A folder of all processes of a test run."""
    own = tmp_path_factory.getbasetemp()
    folder = (own if worker_id == "master" else own.parent) / "shared"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def dirty_corpus(shared_folder: Path) -> Path:
    """A corpus in which every fiftieth picture is none, so that shards differ in what they reject."""
    path = shared_folder / "pairs.parquet"
    with FileLock(shared_folder / "corpus.lock"):
        if not path.exists():
            pq.write_table(break_pictures(make_image_text_table(NUM_PAIRS), every=50), path)
    return path


@pytest.fixture(scope="session")
def finished(dirty_corpus: Path, shared_folder: Path) -> dict[str, Any]:
    """The configuration of a run that is finished: five shards, all done by one process. No test changes it."""
    values = make_config(dirty_corpus, shared_folder / "finished")
    with FileLock(shared_folder / "finished.lock"):
        executed = run_job(parse_config(values), JsonReporter()).executed
    assert executed in (STAGES, ())  # nothing where another test process has run it
    return values


@pytest.fixture
def copied(finished: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """The configuration of a copy of the finished run, for the test to change."""
    output = tmp_path / "copied"
    shutil.copytree(finished["output"], output)
    return {**finished, "output": str(output)}
