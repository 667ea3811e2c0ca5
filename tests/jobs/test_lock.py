"""The lock of a run: refused while the owner lives, taken over when it is gone."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from jobs import lock
from jobs.lock import EXPIRY_S, LOCK, TAKE_OVER_S, RunLock, is_alive, is_held, read_owner
from mmcsal_core.errors import LockError
from mmcsal_core.storage import Store


def test_a_second_holder_is_refused_and_told_who_holds_it(tmp_path: Path) -> None:
    run = Store(str(tmp_path / "run"))
    with RunLock(run):
        with pytest.raises(LockError, match=r"process \d+ on .*wait for it"), RunLock(run):
            pass
        assert is_held(run)
    assert not run.exists(LOCK)
    with RunLock(run):
        pass


def test_a_lock_of_a_killed_process_is_taken_over(tmp_path: Path) -> None:
    run = Store(str(tmp_path / "run"))
    script = (
        "import sys, time; from jobs.lock import RunLock; from mmcsal_core.storage import Store\n"
        f"with RunLock(Store({run.url!r})):\n    print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(LockError), RunLock(run):
            pass
        holder.kill()
    with RunLock(run):
        pass


def write_foreign_lock(run: Store, age_s: float, skew_s: float = 0.0) -> None:
    """Write the lock of a run on another machine, whose clock is `skew_s` ahead, refreshed `age_s` ago."""
    seen = time.time() - age_s
    owner = {"token": "t", "host": "elsewhere", "pid": 1, "started": 0.0, "heartbeat": seen + skew_s}
    run.write_bytes(LOCK, json.dumps(owner).encode())
    os.utime(run.path(LOCK), (seen, seen))


@pytest.mark.parametrize(("age_s", "alive"), [(0.0, True), (EXPIRY_S + 1, False)])
@pytest.mark.parametrize("skew_s", [0.0, -600.0, 600.0])
def test_on_another_machine_the_last_refresh_counts_by_the_clock_of_the_store(
    tmp_path: Path, age_s: float, alive: bool, skew_s: float
) -> None:
    run = Store(str(tmp_path))
    write_foreign_lock(run, age_s, skew_s)
    assert is_held(run) is alive
    if alive:
        with pytest.raises(LockError, match=r"last seen about \d s ago"), RunLock(run):
            pass
    else:
        with RunLock(run):
            pass


SHORT_EXPIRY_S = 1.5

CONTENDER = """
import socket, sys
socket.sethostname("yet-another")
from jobs import lock
from mmcsal_core.errors import LockError
from mmcsal_core.storage import Store
lock.EXPIRY_S = float(sys.argv[1])
for url in sys.argv[2:]:
    try:
        with lock.RunLock(Store(url)):
            print("held")
    except LockError:
        print("refused")
"""
"""Runs in namespaces of its own, so that its machine has another name without any rights on ours."""


def contend_from_elsewhere(*runs: Store, expiry_s: float = SHORT_EXPIRY_S) -> list[str]:
    """Try to hold the locks of runs from a machine of another name; return what came of each."""
    command = [*("unshare", "--user", "--map-root-user", "--uts"), sys.executable, "-c", CONTENDER]
    done = subprocess.run(
        [*command, str(expiry_s), *(run.url for run in runs)],
        check=True,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    return done.stdout.split()


def test_a_lock_that_is_kept_fresh_is_refused_elsewhere_however_old_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "HEARTBEAT_S", 0.05)
    run, stale = Store(str(tmp_path / "run")), Store(str(tmp_path / "stale"))
    write_foreign_lock(stale, SHORT_EXPIRY_S + 1)
    with RunLock(run):
        first = read_owner(run) or {}
        time.sleep(SHORT_EXPIRY_S)
        later = read_owner(run) or {}
        assert later["heartbeat"] > first["heartbeat"]
        assert {**later, "heartbeat": 0} == {**first, "heartbeat": 0}
        assert contend_from_elsewhere(run, stale) == ["refused", "held"]


def test_a_holder_whose_lock_was_taken_is_told_by_whom_and_leaves_it_to_the_other(tmp_path: Path) -> None:
    run = Store(str(tmp_path))
    with RunLock(run) as holder:
        holder.check()
        ours = run.read_bytes(LOCK)
        write_foreign_lock(run, age_s=0.0)
        with pytest.raises(LockError, match="process 1 on elsewhere holds it now"):
            holder.check()
        run.write_bytes(LOCK, ours)  # a refresh that was long on its way
        with pytest.raises(LockError, match="lost"):
            holder.check()
    assert run.exists(LOCK)


def test_a_check_refreshes_a_stale_lock_and_finds_that_another_machine_had_it_meanwhile(tmp_path: Path) -> None:
    kept, taken = Store(str(tmp_path / "kept")), Store(str(tmp_path / "taken"))
    with RunLock(kept) as keeper, RunLock(taken) as loser:
        for run in (kept, taken):
            seen = time.time() - EXPIRY_S
            os.utime(run.path(LOCK), (seen, seen))
        keeper.check()
        assert contend_from_elsewhere(kept, taken, expiry_s=EXPIRY_S / 2) == ["refused", "held"]
        keeper.check()
        with pytest.raises(LockError, match="nobody holds it now"):
            loser.check()


def test_of_two_that_find_a_lock_stale_one_gets_it(tmp_path: Path) -> None:
    run = Store(str(tmp_path))
    write_foreign_lock(run, 2 * EXPIRY_S)
    barrier, outcomes = threading.Barrier(2), []

    def contend() -> None:
        barrier.wait()
        try:
            with RunLock(run):
                outcomes.append("held")
                time.sleep(2 * TAKE_OVER_S)
        except LockError:
            outcomes.append("refused")

    contenders = [threading.Thread(target=contend) for _ in range(2)]
    for contender in contenders:
        contender.start()
    for contender in contenders:
        contender.join()
    assert sorted(outcomes) == ["held", "refused"]


def test_a_reused_process_id_is_not_the_owner() -> None:
    owner = {"host": __import__("socket").gethostname(), "pid": 1, "started": 12.0, "heartbeat": time.time()}
    assert not is_alive(owner, silence_s=0.0)
