"""docs/benchmarks.md is what the benchmark writes and names all its cases; the benchmark works on a tiny pool."""

import re
from pathlib import Path

import numpy as np
import pytest

from tests.benchmarks.bench_selection import Bench, list_reported, run_groups, write_report
from tests.benchmarks.selection_case import Outcome
from tests.benchmarks.selection_cases import METHODS, Group, list_groups, plan_run
from tests.benchmarks.selection_machine import Machine
from tests.benchmarks.selection_methods import (
    COVERAGE,
    DENSE,
    LOOP,
    MAX_DENSE_ROWS,
    PAIR,
    WHOLE,
    Problem,
    compute_dense_kernel,
)
from tests.benchmarks.selection_pools import PoolSpec
from tests.benchmarks.selection_quality import compare_distances, measure_quality
from tests.benchmarks.selection_report import SECTIONS, TITLE, Occasion, render_report
from tests.benchmarks.selection_results import ResultFile
from tests.benchmarks.selection_rows import COVERAGE_COLUMNS, GREEDY_ALONE, K_CENTER_COLUMNS, extrapolate
from tests.benchmarks.selection_sources import prepare_pool

DOCUMENT = (Path(__file__).parents[2] / "docs" / "benchmarks.md").read_text(encoding="utf-8")
OURS = "mmcsal k_center"


def _read_tables(text: str) -> dict[str, list[list[str]]]:
    """Return the lines of every table by heading, cells split."""
    tables = {}
    for part in text.split("\n### ")[1:]:
        title, measured, table = part.split("\n\n")[:3]
        assert measured.startswith("Measured 20")
        lines = table.strip().splitlines()
        tables[title] = [[cell.strip() for cell in line[1:-1].split("|")] for line in lines]
    return tables


def _list_not_run(text: str) -> list[str]:
    return re.findall(r"^- (.+)$", text.partition(SECTIONS[-1])[2], flags=re.MULTILINE)


def test_the_document_has_the_writers_sections() -> None:
    machine = Machine("2 cores", 8.0, ("numpy 2",), 90.0)
    written = render_report(Occasion("make", machine, ()), [], [])
    assert DOCUMENT.startswith(TITLE)
    assert re.findall("^##? .*$", DOCUMENT, re.MULTILINE) == re.findall("^##? .*$", written, re.MULTILINE)
    how_to_read = written.partition(SECTIONS[1])[2].partition(SECTIONS[2])[0]
    assert how_to_read in DOCUMENT


@pytest.mark.parametrize("group", list_reported("full"), ids=lambda group: group.title)
def test_the_document_names_every_case(group: Group) -> None:
    tables = _read_tables(DOCUMENT)
    if group.title in _list_not_run(DOCUMENT):
        assert group.title not in tables
        return
    columns, _, *rows = tables[group.title]
    assert columns == list(K_CENTER_COLUMNS if group.task == "k-center" else COVERAGE_COLUMNS)
    assert {len(row) for row in rows} == {len(columns)}
    assert [row[0] for row in rows if not row[0].endswith(GREEDY_ALONE)] == [each.name for each in group.methods]


def test_our_coverage_is_that_of_dense_greedy_wherever_dense_fits() -> None:
    tables = [rows for title, (_, _, *rows) in _read_tables(DOCUMENT).items() if title.startswith("coverage")]
    found = [float(row[-1]) for rows in tables for row in rows if row[0] in (COVERAGE, PAIR, WHOLE) and row[-1]]
    assert len(found) >= 3 * len([group for group in list_reported("full") if _is_small(group)]) > 0
    assert min(found) >= 0.995


def _is_small(group: Group) -> bool:
    return group.task == "coverage" and group.pool.num_pairs <= MAX_DENSE_ROWS


def test_what_was_timed_on_the_first_picks_has_no_radius_and_no_coverage() -> None:
    tables = [rows for title, (_, _, *rows) in _read_tables(DOCUMENT).items() if title.startswith("k-center")]
    cut = [row for rows in tables for row in rows if row[10].startswith("first")]
    assert cut
    assert {(row[8], row[9]) for row in cut} == {("", "")}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("bench"), limit_s=120, memory_bytes=8 * 2**30)


def _load(bench: Bench, num_picks: int, dim: int = 32) -> Problem:
    return bench.load_problem(Group("k-center", PoolSpec("power-law", 2000, dim), num_picks, has_peers=False))


@pytest.mark.parametrize("name", [OURS, LOOP])
def test_farthest_first_agrees_with_distances_in_float64(bench: Bench, name: str) -> None:
    problem = _load(bench, 50)
    picks = METHODS["k-center"][name].run(problem).picks
    vectors = problem.vectors.astype(np.float64)
    nearest, expected = np.full(len(vectors), np.inf), [problem.start]
    for _ in range(49):
        nearest = np.minimum(nearest, ((vectors - vectors[expected[-1]]) ** 2).sum(axis=1))
        expected.append(int(nearest.argmax()))
    assert compare_distances(problem.vectors, np.array(expected), picks).is_same


def test_quality_is_that_of_all_distances(bench: Bench) -> None:
    problem, picks = _load(bench, 50), np.array([5, 900, 1500])
    squared = ((problem.vectors[:, None].astype(np.float64) - problem.vectors[picks]) ** 2).sum(axis=2).min(axis=1)
    quality = measure_quality(problem, picks, "joint")
    assert quality.radius == pytest.approx(np.sqrt(squared.max()), rel=1e-6)
    assert quality.coverage == pytest.approx(np.exp(-squared / problem.bandwidth).mean(), rel=1e-6)
    pair = compute_dense_kernel(problem, "pair")[:, picks].max(axis=1).mean()
    assert measure_quality(problem, picks, "pair").coverage == pytest.approx(pair, rel=1e-9)


def test_dense_greedy_is_plain_greedy_and_coverage_comes_near_it(bench: Bench) -> None:
    problem = _load(bench, 20)
    kernel, covered, expected = compute_dense_kernel(problem, "joint"), np.zeros(2000), []
    for _ in range(20):
        expected.append(int(np.maximum(kernel - covered, 0.0).sum(axis=1).argmax()))
        covered = np.maximum(covered, kernel[expected[-1]])
    dense = METHODS["coverage"][DENSE].run(problem)
    assert dense.picks.tolist() == expected
    ours = METHODS["coverage"][COVERAGE].run(problem)
    values = [measure_quality(problem, answer.picks, "joint").coverage for answer in (dense, ours)]
    assert values[1] >= 0.995 * values[0]
    assert set(ours.parts) == {"graph", "greedy"}


def test_a_difference_that_is_no_tie_is_seen() -> None:
    vectors = np.eye(4, dtype=np.float32)
    vectors[3] = [0.6, 0.8, 0, 0]
    assert compare_distances(vectors, np.array([0, 1, 2]), np.array([0, 2, 1])).is_same
    assert not compare_distances(vectors, np.array([0, 1, 2]), np.array([0, 3, 2])).is_same
    assert not compare_distances(vectors, np.array([0, 1]), np.array([1, 0])).is_same


def test_extrapolation_counts_the_set_up_once() -> None:
    outcome = Outcome(
        cpu_s=30.0, wall_s=60.0, set_up_cpu_s=10.0, set_up_wall_s=20.0, peak_bytes=0, before_bytes=0, parts={}
    )
    assert extrapolate(outcome, 102, 1002).cpu_s == 10.0 + 20.0 * 10
    assert extrapolate(outcome, 102, 102).wall_s == 60.0


def test_one_pick_methods_are_cut_short_where_they_would_take_long() -> None:
    million = Group("k-center", PoolSpec("clustered", 1_000_000, 256), 10_000, has_peers=True)
    runs = {method.name: plan_run(million, method) for method in million.methods}
    assert (runs[LOOP].num_picks, runs[LOOP].is_whole) == (500, False)
    assert (runs["fpsample vanilla"].num_picks, runs["fpsample vanilla"].is_whole) == (100, False)
    assert runs[OURS].is_whole


def test_profiles_grow() -> None:
    quick, standard, full = (set(list_groups(profile)) for profile in ("quick", "standard", "full"))
    assert quick < standard < full


def test_runs_are_kept_and_reported(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    group = Group("k-center", PoolSpec("clustered", 2000, 32), 50, has_peers=False)
    run_groups(bench, [group], ResultFile(bench.results_path))
    assert "failed" not in capsys.readouterr().out
    again = ResultFile(bench.results_path)
    num_lines = len(bench.results_path.read_text().splitlines())
    run_groups(bench, [group], again)
    assert len(bench.results_path.read_text().splitlines()) == num_lines == len(group.methods)
    text = write_report(bench, [group, list_groups("full")[0]], again, "make")
    rows = {row[0]: row for row in _read_tables(text)[group.title]}
    assert rows[LOOP][1] == "reference"
    assert rows[OURS][1] == "all" or "tie" in rows[OURS][1]
    assert rows[OURS][8] == rows[LOOP][8]
    assert _list_not_run(text) == [list_groups("full")[0].title]
    later = write_report(bench, [group], ResultFile(bench.folder / "none.jsonl"), "make", text)
    assert (_read_tables(later), _list_not_run(later)) == (_read_tables(text), [])
    renamed = text.replace(f"| {OURS} |", "| another method |")
    later = write_report(bench, [group], ResultFile(bench.folder / "none.jsonl"), "make", renamed)
    assert _list_not_run(later) == [group.title]


def test_a_run_over_its_limit_is_a_row_with_the_reason(bench: Bench) -> None:
    hasty = Bench(bench.folder, limit_s=0.01, memory_bytes=8 * 2**30)
    group = Group("k-center", PoolSpec("clustered", 2000, 32), 49, has_peers=False)
    result = hasty.measure(group, METHODS["k-center"][LOOP])
    assert result.outcome is None
    assert result.reason == "over the limit of 0 s"


def test_pools_are_unit_vectors_and_made_once(bench: Bench) -> None:
    spec = PoolSpec("digits", 1797, 64)
    facts = prepare_pool(spec, bench.folder)
    assert np.linalg.norm(np.load(facts.vectors), axis=1) == pytest.approx(1.0, abs=1e-6)
    assert prepare_pool(spec, bench.folder) == facts
