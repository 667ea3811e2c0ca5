"""One run of the selection benchmark in a process of its own: `python -m tests.benchmarks.selection_case request.json`.

Before anything is timed the method runs once on a few rows, which imports and compiles what it needs, and the pool's
pages are touched. A one-pick method that is not run to its last pick also runs for two picks, so that what it does once
is not multiplied. The peak is `VmHWM`: `ru_maxrss` of a started process begins at what its parent held.
"""

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from tests.benchmarks.selection_cases import METHODS
from tests.benchmarks.selection_methods import Answer, Problem, Task
from tests.benchmarks.selection_pools import PoolFacts

WARM_UP_ROWS = 512
WARM_UP_PICKS = 8
SET_UP_PICKS = 2


@dataclass(frozen=True)
class CaseRequest:
    """What the subprocess is to do.

    Args:
        task: of the method.
        method: name.
        facts: of the pool.
        num_picks: picks to time.
        is_whole: whether those are all picks; otherwise what comes before the picks is timed as well.
        memory_bytes: more than this on the heap fails the run, so that it does not take the machine with it.
        picks_path: where the picks go, .npy.
        outcome_path: where the figures go, .json.
    """

    task: Task
    method: str
    facts: PoolFacts
    num_picks: int
    is_whole: bool
    memory_bytes: int
    picks_path: str
    outcome_path: str


@dataclass(frozen=True)
class Outcome:
    """Figures of one run: CPU seconds of all threads, wall seconds, bytes of resident memory."""

    cpu_s: float
    wall_s: float
    set_up_cpu_s: float
    set_up_wall_s: float
    peak_bytes: int
    before_bytes: int
    parts: dict[str, float]


def run_case(request: CaseRequest) -> tuple[Outcome, Answer]:
    """Time a method."""
    run = METHODS[request.task][request.method].run
    vectors = np.asarray(np.load(request.facts.vectors, mmap_mode="r"))
    few = vectors[: min(WARM_UP_ROWS, len(vectors))]
    run(Problem(few, 0, min(WARM_UP_PICKS, len(few)), request.facts.bandwidth))
    vectors.max()
    before = read_memory("VmRSS")
    problem = Problem(vectors, request.facts.start, request.num_picks, request.facts.bandwidth)
    set_up_cpu_s = set_up_wall_s = 0.0
    if not request.is_whole:
        short = Problem(vectors, request.facts.start, SET_UP_PICKS, request.facts.bandwidth)
        set_up_cpu_s, set_up_wall_s, _ = _time(lambda: run(short))
    cpu_s, wall_s, answer = _time(lambda: run(problem))
    peak = read_memory("VmHWM")
    return Outcome(cpu_s, wall_s, set_up_cpu_s, set_up_wall_s, peak, before, dict(answer.parts)), answer


def _time(call: Callable[[], Answer]) -> tuple[float, float, Answer]:
    cpu_s, wall_s = time.process_time(), time.perf_counter()
    answer = call()
    return time.process_time() - cpu_s, time.perf_counter() - wall_s, answer


def read_memory(entry: str) -> int:
    """Return an entry of this process's memory account in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{entry}:"))


def main() -> None:
    """Read a request, run it on one core, write its outcome."""
    values = json.loads(Path(sys.argv[1]).read_text())
    request = CaseRequest(**{**values, "facts": PoolFacts(**values["facts"])})
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    resource.setrlimit(resource.RLIMIT_DATA, (request.memory_bytes, request.memory_bytes))
    outcome, answer = run_case(request)
    np.save(request.picks_path, answer.picks)
    Path(request.outcome_path).write_text(json.dumps(asdict(outcome)))


if __name__ == "__main__":
    main()
