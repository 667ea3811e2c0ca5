"""The actors of an engine on Ray: each holds shards, counts their updates in order, and is replaced where it dies.

Ray's `max_restarts` was not chosen: it restarts an actor from its first arguments and knows of no update.
"""

import itertools
import logging
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError
from threadpoolctl import threadpool_limits

from mmcsal_core.neighbors.vectors import Rows
from mmcsal_core.selection.engine.local_shards import Shard
from pipelines.stage_run import reserve_memory

MAX_RESTARTS = 3
"""Deaths in the place of one actor before the selection fails."""

WARN_EVERY_S = 60.0
"""Seconds after which a selection that waits for an actor to start says so, each time they have passed."""

_log = logging.getLogger(__name__)

OpenShard: TypeAlias = Callable[[], Shard]
Update: TypeAlias = tuple[Any, Rows]
Session: TypeAlias = tuple[str, str]


class ShardActor:
    """What runs in an actor: shards by a key each, and how many updates each of them has counted."""

    def __init__(self) -> None:
        threadpool_limits(1)
        self.shards: dict[int, Shard] = {}
        self._num_counted: dict[int, int] = {}

    def open(self, key: int, open_shard: OpenShard, updates: Sequence[ray.ObjectRef], num_proposed: int) -> None:
        """Open a shard and bring it to where it was.

        Args:
            key: of the shard, from now on.
            open_shard: makes the shard before the first update.
            updates: references to all updates so far, in order.
            num_proposed: rows proposed after the last update, whose values a shard may bring up to date only then; 0
                for none.
        """
        self.shards[key], self._num_counted[key] = open_shard(), 0
        for number, update in enumerate(ray.get(list(updates))):
            self.apply(key, number, update)
        if num_proposed:
            self.shards[key].propose(num_proposed)

    def ask(self, key: int, method: str, *args: Any) -> Any:
        """Call a method that changes no answer."""
        return getattr(self.shards[key], method)(*args)

    def apply(self, key: int, number: int, update: Update) -> None:
        """Count the update of a number, unless this actor has counted it already, when the shard was opened.

        Raises:
            ValueError: an earlier update was never sent here, so the answers would be wrong from now on.
        """
        num_counted = self._num_counted[key]
        if number > num_counted:
            raise ValueError(
                f"updates are counted in their order, got number {number} after {num_counted} updates of the shard of "
                f"key {key}; open it with all updates before that one"
            )
        if number == num_counted:
            self.shards[key].apply(*update)
            self._num_counted[key] += 1

    def close(self, key: int) -> None:
        """Let go of a shard."""
        del self.shards[key], self._num_counted[key]


class ShardActors:
    """The actors of an engine, each replaced where it dies, and ended when this object goes.

    Args:
        num_actors: to start.
        num_cpus: that Ray reserves for each.
        num_gpus: that Ray reserves for each.
        memory_gb: that Ray reserves for each; None reserves none.
    """

    def __init__(self, num_actors: int, num_cpus: float, num_gpus: float = 0.0, memory_gb: float | None = None) -> None:
        places: dict[str, Any] = {"num_cpus": num_cpus, "num_gpus": num_gpus, "scheduling_strategy": "SPREAD"}
        places |= reserve_memory(memory_gb)
        self._num_cpus, self._num_gpus = num_cpus, num_gpus
        self._start = ray.remote(ShardActor).options(**places, max_restarts=0, max_task_retries=0).remote
        self.handles = [self._start() for _ in range(num_actors)]
        self._are_up = [actor.__ray_ready__.remote() for actor in self.handles]
        self.keys = itertools.count()
        self._num_replaced = [0] * num_actors
        self.session = _find_session()
        weakref.finalize(self, _end_actors, self.handles, self.session).atexit = False

    def wait(self, calls: Mapping[int, ray.ObjectRef]) -> None:
        """Wait until calls are done, and say so from time to time where an actor that was called has not started.

        Args:
            calls: by the place of the actor; at least one.
        """
        pending = list(calls.values())
        while pending := ray.wait(pending, num_returns=len(pending), timeout=WARN_EVERY_S)[1]:
            _, missing = ray.wait(self._are_up, num_returns=len(self._are_up), timeout=0)
            if any(self._are_up[number] in missing for number in calls):
                self._warn(len(missing))

    def _warn(self, num_missing: int) -> None:
        _log.warning(
            "the selection waits: %d of its %d actors have not started, each takes %g CPUs and %g GPUs, and %g CPUs "
            "and %g GPUs are free on all nodes together; where these are too few, free some, or lower "
            "resources.selection_actors or resources.selection_gpus and run again: it goes on from the pick log",
            num_missing,
            len(self.handles),
            self._num_cpus,
            self._num_gpus,
            *(ray.available_resources().get(kind, 0.0) for kind in ("CPU", "GPU")),
        )

    def replace(self, number: int, dead: ActorHandle, first_row: int, error: RayError) -> None:
        """Start another actor in the place of one that has died, unless that was done.

        Args:
            number: of its place.
            dead: its handle.
            first_row: of the shard that noticed.
            error: by which it did.
        """
        if self.handles[number] is not dead:
            return
        rows = f"the actor of the rows from {first_row} on"
        if self._num_replaced[number] == MAX_RESTARTS:
            raise RayError(
                f"{rows} may die {MAX_RESTARTS} times in a selection, but has died once more ({error}); see Ray's log "
                "for why, give the machines more memory or the selection more actors, and run again: it goes on from "
                "the pick log"
            ) from error
        self._num_replaced[number] += 1
        _log.warning("%s has died and is replaced: %d of %d times", rows, self._num_replaced[number], MAX_RESTARTS)
        ray.kill(dead)  # it may live behind a broken connection
        self.handles[number] = self._start()
        self._are_up[number] = self.handles[number].__ray_ready__.remote()


def _end_actors(handles: Sequence[ActorHandle], session: Session) -> None:
    """End actors at once; Ray would first start those that wait for a core, to answer what they were asked."""
    if is_connected(session):
        for actor in handles:
            ray.kill(actor)


def _find_session() -> Session:
    """Return what tells this connection to Ray from others: each Ray counts its jobs from 1, but names nodes anew."""
    context = ray.get_runtime_context()
    return context.get_job_id(), context.get_node_id()


def is_connected(session: Session) -> bool:
    """Say whether this process is connected to Ray as it was in a session."""
    return ray.is_initialized() and _find_session() == session
