"""Every command that the README shows, run as it stands there."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from tests.corpora import write_clip_folder, write_image_text_parquet

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
QUICK = {"encoder": "\nencoder:\n  epochs: 3\n  out_of_fold_epochs: 1\n"}
"""What a test adds to the README's configurations: a short training, nothing else."""


def find_block(title: str) -> str:
    """Return the fenced block that follows the comment `<!-- title -->`."""
    found = re.search(rf"<!-- {re.escape(title)} -->\n```\w*\n(.*?)```", README, re.DOTALL)
    assert found is not None, title
    return found[1]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the corpora and the configurations of the README, and the virtual environment it speaks of."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / ".venv").symlink_to(sys.prefix)
    write_image_text_parquet(folder / "pairs.parquet", 300)
    write_clip_folder(folder / "clips", 48)
    for name in ("first.yaml", "clips.yaml"):
        (folder / name).write_text(find_block(f"file: {name}") + QUICK["encoder"])
    return folder


def run_block(title: str, workplace: Path, **environment: str) -> str:
    """Run a block of the README with bash, stopping at the first command that fails."""
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", find_block(title)],
        check=False,
        cwd=workplace,
        capture_output=True,
        text=True,
        timeout=540,
        env={**os.environ, "PATH": f"{sys.prefix}/bin:{os.environ['PATH']}", **environment},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def own_pairs(workplace: Path) -> str:
    return run_block("run: own pairs", workplace)


def test_every_command_of_the_readme_is_in_a_block_that_a_test_runs() -> None:
    fenced = re.findall(r"(<!-- [^\n]* -->\n)?```(\w*)\n(.*?)```", README, re.DOTALL)
    unmarked = [block for mark, language, block in fenced if not mark]
    assert unmarked == [block for mark, language, block in fenced if "make demo" in block]
    marks = set(re.findall(r"<!-- (.*?) -->", README))
    files, runs = (
        {"file: first.yaml", "file: clips.yaml"},
        {"own pairs", "constraints", "evaluate", "growth", "folder", "cluster"},
    )
    assert marks == {*files, *(f"run: {name}" for name in runs), "sql"}


def test_own_pairs(own_pairs: str, workplace: Path) -> None:
    assert "nothing to do" in own_pairs
    assert "checks hold" in own_pairs
    assert (workplace / "out" / "run_id=first" / "report" / "index.html").exists()


def test_the_query_gives_ten_ranked_pairs(own_pairs: str, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workplace)
    rows = duckdb.execute(find_block("sql")).fetchall()
    assert [row[0] for row in rows] == list(range(10))
    assert all(isinstance(row[2], str) and row[3] >= 1 for row in rows)


def test_four_readers_read_the_same(own_pairs: str, workplace: Path) -> None:
    run = workplace / "out" / "run_id=first"
    for name, rows in (("selection", 50), ("embeddings", 300)):
        folder, pattern = run / name / "data", f"{run}/{name}/data/*.parquet"
        table = ds.dataset(folder).to_table()
        ids = table["pair_id"].to_pylist()
        assert len(ids) == rows
        assert pd.read_parquet(folder)["pair_id"].tolist() == ids
        assert pl.read_parquet(pattern)["pair_id"].to_list() == ids
        assert [row[0] for row in duckdb.execute(f"SELECT pair_id FROM '{pattern}'").fetchall()] == ids
    vectors = ds.dataset(run / "embeddings" / "data").schema.field("image_embedding").type
    assert (pa.types.is_fixed_size_list(vectors), vectors.value_type) == (True, pa.float32())
    assert duckdb.execute(f"SELECT typeof(image_embedding) FROM '{run}/embeddings/data/*.parquet' LIMIT 1").fetchall()
    assert pl.read_parquet(f"{run}/embeddings/data/*.parquet")["image_embedding"].dtype == pl.Array(pl.Float32, 128)


def test_constraints(own_pairs: str, workplace: Path) -> None:
    assert run_block("run: constraints", workplace).count("done: coreset, report") == 5


def test_evaluate(own_pairs: str, workplace: Path) -> None:
    printed = run_block("run: evaluate", workplace)
    assert "# Evaluation by `shape`" in printed
    assert "| k-means on features |" in printed
    assert "checks hold" in printed
    assert (workplace / "out" / "run_id=first" / "evaluation" / "curves_features.svg").exists()


def test_growth(own_pairs: str, workplace: Path) -> None:
    picked = "out/run_id=first/selection/data/part-00000-of-00001.parquet"
    shutil.copy(workplace / picked, workplace / "labelled.parquet")
    assert "checks hold" in run_block("run: growth", workplace)
    labelled, picks = (
        set(pq.read_table(workplace / name)["pair_id"].to_pylist())
        for name in ("labelled.parquet", "out/run_id=second/selection/data")
    )
    assert (len(picks), labelled & picks) == (50, set())
    page = (workplace / "out" / "run_id=second" / "report" / "index.html").read_text()
    assert "Kept from run <code>first</code>, where it was fitted to 300 pairs" in page


def test_folder(workplace: Path) -> None:
    assert '"ok": true' in run_block("run: folder", workplace)


@pytest.fixture
def cluster_address() -> Iterator[str]:
    """A real cluster of two nodes on this machine."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    cluster.add_node(num_cpus=2)
    cluster.wait_for_nodes()
    yield cluster.address
    cluster.shutdown()


def test_cluster(workplace: Path, cluster_address: str) -> None:
    run_block("run: cluster", workplace, RAY_ADDRESS=cluster_address)
    assert (workplace / "out" / "run_id=big" / "selection" / "_SUCCESS").exists()
