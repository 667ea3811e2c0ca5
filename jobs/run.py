"""Run the stages of a configuration in order, each at most once, under the lock of its run folder."""

import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from types import FrameType
from typing import Any

from jobs.cluster import open_ray_once
from jobs.config import CONFIG, JobConfig, describe_config, hash_config
from jobs.earlier_run import find_growth
from jobs.exit_codes import ExitCode, classify_error
from jobs.lock import RunLock, is_held
from jobs.preflight import check_evaluation, check_selection, read_lists
from jobs.progress import Reporter
from jobs.run_status import RUN_STATUS, RunStatus
from jobs.steps import Step, fingerprint_ingest, lay_out, list_steps, list_stored_steps, recall_lists
from jobs.store_health import warn_of_store
from mmcsal_core.artifacts import SUCCESS
from mmcsal_core.corpus.sources import list_source
from mmcsal_core.errors import ConfigError
from mmcsal_core.filesystems import foreseen_errors
from mmcsal_core.settings import Settings
from pipelines.coreset_demands import hash_pair_lists
from pipelines.stage_names import EVALUATE, STAGES
from pipelines.stage_run import StageRun


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
        LockError: another run holds the run folder, or has taken it over meanwhile.
        ArtifactError: an artifact is not what its manifest says.
    """
    with record_early_failure(config):
        stages = _list_stages(config)
        if until is not None and until not in stages:
            raise ConfigError(f"--until takes a stage, got {until!r}; the stages are {', '.join(stages)}")
        listing = list_source(config.source, config.modalities, config.source_options, config.source_index)
        lists = read_lists(config)
        check_selection(config, listing, lists)
        check_evaluation(config, listing)
        growth = find_growth(config)
    pairs_fingerprint = fingerprint_ingest(config, listing.fingerprint)
    steps = list_steps(config, pairs_fingerprint, hash_pair_lists(lists), lists, growth)
    return execute_steps(config, steps[: stages.index(until) + 1 if until else None], reporter)


def _list_stages(config: JobConfig) -> tuple[str, ...]:
    return STAGES if config.evaluate.label_column is None else (*STAGES, EVALUATE)


def select_again(config: JobConfig, reporter: Reporter) -> RunResult:
    """Select and report again from the stored embeddings; the source is not read.

    Raises:
        DataError: nothing is stored, or a list of pairs is missing or unreadable.
        ConfigError: the stored embeddings are missing or were made under another configuration, or a list of pairs lies
            in the run's own folder.
    """
    with record_early_failure(config):
        lists = read_lists(config)
        steps = list_stored_steps(config, hash_pair_lists(lists), lists)
        _check_embedded(config, steps, "selecting again")
    return execute_steps(config, steps[5:7], reporter)


def evaluate_stored(config: JobConfig, reporter: Reporter) -> RunResult:
    """Evaluate selections on the stored embeddings, whatever the stored selection; the source is not read.

    Raises:
        DataError: nothing is stored.
        ConfigError: no label column is named, or the stored embeddings are missing or were made under another
            configuration.
    """
    with record_early_failure(config):
        if config.evaluate.label_column is None:
            raise ConfigError(
                "an evaluation needs labels, got no evaluate.label_column; write e.g. --set "
                "evaluate.label_column=category"
            )
        steps = list_stored_steps(config, recall_lists(config))
        _check_embedded(config, steps, "evaluating")
    return execute_steps(config, steps[7:], reporter)


def _check_embedded(config: JobConfig, steps: Sequence[Step], purpose: str) -> None:
    stale = [step.name for step in steps[:5] if not step.is_complete()]
    if stale:
        raise ConfigError(
            f"{purpose} needs embeddings of this very configuration in {config.run_store.url}, but these "
            f"stages are missing or were made under another one: {', '.join(stale)}; use `mmcsal run` instead"
        )


def report_again(config: JobConfig, reporter: Reporter) -> RunResult:
    """Write the report again from the stored selection, even where it is up to date.

    Raises:
        ConfigError: there is no stored selection of this configuration.
    """
    with record_early_failure(config):
        steps = list_stored_steps(config, recall_lists(config))
        if not steps[5].is_complete():
            url = config.run_store.url
            raise ConfigError(f"{url} has no finished selection of this configuration; use `mmcsal run`")
    return execute_steps(config, steps[6:7], reporter, is_forced=True)


def execute_steps(
    config: JobConfig, steps: Sequence[Step], reporter: Reporter, *, is_forced: bool = False
) -> RunResult:
    """Execute the steps that are not complete, in order, under the run's lock; Ray starts where one first uses it.

    With `is_forced` steps that are complete are executed too. The stored configuration goes on describing what is
    published, so each step replaces it just before its artifact counts as finished.
    """
    run_store = config.run_store
    pending = [step for step in steps if is_forced or not step.is_complete()]
    done = tuple(step.name for step in steps if step not in pending)
    result = RunResult(run=run_store.url, executed=tuple(step.name for step in pending), up_to_date=done)
    status = RunStatus(run_store, config.run_id, hash_config(config))
    for name in done:
        status.note_skipped(name)
    if not pending:
        if not is_held(run_store):
            status.record_nothing_to_do()
        return result
    with ExitStack() as stack:
        stack.enter_context(exit_on_sigterm())
        warning = warn_of_store(run_store)
        if warning is not None:
            reporter.announce("warning", message=warning)
        lock = stack.enter_context(RunLock(run_store))
        stack.enter_context(status.record_run(lock.is_mine))
        if not run_store.exists(CONFIG):
            run_store.write_json(CONFIG, describe_config(config))
        open_ray = stack.enter_context(open_ray_once(config.ray, config.resources))
        for step in pending:
            lock.check()
            with status.record_stage(step.name):
                manifest = step.execute(_make_stage_run(config, step, reporter.update, open_ray, lock.check))
            reporter.announce("stage_done", stage=step.name, pairs=manifest.pairs_out, rejected=manifest.pairs_rejected)
    return result


def _make_stage_run(
    config: JobConfig,
    step: Step,
    on_progress: Callable[..., None],
    open_ray: Callable[[], None],
    check_lock: Callable[[], None],
) -> StageRun:
    def store_config() -> None:
        check_lock()
        config.run_store.write_json(CONFIG, _describe_published(config, step))

    return StageRun(
        out=step.artifact,
        fingerprint=step.fingerprint,
        resources=config.resources,
        max_reject_fraction=config.max_reject_fraction,
        on_progress=on_progress,
        open_ray=open_ray,
        before_success=store_config,
        check_lock=check_lock,
    )


def _describe_published(config: JobConfig, step: Step) -> dict[str, Any]:
    """Return the configuration to store once a step has published; an evaluation does not speak for the selection."""
    described = describe_config(config)
    if step.name != EVALUATE:
        return described
    return {**config.run_store.read_json(CONFIG), "evaluate": described["evaluate"]}


@contextmanager
def record_early_failure(config: JobConfig) -> Iterator[None]:
    """Write `run_status.json` where the run fails before it has begun, unless another run is at work there.

    A wrong configuration is noted only where there is such a file already: it must not create a folder.
    """
    with ExitStack() as stack:
        stack.push(partial(_record_failure, config))
        yield


def _record_failure(config: JobConfig, _kind: object, error: BaseException | None, _trace: object) -> None:
    code = ExitCode.DONE if error is None else classify_error(error)
    if error is None or code not in (ExitCode.USAGE, ExitCode.INPUT, ExitCode.GATE):
        return
    run = config.run_store
    with suppress(*foreseen_errors()):  # a status that cannot be written must not hide why the run failed
        if is_held(run) or (code == ExitCode.USAGE and not run.exists(RUN_STATUS)):
            return
        status = RunStatus(run, config.run_id, hash_config(config))
        is_published = {each.stage: each.store.exists(SUCCESS) for each in vars(lay_out(config)).values()}
        for stage in (stage for stage in (*STAGES, EVALUATE) if is_published[stage]):
            status.note_published(stage)
        status.record_failure(error)


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
