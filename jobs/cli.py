"""The `mmcsal` command: results on stdout (`--json` for machines), progress and errors on stderr, fine exit codes.

What a command runs is imported when it is called: the stages, Ray and torch take seconds, and `--help`, `status` and
`validate` need none of them.
"""

import json
import sys
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from jobs.config import CONFIG, JobConfig, load_config, parse_config
from jobs.exit_codes import ExitCode, classify_error, find_cause
from jobs.lock import is_held
from jobs.progress import open_reporter
from jobs.run_status import RUN_STATUS
from mmcsal_core.credentials import mask_credentials
from mmcsal_core.errors import ConfigError, DataError, MmcsalError
from mmcsal_core.storage import Store

if TYPE_CHECKING:
    from jobs.run import RunResult

app = typer.Typer(
    name="mmcsal",
    help="Which multimodal pairs to label first: budgeted, cross-modal, cold-start selection.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

ConfigPath = Annotated[str, typer.Argument(metavar="CONFIG", help="YAML file that describes the run.")]
RunUrl = Annotated[str, typer.Argument(metavar="RUN", help="Run folder, e.g. out/run_id=demo or s3://bucket/run_id=x.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="A.B=C", help="Override a key of the configuration; repeatable.")
]
StoreOptions = Annotated[
    list[str] | None,
    typer.Option(
        "--store-option", metavar="KEY=VALUE", help="fsspec option of the store, e.g. endpoint_url=...; repeatable."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object to stdout.")]

Result = TypeVar("Result")


@app.command()
def plan(config: ConfigPath, set_: Overrides = None, as_json: AsJson = False) -> None:
    """Say what a run will take: pairs, shards, bytes, memory, hours and cost. Reads headers and lists of pairs only."""
    from jobs.estimate import describe_estimate, estimate_run  # noqa: PLC0415  slow to load

    estimate = _guard(lambda: estimate_run(load_config(config, set_ or ())), as_json)
    _print_values("plan", estimate.model_dump(mode="json") if as_json else describe_estimate(estimate), as_json)


@app.command()
def run(
    config: ConfigPath,
    until: Annotated[str | None, typer.Option(metavar="STAGE", help="Last stage to run.")] = None,
    set_: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Run every stage that is not up to date. A killed run resumes where it was."""
    from jobs.run import run_job  # noqa: PLC0415  slow to load

    result = _guard(
        lambda: _with_reporter(lambda reporter: run_job(load_config(config, set_ or ()), reporter, until=until)),
        as_json,
    )
    _print_run(result, as_json)


@app.command()
def select(
    config: ConfigPath,
    *,
    budget: Annotated[int | None, typer.Option(help="Pairs to pick.")] = None,
    strategy: Annotated[str | None, typer.Option(help="mmcsal, k_center, coverage, random, ...")] = None,
    labelled: Annotated[str | None, typer.Option(metavar="PATH", help="List of pairs that are labelled.")] = None,
    exclude: Annotated[str | None, typer.Option(metavar="PATH", help="List of pairs to leave out.")] = None,
    where: Annotated[str | None, typer.Option(metavar="SQL", help="Condition on metadata columns.")] = None,
    set_: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Select again from stored embeddings: another budget, strategy or constraint. Nothing else is recomputed.

    The options are short for `--set selection.budget=...` and so on; `--set` reaches every other key.
    """
    from jobs.run import select_again  # noqa: PLC0415  slow to load

    named = {"budget": budget, "strategy": strategy, "labelled": labelled, "exclude": exclude, "where": where}
    short = [f"selection.{key}={json.dumps(value)}" for key, value in named.items() if value is not None]
    if budget is not None:
        short.append("selection.budget_fraction=null")
    overrides = [*short, *(set_ or ())]
    result = _guard(
        lambda: _with_reporter(lambda reporter: select_again(load_config(config, overrides), reporter)), as_json
    )
    _print_run(result, as_json)


@app.command()
def evaluate(config: ConfigPath, set_: Overrides = None, as_json: AsJson = False) -> None:
    """Say whether the picks train a better model, from stored embeddings and the labels of evaluate.label_column."""
    from jobs.run import evaluate_stored  # noqa: PLC0415  slow to load
    from jobs.steps import lay_out  # noqa: PLC0415  slow to load
    from pipelines.evaluate import SUMMARY  # noqa: PLC0415  slow to load

    loaded = _guard(lambda: load_config(config, set_ or ()), as_json)
    result = _guard(lambda: _with_reporter(lambda reporter: evaluate_stored(loaded, reporter)), as_json)
    _print_run(result, as_json)
    if not as_json:
        typer.echo(_guard(lambda: lay_out(loaded).evaluation.store.read_bytes(SUMMARY).decode(), as_json))


@app.command()
def report(run_url: RunUrl, set_: Overrides = None, store_option: StoreOptions = None, as_json: AsJson = False) -> None:
    """Write the report of a run again, from its stored selection."""
    from jobs.run import report_again  # noqa: PLC0415  slow to load

    def write() -> "RunResult":
        stored = _load_stored_config(run_url, store_option, set_)
        return _with_reporter(lambda reporter: report_again(stored, reporter))

    _print_run(_guard(write, as_json), as_json)


@app.command()
def status(run_url: RunUrl, store_option: StoreOptions = None, as_json: AsJson = False) -> None:
    """Say what a run is doing, or what it ended with."""

    def read() -> dict[str, Any]:
        store = _find_run(run_url, store_option, RUN_STATUS)
        return {**store.read_json(RUN_STATUS), "is_alive": is_held(store)}

    _print_values("status", _guard(read, as_json), as_json)


@app.command()
def validate(run_url: RunUrl, store_option: StoreOptions = None, as_json: AsJson = False) -> None:
    """Check a run against the output contract: checksums, counts, schemas, ranks, weights."""
    from jobs.check import check_run  # noqa: PLC0415  slow to load

    checked = _guard(lambda: check_run(_open_run(run_url, store_option)), as_json)
    if as_json:
        typer.echo(json.dumps({"ok": checked.ok, **checked.model_dump(mode="json")}))
    else:
        for check in checked.checks:
            typer.echo(f"{'ok    ' if check.ok else 'FAILED'}  {check.name}: {check.detail}")
        typer.echo(f"{sum(check.ok for check in checked.checks)} of {len(checked.checks)} checks hold")
    raise typer.Exit(ExitCode.DONE if checked.ok else ExitCode.GATE)


@app.command()
def demo(
    folder: Annotated[Path, typer.Argument(help="Where the demo puts its corpus and its output.")] = Path("demo"),
    set_: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Run the whole job on 1903 OpenMoji image-text pairs and show what it picked."""
    from jobs.demo import print_summary, run_demo  # noqa: PLC0415  slow to load

    summary = _guard(lambda: _with_reporter(lambda reporter: run_demo(folder, reporter, set_ or ())), as_json)
    if as_json:
        typer.echo(summary.model_dump_json())
    else:
        print_summary(summary, Console())


@app.command()
def doctor(
    store: Annotated[str | None, typer.Option(metavar="URL", help="A store to probe, e.g. s3://bucket/prefix.")] = None,
    store_option: StoreOptions = None,
    as_json: AsJson = False,
) -> None:
    """Say what this machine has, and whether a store can be used."""
    from jobs.doctor import diagnose  # noqa: PLC0415  slow to load

    found = _guard(lambda: diagnose(store, _parse_options(store_option)), as_json)
    _print_values("doctor", {**found.model_dump(mode="json"), "is_healthy": found.is_healthy}, as_json)
    raise typer.Exit(ExitCode.DONE if found.is_healthy else ExitCode.INFRASTRUCTURE)


def main() -> None:
    """Run the command line."""
    app()


def _with_reporter(action: Callable[..., Result]) -> Result:
    with open_reporter() as reporter:
        return action(reporter)


def _guard(action: Callable[[], Result], as_json: bool) -> Result:
    """Run `action`; turn every foreseen failure into one clear line and its exit code. A defect keeps its traceback."""
    with ExitStack() as stack:
        stack.push(partial(_explain_failure, as_json))
        return action()


def _explain_failure(as_json: bool, _kind: object, error: BaseException | None, _trace: object) -> None:
    code = ExitCode.DONE if error is None else classify_error(error)
    if error is None or code in (ExitCode.DONE, ExitCode.DEFECT):
        return
    cause = find_cause(error)
    kind, message = type(cause).__name__, describe_failure(cause, code)
    if as_json:
        typer.echo(json.dumps({"error": {"kind": kind, "message": message}, "exit_code": int(code)}))
    typer.echo(f"mmcsal: {message}", err=True)
    sys.exit(code)


def describe_failure(cause: BaseException, code: ExitCode) -> str:
    """Say what happened and, where the error itself does not, what to do; credentials in URLs are masked."""
    if code in (ExitCode.INTERRUPTED, ExitCode.TERMINATED):
        return "stopped by a signal; the same command goes on where it was"
    message = mask_credentials(str(cause))
    if isinstance(cause, MmcsalError):
        return message
    return (
        f"{type(cause).__name__}: {message}; this is about the machine, the store or its credentials: mend it, then "
        "the same command goes on where it was"
    )


def _parse_options(options: list[str] | None) -> dict[str, str]:
    pairs = [option.partition("=") for option in options or ()]
    wrong = [number for number, pair in enumerate(pairs, start=1) if not pair[1] or not pair[0]]
    if wrong:
        raise ConfigError(
            f"--store-option takes KEY=VALUE, number {wrong[0]} is another text, not shown since it may hold a secret; "
            "write e.g. endpoint_url=http://127.0.0.1:9000"
        )
    return {key: value for key, _, value in pairs}


def _open_run(run_url: str, options: list[str] | None) -> Store:
    return Store(run_url, _parse_options(options))


def _find_run(run_url: str, options: list[str] | None, name: str) -> Store:
    store = _open_run(run_url, options)
    if not store.exists(name):
        raise DataError(f"there is no run in {run_url}: it has no {name}; give the folder that is named run_id=...")
    return store


def _load_stored_config(run_url: str, options: list[str] | None, overrides: list[str] | None) -> JobConfig:
    store = _find_run(run_url, options, CONFIG)
    parent, _, name = store.url.rstrip("/").rpartition("/")
    values = {**store.read_json(CONFIG), "output": parent or "."}
    if name != f"run_id={values['run_id']}":
        raise ConfigError(f"the folder of this run must be named run_id={values['run_id']}, got {name!r}; rename it")
    if options:
        values |= {"output_options": dict(store.options), "source_options": dict(store.options)}
    return parse_config(values, overrides or (), origin=f"{run_url}/{CONFIG}")


def _print_run(result: "RunResult", as_json: bool) -> None:
    if as_json:
        typer.echo(result.model_dump_json())
    elif not result.executed:
        typer.echo(f"nothing to do: {', '.join(result.up_to_date)} are up to date in {result.run}")
    else:
        typer.echo(f"done: {', '.join(result.executed)}; results in {result.run}")


def _print_values(title: str, values: dict[str, Any], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(values))
        return
    table = Table(title=title, show_header=False)
    for key, value in values.items():
        shown = json.dumps(value) if isinstance(value, dict | list) else str(value)
        table.add_row(key.replace("_", " "), escape(shown))
    Console().print(table)
