"""The greedy engine on Ray: every shard of the pool in an actor, the loop itself in the driver.

The driver puts each shard's arrays into Ray's object store, and the actor works on a read-only view of them: on the
driver's node they are never copied again. Shards are cut where `LocalEngine` cuts them, so the picks are the same.

An actor's state is its arrays and the updates it has been sent. The driver owns both, and every update goes into the
object store once. Where an actor or its node dies, a new actor counts all updates again, in their order and their
shapes, which gives the same bits, and is asked again what the dead one left unanswered. The driver's own death is what
the pick log is for. Ray's `max_restarts` was not chosen: it restarts an actor from its first arguments and knows of no
update.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import ray
from ray.exceptions import ObjectLostError, OutOfMemoryError, RayActorError, RayError
from scipy import sparse
from threadpoolctl import threadpool_limits

from mmcsal_core.neighbors.vectors import Floats, Rows
from mmcsal_core.neighbors.whole_kernel import Whole
from mmcsal_core.selection.engine.cover import CoverShard
from mmcsal_core.selection.engine.cover_objective import Cover
from mmcsal_core.selection.engine.engines import Engine, LocalEngine, describe_cover, split_rows
from mmcsal_core.selection.engine.k_center import KCenterShard
from mmcsal_core.selection.engine.local_shards import Shard, fetch_parts
from mmcsal_core.selection.engine.proposals import Proposal, merge_proposals, share_rows
from mmcsal_core.selection.engine.screening import Screening
from pipelines.stage_run import Resources

MAX_RESTARTS = 3
"""Deaths of one shard's actors before the selection fails."""

_DEATHS = (RayActorError, ObjectLostError, OutOfMemoryError)
"""The actor died, or its node did with an answer on it, or the node's memory ran out."""

_log = logging.getLogger(__name__)

OpenShard: TypeAlias = Callable[[], Shard]
Update: TypeAlias = tuple[Any, Rows]


def choose_engine(resources: Resources) -> Engine:
    """Return the engine on actors where any are asked for, else that of this process."""
    screening = resources.selection_screening
    if resources.selection_actors == 0:
        return LocalEngine(screening=screening, device=find_device(resources))
    return RayEngine(resources.selection_actors, num_cpus=min(1.0, resources.cpus_per_actor), screening=screening)


def find_device(resources: Resources) -> str | None:
    """Return where this process multiplies: on its GPU where there is one and workers may use GPUs, else by numpy."""
    if resources.gpus_per_actor == 0:
        return None
    import torch  # noqa: PLC0415  slow to load

    return "cuda" if torch.cuda.is_available() else None


class RayEngine:
    """Shards in actors; Ray must be running. The number of actors changes no result.

    Args:
        num_actors: at most; a pool of few blocks has fewer.
        num_cpus: that Ray reserves for each; an actor computes on one thread.
        screening: as for `LocalEngine`.
    """

    def __init__(self, num_actors: int, num_cpus: float = 1.0, screening: Screening = "off") -> None:
        self._num_actors, self._num_cpus = num_actors, num_cpus
        self._screening: Screening = screening

    def open_cover(self, kernel: sparse.csr_array, objective: Cover, closed: Rows) -> "RayShards":
        """Return shards of `CoverShard`."""
        spans = split_rows(kernel.shape[0], self._num_actors)
        shards = {span.start: describe_cover_shard(kernel, span, objective, closed) for span in spans}
        return RayShards(CoverShard, shards, num_cpus=self._num_cpus)

    def open_k_center(self, vectors: npt.NDArray[np.floating], closed: Rows, costs: Floats | None) -> "RayShards":
        """Return shards of `KCenterShard`."""
        shards = {
            span.start: partial(
                KCenterShard,
                np.asarray(vectors[span]),  # a memory-mapped file leaves as a plain array
                span.start,
                closed,
                None if costs is None else costs[span],
                screening=self._screening,
            )
            for span in split_rows(len(vectors), self._num_actors)
        }
        return RayShards(KCenterShard, shards, num_cpus=self._num_cpus)


class ShardActor:
    """What runs in an actor: one shard, and how many updates it has counted.

    Args:
        open_shard: makes the shard before the first update.
        updates: references to all updates so far, in order.
        num_proposed: rows proposed after the last update, whose values a shard may bring up to date only then; 0 for
            none.
    """

    def __init__(self, open_shard: OpenShard, updates: Sequence[ray.ObjectRef], num_proposed: int) -> None:
        threadpool_limits(1)
        self._shard = open_shard()
        self._num_counted = 0
        for number, update in enumerate(ray.get(list(updates))):
            self.apply(number, update)
        if num_proposed:
            self._shard.propose(num_proposed)

    def ask(self, method: str, *args: Any) -> Any:
        """Call a method that changes no answer."""
        return getattr(self._shard, method)(*args)

    def apply(self, number: int, update: Update) -> None:
        """Count the update of a number, unless this actor has counted it already, when it was made."""
        if number == self._num_counted:
            self._shard.apply(*update)
            self._num_counted += 1


class RayShards:
    """Shards that together are the pool, each in an actor that is replaced where it dies.

    Args:
        kind: of the shards.
        shards: by first row, in rising order.
        num_cpus: that Ray reserves for each actor.
    """

    def __init__(self, kind: type[Shard], shards: Mapping[int, OpenShard], *, num_cpus: float) -> None:
        options = {"num_cpus": num_cpus, "max_restarts": 0, "max_task_retries": 0, "scheduling_strategy": "SPREAD"}
        self._kind, self._starts = kind, np.array(list(shards))
        self._make_actor = ray.remote(ShardActor).options(**options).remote
        self._shards = [ray.put(open_shard) for open_shard in shards.values()]
        self._updates: list[ray.ObjectRef] = []
        self._num_proposed = 0
        self._num_restarts = [0] * len(shards)
        self.actors = [self._make_actor(shard, [], 0) for shard in self._shards]

    def propose(self, num_rows: int) -> Proposal:
        """Return the best open rows of all shards."""
        self._num_proposed = share_rows(num_rows, len(self.actors))
        return merge_proposals(self.gather("propose", self._num_proposed), num_rows)

    def fetch(self, rows: Rows) -> Any:
        """Return what a hot set needs to know of rows, in their order."""
        return fetch_parts(rows, self._starts, self._fetch_own, self._kind)

    def apply(self, update: Any, closed: Rows) -> None:
        """Tell every shard."""
        number, sent = len(self._updates), ray.put((update, closed))
        self._updates.append(sent)
        self._num_proposed = 0
        self._ask(range(len(self.actors)), lambda shard: self.actors[shard].apply.remote(number, sent))

    def gather(self, method: str, *args: Any) -> list[Any]:
        """Call a method of every shard and return the answers in the order of their rows."""
        sent = [ray.put(argument) if isinstance(argument, np.ndarray) else argument for argument in args]
        return self._ask(range(len(self.actors)), lambda shard: self.actors[shard].ask.remote(method, *sent))

    def _fetch_own(self, parts: Mapping[int, Rows]) -> list[Any]:
        return self._ask(parts, lambda shard: self.actors[shard].ask.remote("fetch", parts[shard]))

    def _ask(self, shards: Iterable[int], call: Callable[[int], ray.ObjectRef]) -> list[Any]:
        """Call the actors of shards, all at once; where some have died, call those that take their place."""
        calls = {shard: call(shard) for shard in shards}
        answers = dict.fromkeys(calls)
        while calls:
            ray.wait(list(calls.values()), num_returns=len(calls))
            calls = {shard: call(shard) for shard in list(calls) if not self._receive(shard, calls[shard], answers)}
        return list(answers.values())

    def _receive(self, shard: int, answer: ray.ObjectRef, answers: dict[int, Any]) -> bool:
        """Take an answer in and return True; where the actor has died, replace it and return False."""
        try:
            answers[shard] = ray.get(answer)
        except _DEATHS as error:
            self._replace_actor(shard, error)
            return False
        return True

    def _replace_actor(self, shard: int, error: RayError) -> None:
        rows = f"the actor of the rows from {self._starts[shard]} on"
        if self._num_restarts[shard] == MAX_RESTARTS:
            raise RayError(
                f"{rows} may die {MAX_RESTARTS} times in a selection, but has died once more ({error}); see Ray's log "
                "for why, give the machines more memory or the selection more actors, and run again: it goes on from "
                "the pick log"
            ) from error
        self._num_restarts[shard] += 1
        _log.warning("%s has died and is replaced: %d of %d times", rows, self._num_restarts[shard], MAX_RESTARTS)
        ray.kill(self.actors[shard])  # it may live behind a broken connection
        self.actors[shard] = self._make_actor(self._shards[shard], self._updates, self._num_proposed)


def describe_cover_shard(kernel: sparse.csr_array, span: slice, objective: Cover, closed: Rows) -> OpenShard:
    """Return what opens the shard of a span of rows, holding views of their edges; arguments as in `open_cover`."""
    edges = slice(*kernel.indptr[[span.start, span.stop]].tolist())
    starts = kernel.indptr[span.start : span.stop + 1] - edges.start
    shape = (len(starts) - 1, kernel.shape[1])
    own = sparse.csr_array((kernel.data[edges], kernel.indices[edges], starts), shape=shape)  # small index type
    arrays = (own.data, own.indices, own.indptr)
    return partial(_open_cover_shard, arrays, shape, span.start, describe_cover(objective, span, closed))


def _open_cover_shard(
    arrays: tuple[Whole, Rows, Rows], shape: tuple[int, int], first_row: int, known: Mapping[str, Any]
) -> CoverShard:
    return CoverShard(sparse.csr_array(arrays, shape=shape), first_row, **known)
