"""The cases of the selection benchmark: which pools, how many picks, which methods, and what is timed of each.

A group is one table: one pool, one number of picks, several methods. A run is what one subprocess does; groups that
differ only in the number of picks share the run of a one-pick method that is timed on its first picks.
"""

from dataclasses import dataclass
from typing import Literal, TypeAlias

from tests.benchmarks.selection_methods import LOOP, MAX_DENSE_ROWS, OWN, SMALL_COVERAGE, Method, Task
from tests.benchmarks.selection_peers import PEERS
from tests.benchmarks.selection_pools import Kind, PoolSpec

Profile: TypeAlias = Literal["smoke", "quick", "standard", "full"]
PROFILES: tuple[Profile, ...] = ("smoke", "quick", "standard", "full")

METHODS: dict[Task, dict[str, Method]] = {
    "k-center": {method.name: method for method in OWN["k-center"] + PEERS["k-center"]},
    "coverage": {method.name: method for method in SMALL_COVERAGE + PEERS["coverage"]},
}

TIMED_PICKS = 500
"""Picks on which one-pick methods are timed where all picks would take long."""

MIN_TIMED_PICKS = 100
MAX_TIMED_WORK = TIMED_PICKS * 200_000 * 256
"""Rows x dimensions x picks of a peer's timed run, at most, unless `MIN_TIMED_PICKS` are more."""

MAX_WHOLE_WORK = 2_000 * 50_000 * 256
"""Rows x dimensions x picks up to which peers run to the end."""

MAX_LOOP_WORK = 2_000 * 200_000 * 256
"""The same for the numpy loop, which all ratios refer to."""


@dataclass(frozen=True)
class Group:
    """One table.

    Args:
        task: what is picked for.
        pool: from which rows.
        num_picks: k.
        has_peers: whether methods of other packages run, or only this project's and numpy.
    """

    task: Task
    pool: PoolSpec
    num_picks: int
    has_peers: bool

    @property
    def title(self) -> str:
        """Heading of the table."""
        pool = self.pool
        return f"{self.task}: {pool.kind}, {pool.num_pairs:,} x {pool.dim}, k = {self.num_picks:,}"

    @property
    def methods(self) -> list[Method]:
        """Rows of the table."""
        is_small = self.task == "coverage" and self.pool.num_pairs <= MAX_DENSE_ROWS
        own = SMALL_COVERAGE if is_small else OWN[self.task]
        return own + (PEERS[self.task] if self.has_peers else [])


@dataclass(frozen=True)
class Run:
    """What one subprocess times."""

    task: Task
    pool: PoolSpec
    method: str
    num_picks: int
    is_whole: bool

    @property
    def key(self) -> str:
        """Name of the run among results."""
        return f"{self.task}, {self.pool.stem}, {self.num_picks}, {self.method}"


def plan_run(group: Group, method: Method) -> Run:
    """Say what is timed of a method: all picks, or the first ones."""
    work = group.pool.num_pairs * group.pool.dim
    num_picks = group.num_picks
    if method.is_one_pick and work * num_picks > (MAX_LOOP_WORK if method.name == LOOP else MAX_WHOLE_WORK):
        timed = TIMED_PICKS if method.name == LOOP else max(MIN_TIMED_PICKS, MAX_TIMED_WORK // work)
        num_picks = min(num_picks, TIMED_PICKS, timed)
    return Run(group.task, group.pool, method.name, num_picks, is_whole=num_picks == group.num_picks)


def find_obstacle(group: Group, method: Method) -> str | None:
    """Say why a method cannot run on a pool, None where it can."""
    num_rows = group.pool.num_pairs
    if method.is_dense and num_rows > MAX_DENSE_ROWS:
        return f"holds N x N: {num_rows**2 * 8 / 2**30:,.0f} GiB"
    return None


def list_groups(profile: Profile) -> list[Group]:
    """Return a profile's groups; each profile but `smoke` holds all groups of the one before it."""
    if profile == "smoke":
        return _list_smoke()
    groups = _list_quick()
    if profile in ("standard", "full"):
        groups += _list_standard()
    if profile == "full":
        groups += _list_full()
    return groups


def _list_smoke() -> list[Group]:
    return [
        _group("k-center", "clustered", 2_000, 64, 50),
        _group("k-center", "digits", 1_797, 64, 50),
        _group("coverage", "clustered", 2_000, 64, 50),
    ]


def _list_quick() -> list[Group]:
    others: tuple[Kind, ...] = ("uniform", "power-law", "openmoji")
    return [
        _group("k-center", "clustered", 50_000, 256, 500),
        _group("k-center", "clustered", 50_000, 256, 2_000),
        *[_group("k-center", kind, 50_000, 256, 500, has_peers=False) for kind in others],
        _group("k-center", "digits", 1_797, 64, 100),
        _group("coverage", "clustered", 10_000, 256, 500),
        _group("coverage", "openmoji", 10_000, 256, 500, has_peers=False),
    ]


def _list_standard() -> list[Group]:
    others: tuple[Kind, ...] = ("uniform", "power-law", "openmoji")
    return [
        _group("k-center", "clustered", 50_000, 256, 10_000),
        *[_group("k-center", "clustered", 50_000, 512, num_picks) for num_picks in (500, 2_000, 10_000)],
        *[_group("k-center", "clustered", 200_000, 256, num_picks) for num_picks in (500, 2_000, 10_000)],
        *[_group("k-center", kind, 200_000, 256, 2_000, has_peers=False) for kind in others],
        *[_group("coverage", kind, 10_000, 256, 500, has_peers=False) for kind in ("uniform", "power-law")],
        _group("coverage", "clustered", 10_000, 256, 2_000, has_peers=False),
        *[_group("coverage", kind, 10_000, 256, 20, has_peers=False) for kind in ("clustered", *others)],
        _group("coverage", "clustered", 50_000, 256, 2_000),
    ]


def _list_full() -> list[Group]:
    return [
        *[_group("k-center", "clustered", 200_000, 512, num_picks) for num_picks in (500, 2_000, 10_000)],
        *[_group("k-center", "clustered", 1_000_000, 256, num_picks) for num_picks in (500, 2_000, 10_000)],
        *[_group("k-center", "clustered", 1_000_000, 512, num_picks) for num_picks in (500, 2_000, 10_000)],
        _group("k-center", "openmoji", 1_000_000, 256, 10_000, has_peers=False),
        _group("coverage", "clustered", 200_000, 256, 2_000),
        _group("coverage", "openmoji", 200_000, 256, 2_000, has_peers=False),
    ]


def _group(task: Task, kind: Kind, num_pairs: int, dim: int, num_picks: int, *, has_peers: bool = True) -> Group:
    return Group(task, PoolSpec(kind, num_pairs, dim), num_picks, has_peers)
