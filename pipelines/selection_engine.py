"""The greedy engine on Ray: every shard of the pool in an actor, the loop itself in the driver.

The driver puts each shard's arrays into Ray's object store, and the actor works on a read-only view of them: on the
driver's node they are never copied again. Shards are cut where `LocalEngine` cuts them, so the picks are the same.
Actors live as long as their engine and hold the shards of one phase after the other, since starting one takes seconds.

A shard's state is its arrays and the updates it has been sent. The driver owns both, and every update goes into the
object store once. Where an actor or its node dies, a new actor counts all updates again, in their order and their
shapes, which gives the same bits, and is asked again what the dead one left unanswered. The driver's own death is what
the pick log is for.
"""

import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import ray
from ray.actor import ActorHandle
from ray.exceptions import ObjectLostError, OutOfMemoryError, RayActorError
from scipy import sparse

from mmcsal_core.neighbors.vectors import Floats, Rows
from mmcsal_core.selection.engine.cover import CoverShard
from mmcsal_core.selection.engine.cover_objective import Cover
from mmcsal_core.selection.engine.engines import describe_cover_shard, split_rows
from mmcsal_core.selection.engine.k_center import KCenterShard
from mmcsal_core.selection.engine.local_shards import Shard, fetch_parts
from mmcsal_core.selection.engine.proposals import Proposal, merge_proposals, share_rows
from mmcsal_core.selection.engine.screening import Screening
from pipelines.devices import find_multiplier
from pipelines.shard_actors import OpenShard, Session, ShardActors, is_connected

_DEATHS = (RayActorError, ObjectLostError, OutOfMemoryError)
"""The actor died, or its node did with an answer on it, or the node's memory ran out."""


class RayEngine:
    """Shards in actors; Ray must be running. The number of actors changes no result.

    Args:
        num_actors: started at once and kept; a pool of few blocks leaves the last ones idle.
        num_cpus: that Ray reserves for each; an actor computes on one thread.
        screening: as for `LocalEngine`.
        num_gpus: that Ray reserves for each; k-center multiplies on them, by numpy where a node has none after all.
        memory_gb: that Ray reserves for each; None reserves none.
    """

    def __init__(
        self,
        num_actors: int,
        num_cpus: float = 1.0,
        screening: Screening = "off",
        num_gpus: float = 0.0,
        memory_gb: float | None = None,
    ) -> None:
        self.actors = ShardActors(num_actors, num_cpus, num_gpus, memory_gb)
        self._screening: Screening = screening
        self._num_gpus = num_gpus

    def open_cover(self, kernel: sparse.csr_array, objective: Cover, closed: Rows) -> "RayShards":
        """Return shards of `CoverShard`."""
        spans = split_rows(kernel.shape[0], len(self.actors.handles))
        shards = {span.start: describe_cover_shard(kernel, span, objective, closed) for span in spans}
        return RayShards(CoverShard, shards, self.actors)

    def open_k_center(self, vectors: npt.NDArray[np.floating], closed: Rows, costs: Floats | None) -> "RayShards":
        """Return shards of `KCenterShard`."""
        shards = {
            span.start: partial(
                _open_k_center_shard,
                np.asarray(vectors[span]),  # a memory-mapped file leaves as a plain array
                span.start,
                closed,
                None if costs is None else costs[span],
                self._screening,
                self._num_gpus,
            )
            for span in split_rows(len(vectors), len(self.actors.handles))
        }
        return RayShards(KCenterShard, shards, self.actors)


def _open_k_center_shard(
    vectors: npt.NDArray[np.floating],
    first_row: int,
    closed: Rows,
    costs: Floats | None,
    screening: Screening,
    num_gpus: float,
) -> KCenterShard:
    """Open a shard where it will stay: the device is that of the actor's node."""
    return KCenterShard(vectors, first_row, closed, costs, screening=screening, device=find_multiplier(num_gpus))


class RayShards:
    """Shards that together are the pool, the n-th in the n-th actor, which lets go of it when this object goes.

    Args:
        kind: of the shards.
        shards: by first row, in rising order.
        actors: at least as many.
    """

    def __init__(self, kind: type[Shard], shards: Mapping[int, OpenShard], actors: ShardActors) -> None:
        self._kind, self._starts = kind, np.array(list(shards))
        self._actors, self._key = actors, next(actors.keys)
        self._shards = [ray.put(open_shard) for open_shard in shards.values()]
        self._updates: list[ray.ObjectRef] = []
        self._num_proposed = 0
        self._opened: dict[int, _OpenedShard] = {}
        for number in range(len(self._shards)):
            self._open(number)
        weakref.finalize(self, _close_shards, self._opened, self._key, actors.session).atexit = False

    def propose(self, num_rows: int) -> Proposal:
        """Return the best open rows of all shards."""
        self._num_proposed = share_rows(num_rows, len(self._shards))
        return merge_proposals(self.gather("propose", self._num_proposed), num_rows)

    def fetch(self, rows: Rows) -> Any:
        """Return what a hot set needs to know of rows, in their order."""
        return fetch_parts(rows, self._starts, self._fetch_own, self._kind)

    def apply(self, update: Any, closed: Rows) -> None:
        """Tell every shard."""
        number, sent = len(self._updates), ray.put((update, closed))
        self._updates.append(sent)
        self._num_proposed = 0
        self._ask(dict.fromkeys(self._opened, ("apply", number, sent)))

    def gather(self, method: str, *args: Any) -> list[Any]:
        """Call a method of every shard and return the answers in the order of their rows."""
        sent = [ray.put(argument) if isinstance(argument, np.ndarray) else argument for argument in args]
        return self._ask(dict.fromkeys(self._opened, ("ask", method, *sent)))

    def _fetch_own(self, parts: Mapping[int, Rows]) -> list[Any]:
        return self._ask({shard: ("ask", "fetch", rows) for shard, rows in parts.items()})

    def _ask(self, questions: Mapping[int, tuple[Any, ...]]) -> list[Any]:
        """Call actors by the number of their shard, all at once; where some have died, call those in their place.

        Args:
            questions: name of the actor's method and its arguments after the key.
        """
        answers: dict[int, Any] = dict.fromkeys(questions)
        while questions:
            calls = {shard: self._call(shard, *question) for shard, question in questions.items()}
            self._actors.wait(calls)
            received = {shard for shard, call in calls.items() if self._receive(shard, call, answers)}
            questions = {shard: question for shard, question in questions.items() if shard not in received}
        return list(answers.values())

    def _call(self, shard: int, method: str, *args: Any) -> ray.ObjectRef:
        actor = self._opened[shard].actor
        return getattr(actor, method).remote(self._key, *args)

    def _receive(self, shard: int, answer: ray.ObjectRef, answers: dict[int, Any]) -> bool:
        """Take an answer in and return True; where the actor has died, open the shard in another and return False."""
        opened = self._opened[shard]
        try:
            _, answers[shard] = ray.get([opened.done, answer])
        except _DEATHS as error:
            self._actors.replace(shard, opened.actor, int(self._starts[shard]), error)
            self._open(shard)
            return False
        return True

    def _open(self, shard: int) -> None:
        actor = self._actors.handles[shard]
        done = actor.open.remote(self._key, self._shards[shard], self._updates, self._num_proposed)
        self._opened[shard] = _OpenedShard(actor, done)


@dataclass(frozen=True)
class _OpenedShard:
    """A shard that an actor holds, or will when the call to open it is done."""

    actor: ActorHandle
    done: ray.ObjectRef


def _close_shards(opened: Mapping[int, _OpenedShard], key: int, session: Session) -> None:
    if is_connected(session):
        for shard in opened.values():
            shard.actor.close.remote(key)
