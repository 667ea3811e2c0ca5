"""The lock of a run: one writer a run folder, by put-if-absent, with an owner and a heartbeat.

A lock is stale when its process is gone (same machine) or its heartbeat is older than `EXPIRY_S` (another machine). A
stale lock is taken over, so a killed run can be started again at once on the machine that it ran on.
"""

import json
import os
import socket
import threading
import time
from types import TracebackType
from typing import Any

import psutil

from mmcsal_core.errors import ArtifactError, LockError
from mmcsal_core.storage import Store

LOCK = "_lock.json"
HEARTBEAT_S = 10.0
EXPIRY_S = 60.0


class RunLock:
    """Hold the lock of a run folder while the `with` block runs.

    Raises:
        LockError: another living run holds it.
    """

    def __init__(self, run: Store) -> None:
        self._run = run
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="mmcsal-lock", daemon=True)

    def __enter__(self) -> "RunLock":
        if not self._run.create_bytes(LOCK, _describe_owner()):
            self._take_over()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._run.remove(LOCK)

    def _take_over(self) -> None:
        owner = read_owner(self._run)
        if owner is not None and is_alive(owner):
            raise LockError(
                f"another run holds {self._run.url}: process {owner['pid']} on {owner['host']}, last seen "
                f"{time.time() - owner['heartbeat']:.0f} s ago; wait for it, or stop it and start again"
            )
        self._run.remove(LOCK)
        if not self._run.create_bytes(LOCK, _describe_owner()):
            raise LockError(f"another run has just taken {self._run.url}; wait for it")

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT_S):
            self._run.write_bytes(LOCK, _describe_owner())


def read_owner(run: Store) -> dict[str, Any] | None:
    """Return who holds the lock of a run folder, None where nobody does."""
    try:
        return dict(run.read_json(LOCK))
    except ArtifactError:
        return None


def is_alive(owner: dict[str, Any]) -> bool:
    """Say whether the owner of a lock still runs: its process on this machine, its heartbeat elsewhere."""
    if owner["host"] != socket.gethostname():
        return bool(time.time() - owner["heartbeat"] < EXPIRY_S)
    try:
        process = psutil.Process(owner["pid"])
        return abs(process.create_time() - owner["started"]) < 1.0 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _describe_owner() -> bytes:
    started = psutil.Process().create_time()
    owner = {"host": socket.gethostname(), "pid": os.getpid(), "started": started, "heartbeat": time.time()}
    return json.dumps(owner).encode()
