"""Peak memory and time of k-center through the front door, each case in a process of its own.

`python -m tests.benchmarks.bench_selection_memory` prints a table; `... CASE` runs one case and prints its line. The
limits are those of docs/decisions/0005-screening.md: 6 GB for a million pairs of 512 dimensions, 12 GB for five
million of 256 dimensions that are stored in float16.
"""

import json
import resource
import subprocess
import sys
import time
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mmcsal_core.selection import select_coreset

BLOCK_ROWS = 50_000
NUM_CLUSTERS = 500


@dataclass(frozen=True)
class Case:
    """A pool and a budget; `max_gb` is the memory that it may take in all, the pool included."""

    num_pairs: int
    dim: int
    dtype: str
    budget: int
    max_gb: float


CASES = {
    "1m": Case(1_000_000, 512, "float32", 10_000, 6.0),
    "5m": Case(5_000_000, 256, "float16", 500, 12.0),
    "small": Case(100_000, 256, "float32", 1000, 1.0),
}


def make_clusters(case: Case) -> npt.NDArray[np.floating]:
    """Make unit vectors in clusters, block by block."""
    rng = np.random.default_rng(0)
    centers = rng.standard_normal((NUM_CLUSTERS, case.dim), dtype=np.float32)
    vectors = np.empty((case.num_pairs, case.dim), dtype=case.dtype)
    for start in range(0, case.num_pairs, BLOCK_ROWS):
        size = min(BLOCK_ROWS, case.num_pairs - start)
        rows = centers[rng.integers(0, NUM_CLUSTERS, size)]
        rows += 0.7 * rng.standard_normal((size, case.dim), dtype=np.float32)
        rows /= np.sqrt(np.einsum("nd,nd->n", rows, rows))[:, None]
        vectors[start : start + size] = rows
    return vectors


def run_case(case: Case) -> dict[str, float]:
    """Select once, weights and covering radius included; return seconds and peak memory."""
    vectors = make_clusters(case)
    wall, cpu = time.perf_counter(), time.process_time()
    radius = select_coreset({"image": vectors}, case.budget, strategy="k_center").covering_radius
    return {
        "cpu_s": round(time.process_time() - cpu, 1),
        "wall_s": round(time.perf_counter() - wall, 1),
        "peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, 2),
        "pool_gb": round(vectors.nbytes / 1e9, 2),
        "radius": round(radius, 6),
    }


def main() -> None:
    """Run one case, or each in its own process."""
    if len(sys.argv) > 1:
        print(json.dumps(run_case(CASES[sys.argv[1]])))
        return
    for name, case in CASES.items():
        done = subprocess.run([sys.executable, "-m", __spec__.name, name], check=True, capture_output=True, text=True)
        line = json.loads(done.stdout.splitlines()[-1])
        print(json.dumps({"case": name, **vars(case), **line, "fits": line["peak_gb"] <= case.max_gb}))


if __name__ == "__main__":
    main()
