"""Exit codes: one for each kind of failure, also where Ray wrapped the error of a worker."""

import pytest
from aiohttp import ServerDisconnectedError
from botocore.exceptions import EndpointConnectionError
from ray.exceptions import RayTaskError, WorkerCrashedError

from jobs.exit_codes import ExitCode, classify_error, find_cause
from mmcsal_core.errors import ArtifactError, ConfigError, DataError, GateError, LockError


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("x"), 2),
        (DataError("x"), 3),
        (GateError("x"), 4),
        (LockError("x"), 5),
        (ArtifactError("x"), 6),
        (WorkerCrashedError(), 6),
        (ConnectionError("x"), 6),
        (KeyboardInterrupt(), 130),
        (SystemExit(143), 143),
        (EndpointConnectionError(endpoint_url="http://127.0.0.1:1"), 6),
        (ServerDisconnectedError(), 6),
        (RayTaskError("f", "traceback", TimeoutError("x")), 6),
        (RayTaskError("f", "traceback", ServerDisconnectedError()), 6),
        (RayTaskError("f", "traceback", OSError(28, "No space left on device")).as_instanceof_cause(), 6),
        (RayTaskError("f", "traceback", TypeError("x")), 1),
        (RayTaskError("f", "traceback", TypeError("x")).as_instanceof_cause(), 1),
        (ZeroDivisionError("x"), 1),
    ],
)
def test_each_error_has_its_code(error: BaseException, code: int) -> None:
    assert classify_error(error) == ExitCode(code)


def test_the_error_of_a_worker_is_found_inside_rays() -> None:
    cause = DataError("the row")
    wrapped = RayTaskError("f", "traceback", cause)
    assert find_cause(wrapped) is cause
    assert classify_error(wrapped) == ExitCode.INPUT
    assert find_cause(wrapped.as_instanceof_cause()) is cause
    assert classify_error(wrapped.as_instanceof_cause()) == ExitCode.INPUT


def test_an_error_raised_while_handling_another_is_classified_by_itself() -> None:
    error = GateError("too many")
    error.__cause__ = OSError("disk")
    assert classify_error(error) == ExitCode.GATE
