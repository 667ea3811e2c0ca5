import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from ray import cloudpickle
from ray.exceptions import RayActorError, RayError
from ray.util import placement_group, remove_placement_group
from scipy import sparse
from threadpoolctl import threadpool_limits

from mmcsal_core.neighbors.vectors import Rows, Vectors
from mmcsal_core.neighbors.whole_kernel import round_graph
from mmcsal_core.selection.engine.cover_objective import Cover
from mmcsal_core.selection.engine.eligibility import Eligibility
from mmcsal_core.selection.engine.engines import LocalEngine, split_rows
from mmcsal_core.selection.engine.k_center import KCenter, KCenterShard
from mmcsal_core.selection.engine.lazy_blocks import Limits, Search, count_start, pick_greedily
from mmcsal_core.selection.engine.proposals import Proposal
from pipelines import shard_actors
from pipelines.selection_engine import RayEngine, RayShards
from pipelines.shard_actors import MAX_RESTARTS, ShardActor, ShardActors
from tests.pipelines.pool_selections import (
    BUDGET,
    LABELLED,
    NUM_PAIRS,
    POOL,
    ListLog,
    ask,
    check_same,
    select,
    select_plainly,
    start_engine,
)

START, NOTHING = np.array([0]), np.empty(0, dtype=np.int64)

pytestmark = pytest.mark.usefixtures("ray_session")

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # actors would import all of this, which takes seconds


def kill(engine: RayEngine, number: int) -> None:
    """Kill an actor and wait until it is dead: what it is asked before that it may still answer."""
    actor = engine.actors.handles[number]
    ray.kill(actor)
    with suppress(RayActorError):
        while True:
            ray.get(actor.__ray_ready__.remote())


@pytest.fixture(scope="module")
def four_actors(ray_session: None) -> Iterator[RayEngine]:
    """An engine on four actors, none of which any test kills."""
    held = [start_engine(4)]
    yield held[0]
    held.clear()  # a failed test's traceback would keep them


def count_replaced(caplog: pytest.LogCaptureFixture) -> int:
    return sum("has died and is replaced" in message for message in caplog.messages)


def list_waits(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [message for message in caplog.messages if message.startswith("the selection waits: ")]


def begin(shards: Any) -> Search:
    """Begin a k-center of the pool at its first row."""
    search = Search(KCenter(), shards, Eligibility(NUM_PAIRS, START))
    count_start(search, START)
    return search


def list_open(actor: ShardActor) -> list[tuple[str, int]]:
    return [(type(shard).__name__, shard.num_rows) for shard in actor.shards.values()]


def look_into(engine: RayEngine) -> list[list[tuple[str, int]]]:
    return list(ray.get([actor.__ray_call__.remote(list_open) for actor in engine.actors.handles]))


def test_actors_hold_the_shards_of_a_phase_as_long_as_it_lasts(four_actors: RayEngine) -> None:
    assert look_into(four_actors) == [[]] * 4
    farthest = four_actors.open_k_center(POOL.joint, LABELLED, None)
    other = four_actors.open_k_center(POOL.joint[:2048], LABELLED, None)
    longer, short, shorter = ("KCenterShard", 2048), ("KCenterShard", 1024), ("KCenterShard", 356)
    assert look_into(four_actors) == [[longer, short], [longer, short], [longer], [shorter]]
    del farthest
    assert look_into(four_actors) == [[short], [short], [], []]
    del other
    assert look_into(four_actors) == [[]] * 4


def list_views(actor: ShardActor) -> list[tuple[int, ...]]:
    (shard,) = actor.shards.values()
    return list_views_in(shard)


def list_views_in(held: object) -> list[tuple[int, ...]]:
    """Return the shapes of the arrays in an object that lie in memory that is not theirs to change."""
    if isinstance(held, np.ndarray):
        return [] if held.flags.writeable or held.flags.owndata else [held.shape]
    return [shape for value in getattr(held, "__dict__", {}).values() for shape in list_views_in(value)]


def test_an_actor_works_on_views_of_the_object_store(four_actors: RayEngine) -> None:
    num_rows = 2048
    kernel = sparse.random_array((NUM_PAIRS, NUM_PAIRS), density=0.01, format="csr", rng=np.random.default_rng(0))
    edges = round_graph(kernel)
    held, everyone = [], Cover(np.ones(NUM_PAIRS), 0.0)
    for method, arguments in (
        ("open_k_center", (POOL.joint, LABELLED, None)),
        ("open_cover", (edges, everyone, LABELLED)),
    ):
        shards = getattr(four_actors, method)(*arguments)
        held.append(ray.get(four_actors.actors.handles[0].__ray_call__.remote(list_views)))
        del shards
    num_edges = int(edges.indptr[num_rows])
    assert POOL.joint[:num_rows].shape in held[0]
    assert held[1].count((num_edges,)) == 2
    assert (num_rows + 1,) in held[1]


@contextmanager
def hold_cores(num_cpus: float) -> Iterator[Callable[[], None]]:
    """Hold cores, without a process on them, until the yielded function is called or the block ends."""
    group = placement_group([{"CPU": num_cpus}])
    assert group.wait(30)
    try:
        yield lambda: remove_placement_group(group)
    finally:
        remove_placement_group(group)


def test_a_selection_that_waits_for_a_core_says_so_and_goes_on(
    four_actors: RayEngine, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def free_when_told() -> None:
        end = time.monotonic() + 10
        while not list_waits(caplog) and time.monotonic() < end:
            time.sleep(0.05)
        free()

    ray.get([actor.__ray_ready__.remote() for actor in four_actors.actors.handles])
    monkeypatch.setattr(shard_actors, "WARN_EVERY_S", 0.2)
    with hold_cores(0.8) as free:
        engine = RayEngine(2, num_cpus=0.6)  # 0.8 are left: one actor starts
        shards = engine.open_k_center(POOL.joint[:2048], NOTHING, None)
        calls = [actor.__ray_ready__.remote() for actor in engine.actors.handles]
        (first,), _ = ray.wait(calls)
        started = calls.index(first)
        engine.actors.handles[started].__ray_call__.remote(lambda _: time.sleep(1))
        shards.fetch(np.array([1024 * started]))
        assert list_waits(caplog) == []
        threading.Thread(target=free_when_told).start()
        assert [len(ranks) for ranks, _ in shards.gather("read_nearest")] == [1024, 1024]
    message = list_waits(caplog)[0]
    assert "1 of its 2 actors have not started, each takes 0.6 CPUs and 0 GPUs" in message
    assert "0.2 CPUs and 1 GPUs are free on all nodes" in message
    assert "lower resources.selection_actors" in message


def test_an_engine_that_goes_asks_for_no_more_cores() -> None:
    with hold_cores(1.0):
        engine = RayEngine(2, num_cpus=1.2)
        shards = engine.open_k_center(POOL.joint, NOTHING, None)
        calls = [actor.__ray_ready__.remote() for actor in engine.actors.handles]
        del shards, engine
        for call in calls:
            with pytest.raises(RayActorError):
                ray.get(call, timeout=30)


def test_an_update_is_counted_once_and_none_is_left_out(tmp_path: Path) -> None:
    with threadpool_limits(1):  # what the actor sets for its process
        actor = ShardActor()
        actor.open(7, partial(DyingShard, POOL.joint, 0, LABELLED, "", tmp_path / "mark"), [], 0)
        actor.apply(7, 0, (POOL.joint[:1], NOTHING))
        actor.apply(7, 1, (POOL.joint[:2], NOTHING))
        actor.apply(7, 0, (POOL.joint[:1], NOTHING))
        with pytest.raises(ValueError, match="in their order, got number 3 after 2 updates of the shard of key 7"):
            actor.apply(7, 3, (POOL.joint[:4], NOTHING))
        actor.apply(7, 2, (POOL.joint[:3], NOTHING))
        assert actor.ask(7, "list_counted") == [1, 2, 3]


def test_the_same_bits_after_actors_were_killed(caplog: pytest.LogCaptureFixture) -> None:
    engine, killed = start_engine(2), {1: 1, 2: 0, 4: 1}
    other, local = (begin(every.open_k_center(POOL.joint, START, None)) for every in (engine, LocalEngine(2, 1)))
    log = ListLog(on_round=lambda number: kill(engine, killed[number]) if number in killed else None)
    check_same(select("k_center", ask(engine, log)), select_plainly("k_center"))
    assert count_replaced(caplog) == len(killed)
    assert pick_greedily(other, Limits(BUDGET)) == pick_greedily(local, Limits(BUDGET))
    assert count_replaced(caplog) == len(killed)


def test_shards_of_a_dead_actor_close_and_others_open_in_its_place(caplog: pytest.LogCaptureFixture) -> None:
    engine = start_engine(1)
    one, other = (engine.open_k_center(POOL.joint[:num_rows], NOTHING, None) for num_rows in (1024, 2048))
    one.fetch(NOTHING)
    kill(engine, 0)
    one.fetch(NOTHING)
    del other
    assert look_into(engine) == [[("KCenterShard", 1024)]]
    kill(engine, 0)
    del one
    begin(engine.open_k_center(POOL.joint, START, None))
    assert count_replaced(caplog) == 2


def test_coverage_and_swaps_survive_the_death_of_an_actor(caplog: pytest.LogCaptureFixture) -> None:
    whole = ListLog()
    select("mmcsal", ask(LocalEngine(2, 1), whole))
    last, engine = len(whole.appended), start_engine(2)
    log = ListLog(on_round=lambda number: kill(engine, 0) if number in (2, last) else None)
    check_same(select("mmcsal", ask(engine, log)), select_plainly("mmcsal"))
    assert last > 2
    assert count_replaced(caplog) == 2


def test_an_actor_that_dies_too_often_ends_the_selection(caplog: pytest.LogCaptureFixture) -> None:
    engine = start_engine(1)
    log = ListLog(on_round=lambda _: kill(engine, 0))
    with pytest.raises(RayError, match=f"rows from 0 on may die {MAX_RESTARTS} times in a selection, but has died"):
        select("k_center", ask(engine, log))
    assert len(log.appended) == MAX_RESTARTS + 1
    assert count_replaced(caplog) == MAX_RESTARTS


class DyingShard(KCenterShard):
    """Dies once, when it has counted three updates and done what was asked, before it can answer."""

    def __init__(self, vectors: Vectors, first_row: int, closed: Rows, method: str, mark: Path) -> None:
        super().__init__(vectors, first_row, closed)
        self.method, self.mark, self.counted = method, mark, list[int]()

    def propose(self, num_rows: int) -> Proposal:
        proposal = super().propose(num_rows)
        self.die_in("propose")
        return proposal

    def fetch(self, rows: Rows) -> tuple[Vectors, Vectors]:
        fetched = super().fetch(rows)
        self.die_in("fetch")
        return fetched

    def apply(self, update: Vectors, closed: Rows) -> None:
        super().apply(update, closed)
        self.counted.append(len(update))
        self.die_in("apply")

    def die_in(self, method: str) -> None:
        if method == self.method and len(self.counted) == 3 and self.is_first():
            os._exit(1)

    def is_first(self) -> bool:
        """Say whether no shard has died yet; where both ask at once, only one is told so."""
        try:
            self.mark.touch(exist_ok=False)
        except FileExistsError:
            return False
        return True

    def list_counted(self) -> list[int]:
        return self.counted


@pytest.fixture(scope="module")
def dying_actors(ray_session: None) -> Iterator[ShardActors]:
    """Two actors, for `MAX_RESTARTS` tests that each let one of them die."""
    held = [start_engine(2).actors]
    yield held[0]
    held.clear()


@pytest.mark.parametrize("method", ["propose", "fetch", "apply"])
def test_an_actor_that_dies_in_a_call_does_what_it_was_asked_once(
    dying_actors: ShardActors, tmp_path: Path, caplog: pytest.LogCaptureFixture, method: str
) -> None:
    local = LocalEngine(2, 1).open_k_center(POOL.joint, START, None)
    opening = {
        span.start: partial(DyingShard, POOL.joint[span], span.start, START, method, tmp_path / "mark")
        for span in split_rows(NUM_PAIRS, 2)
    }
    shards = RayShards(DyingShard, opening, dying_actors)
    rounds = pick_greedily(begin(shards), Limits(BUDGET))
    assert rounds == pick_greedily(begin(local), Limits(BUDGET))
    assert count_replaced(caplog) == 1
    assert shards.gather("list_counted") == [[1, *(len(done.rows) for done in rounds)]] * 2


def run_alone(name: str) -> subprocess.CompletedProcess[str]:
    """Run a module of this folder in a process of its own."""
    command = [sys.executable, "-W", "ignore", "-m", f"tests.pipelines.{name}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done


def test_an_engine_of_a_ray_that_was_shut_down_goes_in_silence() -> None:
    done = run_alone("restarted_ray")
    job, next_job = done.stdout.split()
    assert job == next_job
    assert "Exception ignored" not in done.stderr


def test_a_node_that_is_lost_changes_no_pick() -> None:
    found = json.loads(run_alone("lost_node").stdout.splitlines()[-1])
    assert found["num_replaced"] >= 1
    assert found["nodes_of_actors"] == 2
    expected = select_plainly("k_center")
    np.testing.assert_array_equal(found["indices"], expected.indices)
    np.testing.assert_array_equal(found["terms"], expected.terms)
