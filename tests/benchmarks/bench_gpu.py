"""What a GPU changes: training, k-center and the features stage on it and on the cores beside it, in one run.

`make bench-gpu` needs a CUDA device and prints one JSON object a row: the same code on the same machine, training and
features in processes of their own; `--only features` measures that alone. docs/decisions/0018-on-a-gpu.md says what
came of it.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import faiss
import torch

from jobs.config import parse_config
from jobs.progress import JsonReporter
from jobs.run import run_job
from mmcsal_core.selection.engine.engines import LocalEngine
from tests.benchmarks.bench_features import ROOT, configure, measure, write_corpus
from tests.benchmarks.bench_ray_overhead import make_pool, time_engine
from tests.benchmarks.bench_train import publish_features

NUM_CORES = len(os.sched_getaffinity(0))
WHAT = ("k-center", "features", "training")
FEATURES_SIDES: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("loop", "gpu", {"cpus_per_actor": NUM_CORES, "gpus_per_actor": 1}),
    ("stage", "gpu", {"num_readers": NUM_CORES - 1, "gpus_per_actor": 1}),
    ("stage", "halves of the gpu", {"num_actors": 2, "num_readers": NUM_CORES - 2, "gpus_per_actor": 0.5}),
    ("stage", "cores", {"num_actors": NUM_CORES}),
)


def time_training(folder: Path, num_pairs: int, epochs: int) -> Iterator[dict[str, Any]]:
    """Train on the cores and on the GPU, each in a process of its own."""
    publish_features(folder, num_pairs)
    for device, case in (("cpu", "encoder"), ("cuda", "encoder"), ("cuda", "bfloat16")):
        command = [sys.executable, "-m", "tests.benchmarks.bench_train", "--root", str(folder), "--only", case]
        command += ["--device", device, "--threads", str(NUM_CORES), "--epochs", str(epochs)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        told = json.loads(done.stdout.splitlines()[-1])
        yield {"what": "training", "side": device, "case": case, "pairs": num_pairs, "epochs": epochs, **told}


def time_k_center(num_pairs: int, num_picks: int) -> Iterator[dict[str, Any]]:
    """Pick on the cores by numpy, by what screening finds fastest there, and on the GPU; all from one pool."""
    vectors = make_pool(num_pairs)
    engines = {
        "cores": LocalEngine(),
        "cores, screened": LocalEngine(screening="auto"),
        "gpu": LocalEngine(device="cuda"),
        "gpu, screened": LocalEngine(screening="auto", device="cuda"),
    }
    torch.zeros(1, device="cuda")
    expected = None
    for side, engine in engines.items():
        timing = time_engine(lambda engine=engine: engine, vectors, num_picks)  # type: ignore[misc]
        expected = expected or timing.rounds
        found = {"pairs": num_pairs, "picks": num_picks, "wall_s": timing.warm_s, "same": timing.rounds == expected}
        yield {"what": "k-center", "side": side, **found}


def time_features(folder: Path, num_pairs: int, image_px: int, batch_size: int) -> Iterator[dict[str, Any]]:
    """Run the bare loop with its backbone on the GPU, and the features stage with one there, with two, and without."""
    folder.mkdir()
    corpus = write_corpus(folder / "pairs.parquet", num_pairs)
    for number, (side, kind, asked) in enumerate(FEATURES_SIDES):
        values = configure(str(corpus), {}, folder / str(number), "heavy")
        values["modalities"]["image"]["image_size"] = image_px
        values["features"] = {"batch_size": batch_size}
        run_job(parse_config(values), JsonReporter(), until="ingest")
        found = measure(side, values | {"resources": values["resources"] | asked}, NUM_CORES)
        yield {"what": "features", "side": f"{side}, {kind}", "pairs": num_pairs, "image_px": image_px, **found}


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=WHAT, help="instead of all")
    parser.add_argument("--train-pairs", type=int, default=100_000)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--pool-pairs", type=int, default=400_000)
    parser.add_argument("--picks", type=int, default=2_000)
    parser.add_argument("--pairs", type=int, default=20_480)
    parser.add_argument("--image-px", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=256)
    asked = parser.parse_args()
    faiss.omp_set_num_threads(NUM_CORES)
    with tempfile.TemporaryDirectory() as folder:
        rows = {
            "k-center": time_k_center(asked.pool_pairs, asked.picks),
            "features": time_features(Path(folder) / "features", asked.pairs, asked.image_px, asked.batch_size),
            "training": time_training(Path(folder) / "train", asked.train_pairs, asked.epochs),
        }
        for what in (asked.only,) if asked.only else WHAT:
            for row in rows[what]:
                print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
