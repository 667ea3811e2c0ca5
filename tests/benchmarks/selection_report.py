"""Writes docs/benchmarks.md: what was run on which machine, one table a group, what was not run.

A whole grid takes longer than most machines are lent for, so a table stays in the document until it is measured again.
All rows of a table come from one machine, which the table names.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tests.benchmarks.selection_cases import TIMED_PICKS, Group
from tests.benchmarks.selection_machine import Machine
from tests.benchmarks.selection_methods import MAX_DENSE_ROWS
from tests.benchmarks.selection_pools import DESCRIPTIONS
from tests.benchmarks.selection_rows import COVERAGE_COLUMNS, GREEDY_ALONE, K_CENTER_COLUMNS

TITLE = "# Benchmarks of selection"
SECTIONS = ("## What was run", "## How to read the tables", "## Results", "## Not run")

HOW_TO_READ = f"""\
The rows of a table were measured on one machine, which the table names with the rate of numpy's float32 matrix
product on one of its threads; compare ratios between tables, not seconds. Each row is a process of its own, held to
one core and one BLAS thread. The pool is read from a memory-mapped file whose pages are touched before the clock
starts; imports and a first call on 512 rows come before it too.

- **same picks**: picks of exact methods are compared with the reference of the table, in pick order; `tie` says
  that two rows whose values differ by less than 1e-6 (in float64, in brackets) were ranked the other way round,
  after which lists may differ. `not exact` methods aim at something else, or approximate, and `pair kernel` methods
  pick by another kernel; read their radius and coverage.
- **CPU s**: of all threads. **wall s**: on the clock. **loop / this**, **dense / this**: CPU seconds of the
  reference over those of the row.
- **timed**: `first n, x f` says that only the first n picks of k were timed. What a run of 2 picks takes is counted
  once, the rest is multiplied up to k. Such a row has no radius and no coverage. Methods that are extrapolated pass
  over the whole pool once for each pick. Peers are timed on {TIMED_PICKS} picks at most where all would take long.
- **GF/s**: 2 N D k over CPU seconds, what a plain loop would have computed; compare with the matrix product's rate.
- **peak GiB**: resident memory at most, libraries and the touched pages of the pool included; **above data**: the
  rise over what was resident before the call.
- **radius**: distance of a row to its nearest pick, at most. **coverage**: mean over the pool of the best kernel
  value of a pick, exp(-d^2 / s), with s the median squared distance to the 60th neighbour; float64 up to 200
  million pick-row pairs, float32 above. Rows of the pair kernel measure coverage with the kernel of the strategy
  `mmcsal` less its neighbourhoods; up to {MAX_DENSE_ROWS:,} pairs there are rows `with neighbourhoods`, and `mmcsal` is
  measured with them.
- **graph s**, **greedy s**: CPU seconds of neighbour search and kernel (or the dense kernel), and of picking. What
  is left of CPU s is checks. **of dense**: coverage over that of greedy on the dense kernel.
- `mmcsal` rows call `select_coreset`, which also checks the vectors and returns gains; `greedy alone` is the part
  of the same call that picks. As other packages do, it leaves the nearest pick of every row to be found when asked
  for; the rows `with weights` ask.

`numpy loop`: farthest-first, one matrix-vector product and one maximum in place for each pick. `numpy dense
greedy`: lazy greedy on the N x N kernel in float64. `anomalib's algorithm`: its k-center greedy written out with
torch (sparse random projection at distortion 0.9, then the farthest row one at a time), since the package itself is
not installed for it; exact in its projection only. `mmcsal, coverage alone`: the default strategy without
neighbourhoods, trust, repulsion, swaps and second phase."""


@dataclass(frozen=True)
class Table:
    """A group and what stands below its heading."""

    group: Group
    text: str


@dataclass(frozen=True)
class Occasion:
    """How the newest figures came about.

    Args:
        command: that was given.
        machine: where.
        peers: packages with their versions.
        notes: what else must be said, one line each.
    """

    command: str
    machine: Machine
    peers: Sequence[str]
    notes: Sequence[str] = ()


def render_report(occasion: Occasion, tables: Sequence[Table], not_run: Sequence[Group]) -> str:
    """Return the document."""
    kinds = dict.fromkeys([table.group.pool.kind for table in tables])
    parts = [
        TITLE,
        "Written by `make bench-selection`; do not edit.",
        SECTIONS[0],
        _render_occasion(occasion),
        "\n".join(f"- **{kind}**: {DESCRIPTIONS[kind]}." for kind in kinds) or "No pool was used.",
        SECTIONS[1],
        HOW_TO_READ,
        SECTIONS[2],
        *[f"### {table.group.title}\n\n{table.text}" for table in tables],
        SECTIONS[3],
        "\n".join(f"- {group.title}" for group in not_run) or "Nothing was left out.",
    ]
    return "\n\n".join(parts) + "\n"


def render_table(group: Group, rows: Sequence[Sequence[str]], machine: Machine, dates: Sequence[str]) -> Table:
    """Render the rows of a group, measured on a machine on some dates."""
    days = " to ".join(dict.fromkeys([min(dates), max(dates)]))
    columns = K_CENTER_COLUMNS if group.task == "k-center" else COVERAGE_COLUMNS
    lines = [_render_line(columns), _render_line(["---", "---", *["---:"] * (len(columns) - 2)])]
    lines += [_render_line(row) for row in rows]
    measured = f"Measured {days}: {machine.processor}; {machine.sgemm_gflops:.0f} GF/s."
    return Table(group, f"{measured}\n\n" + "\n".join(lines))


def find_table(document: str, group: Group) -> Table | None:
    """Return a group's table of an earlier document, None where it has none or one of other methods."""
    found = re.search(rf"^### {re.escape(group.title)}\n\n(.*?)\n\n##", document, re.MULTILINE | re.DOTALL)
    if found is None:
        return None
    names = re.findall(r"^\| (.+?) \|", found[1], re.MULTILINE)[2:]
    is_same = [name for name in names if not name.endswith(GREEDY_ALONE)] == [each.name for each in group.methods]
    return Table(group, found[1]) if is_same else None


def _render_occasion(occasion: Occasion) -> str:
    machine = occasion.machine
    lines = [
        f"- Last command: `{occasion.command}`",
        f"- Its machine: {machine.processor}; {machine.memory_gib:.0f} GiB; {machine.sgemm_gflops:.0f} GF/s",
        f"- Software: {', '.join(machine.software)}",
        f"- Peers: {', '.join(occasion.peers)}",
        *[f"- {note}" for note in occasion.notes],
    ]
    return "\n".join(lines)


def _render_line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
