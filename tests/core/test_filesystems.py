"""Which errors tell of a store at this moment, which of a refusal, and which of the file that was asked for."""

import asyncio
import errno
from typing import Any

import aiohttp
import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, NoCredentialsError, ReadTimeoutError
from fsspec.exceptions import FSTimeoutError
from multidict import CIMultiDict, CIMultiDictProxy
from s3fs.errors import translate_boto_error
from yarl import URL

from jobs.exit_codes import ExitCode, classify_error
from mmcsal_core.errors import StoreError
from mmcsal_core.filesystems import is_outage, is_refusal, open_filesystem, raise_outage

REMOTE = "s3://bucket/a"


class AnsweredError(Exception):
    """What gcsfs (`code`, a text) and Azure's client (`status_code`) raise for an answer of the store."""

    def __init__(self, **told: str | int | None) -> None:
        super().__init__("answered")
        self.__dict__.update(told)


class ServiceRequestError(Exception):
    """What Azure's client, which may not be installed, raises where a request does not reach the store."""


class ServiceRequestTimeoutError(ServiceRequestError):
    """The same, in time."""


class ServiceResponseError(Exception):
    """What it raises where no answer comes back."""


def answer_of_s3(code: str) -> BaseException:
    error: BaseException = translate_boto_error(ClientError({"Error": {"Code": code}}, "GetObject"))
    return error


def answer_of_the_web(status: int) -> aiohttp.ClientResponseError:
    request = aiohttp.RequestInfo(URL("https://a/b"), "GET", CIMultiDictProxy(CIMultiDict()))
    return aiohttp.ClientResponseError(request, (), status=status)


def no_such_page(cause: BaseException) -> FileNotFoundError:
    """Make what fsspec's web client raises for whatever befalls it."""
    error = FileNotFoundError("https://a/b")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "error",
    [
        *map(
            answer_of_s3,
            ("SlowDown", "ServiceUnavailable", "InternalError", "RequestTimeout", "500", "503", "Throttling"),
        ),
        *map(answer_of_the_web, (500, 503, 429)),
        *(AnsweredError(code="503"), AnsweredError(code=429), AnsweredError(status_code=500)),
        EndpointConnectionError(endpoint_url="http://a"),
        ReadTimeoutError(endpoint_url="http://a"),
        *(FSTimeoutError(), ConnectionResetError(), aiohttp.ServerDisconnectedError(), aiohttp.ClientPayloadError()),
        *(asyncio.TimeoutError(), no_such_page(aiohttp.ServerTimeoutError()), no_such_page(answer_of_the_web(503))),
        aiohttp.ClientConnectionError("as gcsfs raises it"),
        *(ServiceRequestError("as Azure's client raises it"), ServiceRequestTimeoutError(), ServiceResponseError()),
    ],
    ids=repr,
)
def test_outages(error: BaseException) -> None:
    assert (is_outage(error, REMOTE), is_refusal(error, REMOTE)) == (True, False)
    assert not is_outage(error, "/a/local/file")
    with pytest.raises(StoreError, match="the store of s3://bucket/a cannot be asked for now") as raised:
        raise_outage(error, REMOTE)
    assert classify_error(raised.value) == ExitCode.INFRASTRUCTURE


@pytest.mark.parametrize(
    "error",
    [
        *map(answer_of_s3, ("AccessDenied", "ExpiredToken", "RequestTimeTooSkewed", "SignatureDoesNotMatch", "403")),
        *map(answer_of_s3, ("InvalidToken", "TokenRefreshRequired", "400")),
        *(answer_of_the_web(401), AnsweredError(code="403"), AnsweredError(status_code=401), OSError("Forbidden: a/b")),
    ],
    ids=repr,
)
def test_refusals(error: BaseException) -> None:
    assert (is_outage(error, REMOTE), is_refusal(error, REMOTE)) == (False, True)
    assert not is_refusal(error, "/a/local/file")
    raise_outage(error, REMOTE)


@pytest.mark.parametrize(
    "error",
    [
        *map(answer_of_s3, ("NoSuchKey", "NoSuchBucket", "404", "InvalidRange", "KeyTooLongError")),
        *(answer_of_the_web(404), AnsweredError(code=404), AnsweredError(status_code=None), OSError("a damaged page")),
        *(
            OSError(errno.ENAMETOOLONG, "long"),
            aiohttp.InvalidURL("x"),
            NoCredentialsError(),
            ValueError("a"),
            KeyError("b"),
            no_such_page(FileNotFoundError()),
        ),
    ],
    ids=repr,
)
def test_what_is_about_the_file_or_the_configuration(error: BaseException) -> None:
    assert (is_outage(error, REMOTE), is_refusal(error, REMOTE)) == (False, False)
    raise_outage(error, REMOTE)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, aiohttp.ClientTimeout(total=300, sock_connect=10, sock_read=30)),
        ({"total": None, "sock_read": 60}, aiohttp.ClientTimeout(sock_connect=10, sock_read=60)),
        (aiohttp.ClientTimeout(total=1), aiohttp.ClientTimeout(total=1)),
    ],
)
def test_a_web_server_is_not_waited_for_without_end(given: Any, expected: aiohttp.ClientTimeout) -> None:
    options = {"client_kwargs": {"timeout": given, "trust_env": True}} if given else {}
    client_kwargs = open_filesystem("https://a/b", options)[0].client_kwargs
    assert client_kwargs == {**options.get("client_kwargs", {}), "timeout": expected}
