"""From results to the rows of a table: extrapolation, ratios to the reference, agreement with it, shares of time."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from mmcsal_core.neighbors.vectors import Rows
from tests.benchmarks.selection_case import SET_UP_PICKS, Outcome
from tests.benchmarks.selection_cases import Group, Run, find_obstacle, plan_run
from tests.benchmarks.selection_methods import DENSE, DENSE_PAIR, DENSE_WHOLE, LOOP, KernelName, Method
from tests.benchmarks.selection_quality import Agreement
from tests.benchmarks.selection_results import Result, find_version, fingerprint_method

GIB = 2**30
GREEDY_ALONE = ", greedy alone"

K_CENTER_COLUMNS = (
    "method",
    "same picks",
    "CPU s",
    "wall s",
    "loop / this",
    "GF/s",
    "peak GiB",
    "above data",
    "radius",
    "coverage",
    "timed",
)
COVERAGE_COLUMNS = (
    "method",
    "same picks",
    "CPU s",
    "graph s",
    "greedy s",
    "greedy / graph",
    "wall s",
    "dense / this",
    "peak GiB",
    "above data",
    "radius",
    "coverage",
    "of dense",
)

MIN_CPU_S = 5e-4
"""Less is the clock's resolution: no ratio is made of it."""

DIFFERENT = "DIFFERENT"
"""What a table says of an exact method whose picks are not the reference's."""

DENSE_OF: dict[KernelName, str] = {"joint": DENSE, "pair": DENSE_PAIR, "whole": DENSE_WHOLE}
"""The method whose coverage under a kernel others are compared with."""

Find = Callable[[Run, str], Result | None]
Compare = Callable[[Group, Rows, Rows], Agreement]


@dataclass(frozen=True)
class Estimate:
    """Seconds for all picks of a group, measured or extrapolated."""

    cpu_s: float
    wall_s: float


def extrapolate(outcome: Outcome, timed_picks: int, num_picks: int) -> Estimate:
    """Return the seconds for `num_picks`: as timed, or the set-up once and every further pick at the same price."""
    if timed_picks == num_picks:
        return Estimate(outcome.cpu_s, outcome.wall_s)
    factor = (num_picks - SET_UP_PICKS) / (timed_picks - SET_UP_PICKS)
    cpu_s = outcome.set_up_cpu_s + max(outcome.cpu_s - outcome.set_up_cpu_s, 0.0) * factor
    return Estimate(cpu_s, outcome.set_up_wall_s + max(outcome.wall_s - outcome.set_up_wall_s, 0.0) * factor)


def find_results(group: Group, find: Find) -> dict[str, Result] | None:
    """Return a group's results by method, a reason standing in for those that cannot run; None unless all are there."""
    results = {}
    for method in group.methods:
        reason = find_reason(group, method)
        run = plan_run(group, method)
        found = Result(run.key, "", "", reason) if reason else find(run, fingerprint_method(method))
        if found is None:
            return None
        results[method.name] = found
    return results


def find_reason(group: Group, method: Method) -> str:
    """Say why a method is not even started on a group; empty where it is."""
    if method.package is not None and find_version(method.package) is None:
        return f"{method.package} is not installed"
    return find_obstacle(group, method) or ""


def make_rows(group: Group, results: Mapping[str, Result], compare: Compare) -> list[list[str]]:
    """Make the rows of a group's table, as wide as its columns."""
    rows = []
    for method in group.methods:
        result = results[method.name]
        if result.outcome is None:
            width = len(K_CENTER_COLUMNS if group.task == "k-center" else COVERAGE_COLUMNS)
            rows.append(
                [method.name, f"{'failed' if result.started else 'not run'}: {result.reason}"] + [""] * (width - 2)
            )
            continue
        agreement = _describe_agreement(group, method, results, compare)
        make = _make_k_center_rows if group.task == "k-center" else _make_coverage_rows
        rows += make(group, method, results, agreement)
    return rows


def _make_k_center_rows(group: Group, method: Method, results: Mapping[str, Result], agreement: str) -> list[list[str]]:
    result, timed = results[method.name], plan_run(group, method).num_picks
    outcome = result.outcome
    assert outcome is not None
    estimate = extrapolate(outcome, timed, group.num_picks)
    whole = timed == group.num_picks
    row = [method.name, agreement, _seconds(estimate.cpu_s), _seconds(estimate.wall_s)]
    ratio, rate = _compare_with_loop(group, results, estimate.cpu_s)
    row += [ratio, rate if method.is_exact or method.is_one_pick else ""]
    quality = _describe_quality(result) if whole else ["", ""]  # a run of fewer picks may be whole in its own table
    row += [*_describe_memory(outcome), *quality]
    row.append("all" if whole else f"first {timed:,}, x {group.num_picks / timed:.1f}")
    greedy_s = outcome.parts.get("greedy")
    if greedy_s is None:
        return [row]
    alone = [method.name + GREEDY_ALONE, "", _seconds(greedy_s), "", *_compare_with_loop(group, results, greedy_s)]
    return [row, alone + [""] * (len(row) - len(alone))]


def _compare_with_loop(group: Group, results: Mapping[str, Result], cpu_s: float) -> list[str]:
    loop = results[LOOP].outcome
    timed = min(len(results[LOOP].load_picks()), group.num_picks) if loop else 0
    ratio = f"{extrapolate(loop, timed, group.num_picks).cpu_s / cpu_s:.1f}" if loop and cpu_s >= MIN_CPU_S else ""
    products = 2.0 * group.pool.num_pairs * group.pool.dim * group.num_picks
    return [ratio, f"{products / cpu_s / 1e9:.0f}" if cpu_s >= MIN_CPU_S else ""]


def _make_coverage_rows(group: Group, method: Method, results: Mapping[str, Result], agreement: str) -> list[list[str]]:
    result = results[method.name]
    outcome, dense = result.outcome, results[DENSE].outcome
    assert outcome is not None
    graph_s, greedy_s = outcome.parts.get("graph"), outcome.parts.get("greedy")
    row = [method.name, agreement, _seconds(outcome.cpu_s), _seconds(graph_s), _seconds(greedy_s)]
    row.append(f"{greedy_s / graph_s:.1%}" if graph_s and greedy_s is not None else "")
    row += [
        _seconds(outcome.wall_s),
        f"{dense.cpu_s / outcome.cpu_s:.1f}" if dense and outcome.cpu_s >= MIN_CPU_S else "",
    ]
    row += [*_describe_memory(outcome), *_describe_quality(result)]
    best = results[DENSE_OF[method.kernel]].quality
    row.append(f"{result.quality.coverage / best.coverage:.4f}" if best and result.quality else "")
    return [row]


def _describe_agreement(group: Group, method: Method, results: Mapping[str, Result], compare: Compare) -> str:
    reference = LOOP if group.task == "k-center" else DENSE
    if method.name == reference:
        return "reference"
    if method.kernel != "joint":
        return "pair kernel"
    if not method.is_exact or results[reference].outcome is None:
        return "" if method.is_exact else "not exact"
    found = compare(group, results[reference].load_picks(), results[method.name].load_picks())
    if found.num_equal == found.num_compared:
        return "all" if found.num_compared == group.num_picks else f"first {found.num_compared:,}"
    kind = "tie" if found.is_same else DIFFERENT
    return f"first {found.num_equal:,}, then {kind} ({found.gap:.0e})"


def _describe_memory(outcome: Outcome) -> list[str]:
    return [f"{outcome.peak_bytes / GIB:.2f}", f"{max(outcome.peak_bytes - outcome.before_bytes, 0) / GIB:.2f}"]


def _describe_quality(result: Result) -> list[str]:
    if result.quality is None:
        return ["", ""]
    return [f"{result.quality.radius:.4f}", f"{result.quality.coverage:.4f}"]


def _seconds(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.3f}" if value < 1 else f"{value:,.1f}"
