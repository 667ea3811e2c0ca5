"""`mmcsal validate`: a run against the output contract, and against the configuration beside it. Imports no stage."""

from jobs.config import CONFIG, parse_stored_config
from jobs.steps import list_stored_steps, recall_lists
from mmcsal_core.artifacts import SUCCESS
from mmcsal_core.storage import Store
from mmcsal_core.validation import Check, ValidationReport, validate_run
from pipelines.stage_names import STAGES


def check_run(run: Store) -> ValidationReport:
    """Check a run against the output contract, and its artifacts against the configuration beside them.

    Not its evaluation, which says under which configuration it was made, and may be of earlier settings of a selection.
    """
    report = validate_run(run)
    if not run.exists(CONFIG) or not run.exists(f"pairs/{SUCCESS}"):
        return report
    parent, _, name = run.url.rstrip("/").rpartition("/")
    stored = {**run.read_json(CONFIG), "output": parent or ".", "output_options": dict(run.options)}
    if name != f"run_id={stored['run_id']}":
        return report
    config = parse_stored_config(stored)
    listed = list_stored_steps(config, recall_lists(config))
    steps = [step for step in listed if step.name in STAGES and step.artifact.store.exists(SUCCESS)]
    checks = [
        Check(
            name=f"{step.artifact.name}: made under the stored configuration",
            ok=step.is_complete(),
            detail="fingerprints agree" if step.is_complete() else f"run the stage '{step.name}' again",
        )
        for step in steps
    ]
    return ValidationReport(checks=(*report.checks, *checks))
