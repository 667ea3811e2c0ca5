"""The machine that a benchmark ran on, in words, and how fast it multiplies matrices."""

import importlib.metadata
import os
import platform
import time
from dataclasses import dataclass
from pathlib import Path

import faiss
import numpy as np
import psutil
from threadpoolctl import threadpool_info, threadpool_limits

SGEMM_ROWS = 2048
SGEMM_REPEATS = 8


@dataclass(frozen=True)
class Machine:
    """Processor, memory and software in words; the fp32 rate of one core in GF/s."""

    processor: str
    memory_gib: float
    software: tuple[str, ...]
    sgemm_gflops: float


def describe_machine(packages: tuple[str, ...]) -> Machine:
    """Describe this machine, and measure the matrix product of numpy on one thread."""
    blas = sorted({f"{lib['internal_api']} {lib['version']}" for lib in threadpool_info() if lib["user_api"] == "blas"})
    versions = [f"{name} {importlib.metadata.version(name)}" for name in packages] + [f"faiss {faiss.__version__}"]
    software = (f"Python {platform.python_version()}", *versions, f"BLAS: {', '.join(blas)}")
    memory = psutil.virtual_memory().total / 2**30
    return Machine(_describe_processor(), memory, software, measure_sgemm())


def measure_sgemm() -> float:
    """Return the best rate of several float32 matrix products on one thread, in GF/s of CPU time."""
    rng = np.random.default_rng(0)
    left, right = (rng.standard_normal((SGEMM_ROWS, SGEMM_ROWS), dtype=np.float32) for _ in range(2))
    out = np.empty_like(left)
    fastest = np.inf
    with threadpool_limits(1):
        for _ in range(SGEMM_REPEATS):
            started = time.process_time()
            np.matmul(left, right, out=out)
            fastest = min(fastest, time.process_time() - started)
    return float(2 * SGEMM_ROWS**3 / fastest / 1e9)


def _describe_processor() -> str:
    entries: dict[str, str] = {}
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(":")
        entries.setdefault(name.strip(), value.strip())
    flags = entries.get("flags", "").split()
    widest = next((name for name in ("avx512f", "avx2", "avx") if name in flags), "no AVX")
    maker = entries.get("vendor_id", "")
    family, model = entries.get("cpu family", "?"), entries.get("model", "?")
    cores = len(os.sched_getaffinity(0))
    return f"{cores} cores, {platform.machine()}, {maker} family {family} model {model}, {widest}"
