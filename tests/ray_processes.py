"""The processes that Ray starts, by their names."""

import psutil


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


def is_busy_worker(process: psutil.Process) -> bool:
    """Say whether a worker works for a job; agents belong to the raylet, which dies with them."""
    name = name_process(process)
    return name.startswith("ray::") and "IDLE" not in name and "Agent" not in name
