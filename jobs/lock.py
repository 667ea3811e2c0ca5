"""The lock of a run: one writer a run folder, by put-if-absent, with an owner and a heartbeat.

A lock is stale when its process is gone (same machine) or when it has not been refreshed for `EXPIRY_S` (another
machine), by the clock of the store, since those of two machines may be minutes apart. A stale lock is taken over, so a
killed run can be started again at once on the machine that it ran on.

A holder may lose its lock without a word, where the store was out of its reach for too long. So it asks the store whose
the lock is (`RunLock.check`) before a stage starts, before an artifact is cleared and before one is published, and ends
where the lock is another's. Shards that it writes until then do no harm: the name and the bytes of a shard follow from
its plan, and once the plan is another's it writes none (`Artifact.check_current`).

Of several that take over at once, the last to write holds the lock. Each looks after `TAKE_OVER_S`. A request that is
on its way for longer, since the store was busy, may let two go on; but one token alone lies in the store, so all others
end at their next check, the first of which comes before the first stage. A check refreshes the lock too: nobody finds
it stale while its holder publishes. What no check can hold is a process that stops for longer than `EXPIRY_S` between a
check and the write after it, since object stores cannot make a write depend on another object.
"""

import errno
import json
import math
import os
import socket
import threading
import time
import uuid
from contextlib import suppress
from types import TracebackType
from typing import Any

import psutil

from mmcsal_core.errors import ArtifactError, LockError
from mmcsal_core.filesystems import is_refusal, store_errors
from mmcsal_core.storage import Store

LOCK = "_lock.json"
HEARTBEAT_S = 10.0
EXPIRY_S = 60.0
TAKE_OVER_S = 0.5


class RunLock:
    """Hold the lock of a run folder while the `with` block runs.

    Raises:
        LockError: another living run holds it.
    """

    def __init__(self, run: Store) -> None:
        self._run = run
        self._token = uuid.uuid4().hex
        self._stop = threading.Event()
        self._lost = threading.Event()
        self._refreshing = threading.Lock()
        self._thread = threading.Thread(target=self._beat, name="mmcsal-lock", daemon=True)

    def __enter__(self) -> "RunLock":
        if not self._run.create_bytes(LOCK, self._describe()):
            self._take_over()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        if self.is_mine():
            self._run.remove(LOCK)

    def check(self) -> None:
        """Refresh the lock, so that it is not stale for `EXPIRY_S` from now.

        Raises:
            LockError: it is no longer this run's.
        """
        self._refresh()
        if self._lost.is_set():
            owner = read_owner(self._run)
            holder = "nobody" if owner is None else f"process {owner['pid']} on {owner['host']}"
            raise LockError(
                f"this run has lost its lock of {self._run.url}, which was taken over or deleted; {holder} holds it "
                "now. What was published before is kept, and nothing more was; wait for the other run, or stop it, and "
                "start again"
            )

    def is_mine(self) -> bool:
        """Say whether the lock is this run's, by what lies in the store; one that was lost stays so."""
        owner = read_owner(self._run)
        if owner is None or owner["token"] != self._token:
            self._lost.set()
        return not self._lost.is_set()

    def _take_over(self) -> None:
        owner = read_owner(self._run)
        if owner is not None and owner["token"] == self._token:
            return  # the store did what was asked, but its answer was lost, and asking again was refused
        silence_s = math.inf if owner is None else measure_silence_s(self._run, owner)
        if owner is not None and is_alive(owner, silence_s):
            raise LockError(
                f"another run holds {self._run.url}: process {owner['pid']} on {owner['host']}, last seen "
                f"about {silence_s:.0f} s ago; wait for it, or stop it and start again"
            )
        self._run.remove(LOCK)
        self._run.create_bytes(LOCK, self._describe())
        time.sleep(TAKE_OVER_S)  # of several that found the lock stale the last one to write holds it
        if not self.is_mine():
            raise LockError(f"another run has just taken {self._run.url}; wait for it")

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT_S):
            with suppress(*store_errors()):  # a missed beat is made up for by the next
                self._refresh()

    def _refresh(self) -> None:
        with self._refreshing:  # two threads of a process must not write one file at a time
            if self.is_mine():
                self._run.write_bytes(LOCK, self._describe())

    def _describe(self) -> bytes:
        owner = {
            "token": self._token,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "started": psutil.Process().create_time(),
            "heartbeat": time.time(),
        }
        return json.dumps(owner).encode()


def read_owner(run: Store) -> dict[str, Any] | None:
    """Return who holds the lock of a run folder, None where nobody does."""
    try:
        return dict(run.read_json(LOCK))
    except ArtifactError:
        return None


def is_held(run: Store) -> bool:
    """Say whether a living run holds the lock of a run folder."""
    owner = read_owner(run)
    return owner is not None and is_alive(owner, measure_silence_s(run, owner))


def is_alive(owner: dict[str, Any], silence_s: float) -> bool:
    """Say whether the owner of a lock still runs: its process on this machine, another one by how long it is silent."""
    if owner["host"] != socket.gethostname():
        return silence_s < EXPIRY_S
    try:
        process = psutil.Process(owner["pid"])
        return abs(process.create_time() - owner["started"]) < 1.0 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def measure_silence_s(run: Store, owner: dict[str, Any]) -> float:
    """Return the seconds since the owner of a lock was last seen, infinite where it has just given the lock up.

    For an owner on another machine they are counted by the store's clock. Where the store does not tell, or takes no
    file from a reader for whom to tell it, our clock and the owner's have to agree.
    """
    by_our_clock = max(0.0, time.time() - float(owner["heartbeat"]))
    if owner["host"] == socket.gethostname():
        return by_our_clock
    try:
        age_s = run.measure_age_s(LOCK)
    except FileNotFoundError:
        return math.inf
    except store_errors() as error:
        if not _is_read_only(error, run.url):
            raise
        return by_our_clock
    return by_our_clock if age_s is None else max(0.0, age_s)


def _is_read_only(error: BaseException, url: str) -> bool:
    number = error.errno if isinstance(error, OSError) else None
    return number in (errno.EACCES, errno.EPERM, errno.EROFS) or is_refusal(error, url)
