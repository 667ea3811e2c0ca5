"""Shows on real labelled sets whether the picks train a better model; writes docs/evidence.md and its scores.

`make evidence` runs it, `make evidence PROFILE=quick` a few cells to see it work. Every cell's figures are kept, so
that a stopped run goes on; `--fresh` forgets them, `--render` writes the document from what is there, `--resume` goes
on from the scores that an earlier run wrote, on another machine too.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from mmcsal_core.errors import ConfigError
from tests.benchmarks.selection_machine import describe_machine
from tests.evidence.cells import Cell, Protocol
from tests.evidence.document import Occasion, render_document
from tests.evidence.encoder_views import name_default_encoder
from tests.evidence.figures import collect_figures
from tests.evidence.grid import list_cells, list_profiles, run_cells
from tests.evidence.published_scores import Found, PublishedScores, read_scores, write_scores
from tests.evidence.results import ResultFile, fingerprint_grid

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
ROOT = Path(__file__).parents[2]


def collect_scores(
    cells: Sequence[Cell], results: ResultFile, protocol: Protocol, command: str, file_name: str
) -> PublishedScores:
    """Return what was found for the cells that have results, and how.

    Raises:
        ConfigError: none has.
    """
    found = [(cell, result) for cell in cells if (result := results.find(cell)) is not None]
    if not found:
        raise ConfigError(f"a document needs a result, got none for {len(cells)} cells; run without --render")
    dates = sorted(result.started[:10] for _, result in found)
    occasion = Occasion(
        command=command,
        scores=file_name,
        commit=describe_commit(),
        dates=(dates[0], dates[-1]),
        machine=describe_machine(("numpy", "scipy", "scikit-learn", "torch")),
        num_cells=len(found),
        num_planned=len(cells),
        num_splits=_count_splits(found, is_default=True),
        other_splits=_count_splits(found, is_default=False),
        cpu_hours=sum(result.cpu_s for _, result in found) / 3600,
    )
    return PublishedScores(found, occasion, protocol)


def _count_splits(found: Found, *, is_default: bool) -> int:
    default = name_default_encoder()
    return len({cell.split for cell, _ in found if (cell.encoder == default) == is_default})


def describe_commit() -> str:
    """Return the commit, and whether the code differs from it."""
    commit = _ask_git("rev-parse", "--short=12", "HEAD")
    changed = _ask_git("status", "--porcelain", "--", "mmcsal_core", "tests/evidence")
    return f"{commit} with changes" if changed else commit


def _ask_git(*arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else "unknown"


def take_over(path: Path, results: ResultFile) -> int:
    """Take over the results of an earlier run that were made by the present code; return how many."""
    lacking = [
        result
        for cell, result in read_scores(path).found
        if result.fingerprint == results.fingerprint and results.find(cell) is None
    ]
    for result in lacking:
        results.add(result)
    return len(lacking)


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line."""
    folder = Path(tempfile.gettempdir()) / "mmcsal-evidence"
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", choices=tuple(list_profiles()), default="full", help="how much to run")
    parser.add_argument("--only", default="", help="run only cells that have this in their key, e.g. 'tux text-audio'")
    parser.add_argument(
        "--processes", type=int, default=len(os.sched_getaffinity(0)), help="of one thread each; 1 starts none"
    )
    parser.add_argument("--folder", type=Path, default=folder, help="where results are kept")
    parser.add_argument("--cache", type=Path, default=folder / "corpora", help="where packages and features are kept")
    parser.add_argument("--output", type=Path, help="the document; by default docs/evidence.md for the full profile")
    parser.add_argument(
        "--resume", type=Path, help="scores written by an earlier run, to take over where the code is the same"
    )
    parser.add_argument("--render", action="store_true", help="run nothing, write the document")
    parser.add_argument("--fresh", action="store_true", help="forget earlier results")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> None:
    """Run a profile and write the document."""
    asked = parse_arguments(arguments)
    os.environ.update(ONE_THREAD)  # for the processes that it starts
    profile, is_full = list_profiles()[asked.profile], asked.profile == "full"
    protocol, path = Protocol(), asked.folder / "results.jsonl"
    if asked.fresh:
        path.unlink(missing_ok=True)
    results, cells = ResultFile(path, fingerprint_grid(protocol)), list_cells(profile)
    if asked.resume:
        print(f"took over {take_over(asked.resume, results)} cells from {asked.resume}")
    if not asked.render:
        wanted = [cell for cell in cells if asked.only in cell.key]
        run_cells(wanted, results, protocol, asked.cache, asked.processes)
    command = "make evidence" if is_full else f"make evidence PROFILE={asked.profile}"
    output = asked.output or (ROOT / "docs" / "evidence.md" if is_full else asked.folder / f"{asked.profile}.md")
    table = output.with_suffix(".parquet")
    scores = collect_scores(cells, results, protocol, command, table.name)
    write_scores(table, scores)
    output.write_text(render_document(collect_figures(scores.found), scores.occasion, protocol), encoding="utf-8")
    print(f"wrote {output} and {table}")


if __name__ == "__main__":
    main(sys.argv[1:])
