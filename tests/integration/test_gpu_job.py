"""The whole job on a GPU against the same job on the CPU: how close they are, and that a GPU repeats itself.

A GPU adds in another order. So its results are not the bytes of the CPU's: a feature has a cosine of 0.99999 with the
CPU's own, an embedding of 0.99 after training on the GPU's features. Without prototypes: their clusters answer a change
in the last bits with another assignment of pairs that tie, as equal captions do here.
"""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from mmcsal_core.artifacts import Artifact
from mmcsal_core.schema import PAIR_ID, embedding_column, feature_column
from mmcsal_core.storage import Store
from mmcsal_core.vector_columns import stack_vectors
from tests.corpora import write_image_text_parquet
from tests.cuda import needs_cuda
from tests.integration.job_process import QUICK_ENCODER, make_config, read_results, run_json, write_config

MODALITIES = ("image", "text")
ON_GPU = {"rows_per_shard": 256, "gpus_per_actor": 0.5, "num_actors": 2}
JOBS: dict[str, dict[str, Any]] = {
    "cpu": {"rows_per_shard": 256},
    "gpu": ON_GPU,
    "gpu again": ON_GPU,
    "shared gpu": ON_GPU | {"train_workers": 2},
}

Runs = Mapping[str, Path]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_image_text_parquet(tmp_path_factory.mktemp("corpus") / "pairs.parquet", 600)


@pytest.fixture(scope="module", params=["frozen", "last block"])
def runs(request: pytest.FixtureRequest, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Run every job, all at once, each with a Ray of its own."""
    folder = tmp_path_factory.mktemp("jobs")
    image = {"column": "image", "image_size": 64, "finetune_last_block": request.param == "last block"}
    steady = QUICK_ENCODER | {"dropout": 0.0, "noise": 0.0, "lambda_proto": 0.0}

    def run(name: str) -> Path:
        changes = {"resources": JOBS[name], "encoder": steady, "ray": {"num_cpus": 3}}
        values = make_config(corpus, folder / name, **changes)
        values["modalities"]["image"] = image
        run_json("run", write_config(folder / f"{name}.yaml", values))
        return folder / name / "run_id=t"

    with ThreadPoolExecutor(len(JOBS)) as threads:
        return dict(zip(JOBS, threads.map(run, JOBS), strict=True))


def read_vectors(run: Path, artifact: str, column: str) -> npt.NDArray[np.float32]:
    table = Artifact(Store(str(run)), artifact, artifact).read_table([PAIR_ID, column])
    return stack_vectors(table.sort_by(PAIR_ID), column)


def compare(runs: Runs, name: str, artifact: str, column: str) -> float:
    ours, theirs = (read_vectors(runs[each], artifact, column) for each in (name, "cpu"))
    lengths = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    return float((np.einsum("nd,nd->n", ours, theirs) / lengths).min())


@needs_cuda
@pytest.mark.parametrize("modality", MODALITIES)
def test_features_and_embeddings_are_close_to_those_of_the_cpu(runs: Runs, modality: str) -> None:
    assert compare(runs, "gpu", "features", feature_column(modality)) > 0.99999
    for name in ("gpu", "shared gpu"):
        assert compare(runs, name, "embeddings", embedding_column(modality)) > 0.99


@needs_cuda
def test_a_second_run_on_a_gpu_ends_in_the_same_bytes(runs: Runs) -> None:
    for artifact in ("features", "encoder", "embeddings", "neighbors", "selection"):
        assert read_results(runs["gpu again"] / artifact) == read_results(runs["gpu"] / artifact)
