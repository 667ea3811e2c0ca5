"""This project's selection against plain numpy and other packages on the same rows; writes docs/benchmarks.md.

`make bench-selection PROFILE=standard` runs it. Each run is a process of its own and its figures are kept, so that a
stopped benchmark continues; `--retry` runs again what failed, `--fresh` everything. Tables that are not measured stay
in the document as they were.
"""

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import psutil

from mmcsal_core.neighbors.vectors import Rows
from tests.benchmarks.selection_case import CaseRequest, Outcome
from tests.benchmarks.selection_cases import PROFILES, Group, Run, list_groups, plan_run
from tests.benchmarks.selection_machine import describe_machine
from tests.benchmarks.selection_methods import Method, Problem
from tests.benchmarks.selection_peers import PEERS
from tests.benchmarks.selection_quality import Agreement, compare_distances, compare_gains, measure_quality
from tests.benchmarks.selection_report import Occasion, find_table, render_report, render_table
from tests.benchmarks.selection_results import Result, ResultFile, find_version, fingerprint_method
from tests.benchmarks.selection_rows import DIFFERENT, find_reason, find_results, make_rows
from tests.benchmarks.selection_sources import prepare_pool

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
MEMORY_SHARE = 0.8
REASON_CHARS = 160


@dataclass(frozen=True)
class Bench:
    """Where a benchmark keeps its files, and what a run may take.

    Args:
        folder: pools, picks and results.
        limit_s: wall seconds of one run.
        memory_bytes: heap of one run.
    """

    folder: Path
    limit_s: float
    memory_bytes: int

    @property
    def results_path(self) -> Path:
        """The JSON lines."""
        return self.folder / "results.jsonl"

    def load_problem(self, group: Group) -> Problem:
        """Return a group's pool and picks as methods see them."""
        facts = prepare_pool(group.pool, self.folder)
        vectors = np.asarray(np.load(facts.vectors, mmap_mode="r"))
        return Problem(vectors, facts.start, group.num_picks, facts.bandwidth)

    def compare(self, group: Group, reference: Rows, picks: Rows) -> Agreement:
        """Compare the picks of an exact method with those of the reference."""
        problem = self.load_problem(group)
        if group.task == "k-center":
            return compare_distances(problem.vectors, reference, picks)
        return compare_gains(problem, reference, picks)

    def measure(self, group: Group, method: Method) -> Result:
        """Run a method in a process of its own, and judge its picks."""
        run, started = plan_run(group, method), datetime.now().astimezone().isoformat(timespec="seconds")
        result = Result(run.key, fingerprint_method(method), started)
        picks_path = self.folder / f"{run.key.replace(', ', '-').replace(' ', '_')}-{result.fingerprint}.npy"
        outcome = self._run_process(run, group, picks_path)
        if isinstance(outcome, str):
            return dataclasses.replace(result, reason=outcome)
        result = dataclasses.replace(result, picks=str(picks_path), outcome=outcome)
        if not run.is_whole:
            return result
        quality = measure_quality(self.load_problem(group), result.load_picks(), method.kernel)
        return dataclasses.replace(result, quality=quality)

    def _run_process(self, run: Run, group: Group, picks_path: Path) -> Outcome | str:
        """Return the figures, or the reason why there are none."""
        facts = prepare_pool(group.pool, self.folder)
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            asked, told = Path(folder) / "request.json", Path(folder) / "outcome.json"
            request = CaseRequest(
                run.task,
                run.method,
                facts,
                run.num_picks,
                is_whole=run.is_whole,
                memory_bytes=self.memory_bytes,
                picks_path=str(picks_path),
                outcome_path=str(told),
            )
            asked.write_text(json.dumps(asdict(request)))
            command = [sys.executable, "-m", "tests.benchmarks.selection_case", str(asked)]
            try:
                done = subprocess.run(
                    command, env=os.environ | ONE_THREAD, capture_output=True, timeout=self.limit_s, check=False
                )
            except subprocess.TimeoutExpired:
                return f"over the limit of {self.limit_s:.0f} s"
            if done.returncode != 0:
                lines = done.stderr.decode(errors="replace").strip().splitlines() or ["no message"]
                return f"exit {done.returncode}: {lines[-1][:REASON_CHARS].replace('|', '/')}"
            return Outcome(**json.loads(told.read_text()))


def run_groups(
    bench: Bench, groups: Sequence[Group], results: ResultFile, only: str = "", *, retry: bool = False
) -> None:
    """Run what has no result yet, one line of progress each."""
    for number, group in enumerate(groups, start=1):
        print(f"[{number}/{len(groups)}] {group.title}", flush=True)
        for method in group.methods:
            run = plan_run(group, method)
            if only not in f"{group.title}, {method.name}" or find_reason(group, method):
                continue
            result = results.find(run, fingerprint_method(method))
            if result is None or (result.reason and retry):
                result = bench.measure(group, method)
                results.add(result)
            figures = f"{result.outcome.cpu_s:.2f} CPU s" if result.outcome else result.reason
            print(f"    {method.name}, {run.num_picks} picks: {figures}", flush=True)


def write_report(bench: Bench, groups: Sequence[Group], results: ResultFile, command: str, earlier: str = "") -> str:
    """Render the document from all results that are there, and the tables of an earlier one where there are none."""
    machine = describe_machine(("numpy", "scipy", "scikit-learn", "torch"))
    tables, not_run = [], []
    for group in groups:
        found = find_results(group, results.find)
        if found is not None:
            dates = [result.started[:10] for result in found.values() if result.started]
            tables.append(render_table(group, make_rows(group, found, bench.compare), machine, dates))
        elif (kept := find_table(earlier, group)) is not None:
            tables.append(kept)
        else:
            not_run.append(group)
    peers = {method.package for methods in PEERS.values() for method in methods if method.package}
    versions = [f"{name} {find_version(name) or 'not installed'}" for name in sorted(peers)]
    notes = (f"One run may take {bench.limit_s:.0f} s and {bench.memory_bytes / 2**30:.0f} GiB of heap",)
    return render_report(Occasion(command, machine, versions, notes), tables, not_run)


def list_reported(profile: str) -> list[Group]:
    """Return the groups that the document names: those of `full`, and the smallest ones where they were asked for."""
    return (list_groups("smoke") if profile == "smoke" else []) + list_groups("full")


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", choices=PROFILES, default="standard", help="how much to run")
    parser.add_argument(
        "--only", default="", help="run only what has this in its title or method, e.g. '200,000 x 256'"
    )
    parser.add_argument("--limit-s", type=float, default=1800, help="wall seconds of one run")
    parser.add_argument("--memory-gib", type=float, default=psutil.virtual_memory().available / 2**30 * MEMORY_SHARE)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "mmcsal-bench-selection")
    parser.add_argument("--output", type=Path, default=Path(__file__).parents[2] / "docs" / "benchmarks.md")
    parser.add_argument("--retry", action="store_true", help="run again what failed")
    parser.add_argument("--fresh", action="store_true", help="forget earlier results")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> None:
    """Run a profile and write the document."""
    asked = parse_arguments(arguments)
    asked.folder.mkdir(parents=True, exist_ok=True)
    bench = Bench(asked.folder, asked.limit_s, int(asked.memory_gib * 2**30))
    if asked.fresh:
        bench.results_path.unlink(missing_ok=True)
    results = ResultFile(bench.results_path)
    run_groups(bench, list_groups(asked.profile), results, asked.only, retry=asked.retry)
    command = f"make bench-selection PROFILE={asked.profile}"
    earlier = asked.output.read_text(encoding="utf-8") if asked.output.exists() else ""
    text = write_report(bench, list_reported(asked.profile), results, command, earlier)
    asked.output.write_text(text, encoding="utf-8")
    print(f"wrote {asked.output}")
    if DIFFERENT in text:
        raise SystemExit(f"an exact method picked other rows than its reference; see {DIFFERENT} in {asked.output}")


if __name__ == "__main__":
    main(sys.argv[1:])
