"""Losses at moments that a seed draws, each of which proves itself: the job was at work, and lost something.

A moment is a stage and a number of files that the stage has written, so that all stages are met however fast the
machine is. Where a moment finds nothing to lose, the next one does; where the job ends before, a new one is disturbed
in the stage before.
"""

import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random

import psutil

from jobs.run_status import RUN_STATUS
from mmcsal_core.errors import ArtifactError
from mmcsal_core.storage import Store
from pipelines.stage_names import CORESET, EMBED, INGEST, NEIGHBORS, STAGES, TRAIN
from tests.integration.job_process import FOLDERS, read_files, start_mmcsal

TIMEOUT_S = 400.0
POLL_S = 0.05
RETRY_S = 0.1


@dataclass(frozen=True)
class Moment:
    """When something is lost.

    Args:
        stage: that is under way.
        num_files: that its artifact has by then.
    """

    stage: str
    num_files: int


@dataclass(frozen=True)
class DisturbedJob:
    """A job that has ended after a loss.

    Args:
        config: what it was started with.
        run: its run folder.
        stage: in which something was lost.
        returncode: as of `subprocess.Popen`.
        told: its stderr.
    """

    config: Path
    run: Store
    stage: str
    returncode: int
    told: str


def put_on_workers(stage: str) -> dict[str, int]:
    """Return the resources of a job on few pairs whose workers do a stage, if any do: the driver does light work."""
    is_light = stage in (INGEST, TRAIN, EMBED, NEIGHBORS)
    return {
        "num_actors": 2,
        "selection_actors": 2 if stage == CORESET else 0,
        "max_driver_pairs": 0 if is_light else 4096,
    }


def draw_moments(draw: Random, place: int, reference: Path) -> Iterator[Moment]:
    """Yield a moment in the stage at `place`, then one in each stage before it, the last first.

    Args:
        draw: draws how many files the stage has written.
        place: in the order of the stages, counted on and on.
        reference: the run folder of a finished run of the same shards.
    """
    for stage in reversed(STAGES[: place % len(STAGES) + 1]):
        yield Moment(stage, draw.randrange(len(read_files(reference / FOLDERS[stage]))))


def disturb_job(
    moments: Iterable[Moment],
    prepare: Callable[[Moment], tuple[Path, Store]],
    lose: Callable[["subprocess.Popen[str]", str], bool],
    private: Path | None = None,
) -> DisturbedJob:
    """Run a job, lose something at the first of the moments at which it can be lost, and wait for the job's end.

    Args:
        moments: in the order in which they are tried, each on a new job.
        prepare: writes the configuration of a job that nothing has run yet; returns it, and the run's folder.
        lose: what is lost of a job that is held still in a stage; says whether anything was there to lose.
        private: as for `start_mmcsal`.
    """
    for moment in moments:
        config, run = prepare(moment)
        with start_mmcsal("run", config, private=private) as job:
            stage = _lose_at(job, run, moment, lose)
            _, told = job.communicate(timeout=TIMEOUT_S)
        if stage is not None:
            return DisturbedJob(config, run, stage, job.returncode, told)
        assert job.returncode == 0, f"nothing was lost, and yet: {told}"
    raise AssertionError("nothing could be lost in any stage")


def kill(victims: Sequence[psutil.Process]) -> bool:
    """Send SIGKILL to processes; say whether any of them was still there."""
    num_killed = 0
    for victim in victims:
        with suppress(psutil.NoSuchProcess):
            victim.send_signal(signal.SIGKILL)
            num_killed += 1
    return num_killed > 0


@contextmanager
def hold_still(job: "subprocess.Popen[str]") -> Iterator[None]:
    """Stop a process, so that it cannot end meanwhile, and let it go on; one that has ended has."""
    job.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        job.send_signal(signal.SIGCONT)


def _lose_at(
    job: "subprocess.Popen[str]", run: Store, moment: Moment, lose: Callable[["subprocess.Popen[str]", str], bool]
) -> str | None:
    """Return the stage in which something was lost, None where the job ended first."""
    deadline = time.monotonic() + TIMEOUT_S
    while job.poll() is None:
        assert time.monotonic() < deadline, f"the job hangs at or before {moment}"
        if _is_due(run, moment):
            with hold_still(job):
                stage = _find_stage(run)
                if stage is not None and job.poll() is None and lose(job, stage):
                    return stage
            time.sleep(RETRY_S)
        time.sleep(POLL_S)
    return None


def _is_due(run: Store, moment: Moment) -> bool:
    stage = _find_stage(run)
    if stage != moment.stage:
        return stage is not None and STAGES.index(stage) > STAGES.index(moment.stage)
    return len(run.child(FOLDERS[stage]).list_files()) >= moment.num_files


def _find_stage(run: Store) -> str | None:
    """Return the stage that is under way, None before the first one and once the run has ended."""
    try:
        status = run.read_json(RUN_STATUS)
    except ArtifactError:
        return None
    return status["stage"] if status["state"] == "running" else None
