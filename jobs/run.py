"""Run the stages of a configuration in order, each at most once, under the lock of its run folder."""

import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from types import FrameType

from jobs.cluster import connect_ray
from jobs.config import JobConfig, describe_config, hash_config
from jobs.exit_codes import ExitCode
from jobs.lock import RunLock
from jobs.progress import Reporter
from jobs.run_status import RunStatus
from jobs.steps import Step, fingerprint_ingest, lay_out, list_steps
from mmcsal_core.corpus.sources import list_source
from mmcsal_core.errors import ArtifactError, ConfigError
from mmcsal_core.settings import Settings
from pipelines.stage_run import StageRun

CONFIG = "config.json"
STAGES = ("ingest", "features", "train", "embed", "neighbors", "coreset", "report")


class RunResult(Settings):
    """What a run did: `executed` stages, and those that were `up_to_date` already."""

    run: str
    executed: tuple[str, ...]
    up_to_date: tuple[str, ...]


def run_job(config: JobConfig, reporter: Reporter, *, until: str | None = None) -> RunResult:
    """Run every stage that is not up to date, up to and including `until`.

    Raises:
        ConfigError: `until` names no stage, or the configuration does not fit the source.
        DataError: the source is missing or unreadable.
        GateError: the source has fewer pairs than the budget, or too many pairs were rejected.
        LockError: another run holds the run folder.
        ArtifactError: an artifact is not what its manifest says.
    """
    if until is not None and until not in STAGES:
        raise ConfigError(f"--until takes a stage, got {until!r}; the stages are {', '.join(STAGES)}")
    listing = list_source(config.source, config.modalities, config.source_options)
    config.selection.count_picks(listing.num_pairs)
    steps = list_steps(config, fingerprint_ingest(config, listing.fingerprint))
    return execute_steps(config, steps[: STAGES.index(until) + 1 if until else None], reporter)


def select_again(config: JobConfig, reporter: Reporter) -> RunResult:
    """Select and report again from the stored embeddings; the source is not read.

    Raises:
        ArtifactError: the stored embeddings are missing, or were made under another configuration.
    """
    steps = _list_stored_steps(config)
    stale = [step.name for step in steps[:5] if not step.is_complete()]
    if stale:
        raise ArtifactError(
            f"selecting again needs embeddings of this very configuration in {config.run_store.url}, but these "
            f"stages are missing or were made under another one: {', '.join(stale)}; use `mmcsal run` instead"
        )
    return execute_steps(config, steps[5:], reporter)


def report_again(config: JobConfig, reporter: Reporter) -> RunResult:
    """Write the report again from the stored selection, even where it is up to date.

    Raises:
        ArtifactError: there is no stored selection of this configuration.
    """
    steps = _list_stored_steps(config)
    if not steps[5].is_complete():
        raise ArtifactError(f"{config.run_store.url} has no finished selection of this configuration; use `mmcsal run`")
    steps[6].artifact.store.remove()
    return execute_steps(config, steps[6:], reporter)


def execute_steps(config: JobConfig, steps: Sequence[Step], reporter: Reporter) -> RunResult:
    """Execute the steps that are not complete, in order, under the run's lock; start Ray only where one needs it."""
    run_store = config.run_store
    pending = [step for step in steps if not step.is_complete()]
    done = tuple(step.name for step in steps if step not in pending)
    result = RunResult(run=run_store.url, executed=tuple(step.name for step in pending), up_to_date=done)
    if not pending:
        return result
    status = RunStatus(run_store, config.run_id, hash_config(config))
    for name in done:
        status.note_skipped(name)
    with ExitStack() as stack:
        stack.enter_context(exit_on_sigterm())
        stack.enter_context(RunLock(run_store))
        stack.enter_context(status.record_run())
        run_store.write_json(CONFIG, describe_config(config))
        if any(step.uses_ray for step in pending):
            stack.enter_context(connect_ray(config.ray, config.resources))
            stack.enter_context(exit_on_sigterm())  # again, since ray.init has put a handler of its own in place
        for step in pending:
            with status.record_stage(step.name):
                manifest = step.execute(_make_stage_run(config, step, reporter.update))
            reporter.announce("stage_done", stage=step.name, pairs=manifest.pairs_out, rejected=manifest.pairs_rejected)
    return result


def _make_stage_run(config: JobConfig, step: Step, on_progress: Callable[..., None]) -> StageRun:
    return StageRun(
        out=step.artifact,
        fingerprint=step.fingerprint,
        resources=config.resources,
        max_reject_fraction=config.max_reject_fraction,
        on_progress=on_progress,
    )


def _list_stored_steps(config: JobConfig) -> list[Step]:
    return list_steps(config, lay_out(config).pairs.read_manifest().fingerprint)


@contextmanager
def exit_on_sigterm() -> Iterator[None]:
    """End the block with `SystemExit(143)` on SIGTERM, so that the lock is released and the status written."""

    def leave(_signal: int, _frame: FrameType | None) -> None:
        sys.exit(ExitCode.TERMINATED)

    previous = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
