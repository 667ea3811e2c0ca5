"""Time and peak memory of the train stage: 100k pairs of 1280 and 384 dimensions, 20 epochs, two threads.

`python -m tests.benchmarks.bench_train` writes the features, then runs each case in a process of its own: what a worker
of the stage does, from reading the shards to publishing, without Ray. The limits are 10 minutes and 4 GB; a case that
does not fit ends it with 1.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import faiss
import numpy as np
import pyarrow as pa
import torch

from mmcsal_core.artifacts import Artifact, plan_ranges
from mmcsal_core.encoder import EncoderConfig
from mmcsal_core.encoder.workers import Workers
from mmcsal_core.schema import feature_schema
from mmcsal_core.storage import Store
from mmcsal_core.vector_columns import list_vectors
from pipelines.feature_spool import spool_features
from pipelines.stage_run import Resources
from pipelines.train_worker import TrainTask, TrainWorker

DIMS = {"image": 1280, "text": 384}
NUM_CLUSTERS = 500
ROWS_PER_SHARD = 4096
MAX_S, MAX_GB = 600.0, 4.0


@dataclass(frozen=True)
class Case:
    """Changes to the default encoder."""

    out_of_fold_folds: int = 0
    precision: str = "float32"


CASES = {"encoder": Case(), "encoder and folds": Case(3), "bfloat16": Case(precision="bfloat16")}


def publish_features(root: Path, num_pairs: int) -> Artifact:
    """Publish two noisy views of clusters, shard by shard."""
    rng = np.random.default_rng(0)
    centers = 1.5 * rng.standard_normal((NUM_CLUSTERS, 64), dtype=np.float32)
    mixing = {name: rng.standard_normal((64, dim), dtype=np.float32) for name, dim in DIMS.items()}
    artifact = Artifact(Store(str(root)), "features", "features")
    plan = artifact.begin("made", lambda: plan_ranges(num_pairs, ROWS_PER_SHARD))
    for shard in plan.shards:
        size = shard.stop - shard.start
        shared = centers[rng.integers(NUM_CLUSTERS, size=size)] + rng.standard_normal((size, 64), dtype=np.float32)
        own = {name: rng.standard_normal((size, 64), dtype=np.float32) for name in DIMS}
        views = [np.tanh((shared + 0.8 * own[name]) @ mixing[name] / 12) for name in DIMS]
        ids = pa.array([f"p{row * 7919 % num_pairs:08d}" for row in range(shard.start, shard.stop)])
        columns = [pa.array(range(shard.start, shard.stop)), ids, *map(list_vectors, views)]
        artifact.commit_shard(plan, shard, pa.table(columns, schema=feature_schema(DIMS)))
    artifact.finish(plan)
    return artifact


def run_case(root: Path, case: Case, epochs: int, num_threads: int, device: str) -> dict[str, object]:
    """Train once; return seconds, peak memory and how well held-back pairs are retrieved."""
    features, out = (Artifact(Store(str(root)), name, name) for name in ("features", "encoder"))
    torch.set_num_threads(num_threads)
    faiss.omp_set_num_threads(num_threads)
    config = EncoderConfig.model_validate({"epochs": epochs, **vars(case)})
    out.store.remove()
    task = TrainTask(features, out, out.begin("bench", list), tuple(DIMS), 0, config, Resources())
    wall, cpu = time.perf_counter(), time.process_time()
    TrainWorker(task, spool_features(features, task.modalities), device, Workers()).train()
    metrics = out.store.read_json("metrics.json")
    return {
        "wall_s": round(time.perf_counter() - wall, 1),
        "cpu_s": round(time.process_time() - cpu, 1),
        "peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, 2),
        "mean_reciprocal_rank": round(metrics["held_back_retrieval"][-1], 4),
    }


def main() -> None:
    """Write the features and run each case in its own process, or run one case."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=int, default=100_000)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu", help="e.g. cuda")
    parser.add_argument("--only", choices=CASES, help="one case")
    parser.add_argument("--root", type=Path, help="features that are already there: run the case in this process")
    options = parser.parse_args()
    if options.root:
        case = CASES[options.only]
        print(json.dumps(run_case(options.root, case, options.epochs, options.threads, options.device)))
        return
    sizes = ["--epochs", str(options.epochs), "--threads", str(options.threads), "--device", options.device]
    all_fit = True
    with tempfile.TemporaryDirectory() as root:
        publish_features(Path(root), options.pairs)
        for name in [options.only] if options.only else CASES:
            command = [sys.executable, "-m", __spec__.name, "--root", root, "--only", name, *sizes]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            line = json.loads(done.stdout.splitlines()[-1])
            fits = line["wall_s"] <= MAX_S and line["peak_gb"] <= MAX_GB
            told = {"case": name, "pairs": options.pairs, "epochs": options.epochs, "threads": options.threads}
            print(json.dumps({**told, **line, "fits": fits}), flush=True)
            all_fit = all_fit and fits
    sys.exit(not all_fit)


if __name__ == "__main__":
    main()
