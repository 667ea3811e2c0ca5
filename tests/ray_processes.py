"""The processes that Ray starts, by their names."""

import psutil

WORK = {
    "ingest": ("_BatchAdapter",),
    "features": ("_EmbedAndCommit", "decode_batch"),
    "train": ("_fit_alone",),
    "embed": ("_BatchAdapter",),
    "neighbors": ("_BatchAdapter",),
    "coreset": ("ShardActor",),
}
"""What is in the names of a stage's workers; a report is made by the driver."""


def list_children(process: psutil.Process, *, recursive: bool) -> list[psutil.Process]:
    """Return the processes that a process has started; none where it has ended."""
    try:
        return list(process.children(recursive=recursive))
    except psutil.NoSuchProcess:
        return []


def name_process(process: psutil.Process) -> str:
    """Return a process's command line, empty where it has ended. Ray renames its workers: `ray::<what they do>`."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def works_for(process: psutil.Process, stage: str) -> bool:
    """Say whether a process is a worker of a stage.

    Idle ones, agents and the actors that Ray Data keeps for itself are none: with them nothing of the job is lost.
    """
    name = name_process(process)
    return name.startswith("ray::") and any(part in name for part in WORK.get(stage, ()))
