"""The exit codes of the command line, the same in `run_status.json`.

A scheduler needs to know whether to call a person (2, 3, 4), to wait (5) or simply to start again (6, 130, 143).
"""

from collections.abc import Iterator
from enum import IntEnum

from ray.exceptions import RayError, RayTaskError

from mmcsal_core.errors import ArtifactError, ConfigError, DataError, GateError, LockError
from mmcsal_core.filesystems import foreseen_errors, store_errors


class ExitCode(IntEnum):
    """What a process of mmcsal ends with."""

    DONE = 0
    DEFECT = 1
    USAGE = 2
    INPUT = 3
    GATE = 4
    LOCKED = 5
    INFRASTRUCTURE = 6
    INTERRUPTED = 130
    TERMINATED = 143


_CODES: tuple[tuple[type[BaseException], ExitCode], ...] = (
    (ConfigError, ExitCode.USAGE),
    (GateError, ExitCode.GATE),
    (DataError, ExitCode.INPUT),
    (LockError, ExitCode.LOCKED),
    (ArtifactError, ExitCode.INFRASTRUCTURE),
    (RayTaskError, ExitCode.DEFECT),  # an error that a worker did not foresee; what it did foresee is found first
    (RayError, ExitCode.INFRASTRUCTURE),
    (KeyboardInterrupt, ExitCode.INTERRUPTED),
)


def find_cause(error: BaseException) -> BaseException:
    """Return the error that a Ray worker raised and Ray wrapped, if it has a code of its own, else the error itself.

    Ray's wrapping may be an instance of both classes: it is passed over.
    """
    causes = (cause for cause in _iter_causes(error) if not isinstance(cause, RayTaskError))
    return next((cause for cause in causes if isinstance(cause, foreseen_errors())), error)


def classify_error(error: BaseException) -> ExitCode:
    """Return the exit code of an error; one that nobody foresaw is a defect of mmcsal."""
    if isinstance(error, SystemExit):
        return next((code for code in ExitCode if code == error.code), ExitCode.DEFECT)
    cause = find_cause(error)
    codes = (*_CODES, *((kind, ExitCode.INFRASTRUCTURE) for kind in store_errors()))
    return next((code for kind, code in codes if isinstance(cause, kind)), ExitCode.DEFECT)


def _iter_causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    pending: list[BaseException | None] = [error]
    while pending:
        current = pending.pop()
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        wrapped = getattr(current, "cause", None)
        pending += [wrapped if isinstance(wrapped, BaseException) else None, current.__cause__, current.__context__]
