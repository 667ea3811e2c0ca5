"""The one door to file systems, local or an object store: whatever reads or writes a file opens its store here.

fsspec and s3fs try again by themselves, with longer and longer pauses, where a request is throttled (503 SlowDown),
fails in the store (500), is cut off or does not come to an end. What is set here is how long a silent connection counts
as alive: s3fs would wait for a minute, five times, and for a web server five minutes. Listings are never cached, since
several processes write under one root.
"""

import asyncio
import errno
import stat
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp
import fsspec
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError
from botocore.exceptions import ConnectionError as BotoConnectionError
from fsspec.utils import get_protocol

from mmcsal_core.errors import ConfigError, MmcsalError, StoreError

SYNONYMS = (("s3", "s3a"), ("gs", "gcs"), ("az", "abfs", "abfss"))
"""Protocols of one store: fsspec names files by one of them, whichever the URL was."""

EXTRAS = ("gs", "az")
"""Extras of mmcsal, named as the store that they bring."""

LOCAL = ("file", "local", "memory")
"""Protocols that reach no network."""

S3_TIMEOUTS = {"connect_timeout": 10, "read_timeout": 30}
"""Seconds until a connection to an object store counts as lost; `config_kwargs` in the storage options overrides."""

HTTP_TIMEOUTS = {"total": 300, "sock_connect": 10, "sock_read": 30}
"""The same for a web server, and for its whole answer; `timeout` in `client_kwargs` overrides."""

_ERRORS_OF_EXTRAS = (
    ("gcsfs.retry", "HttpError"),
    ("google.auth.exceptions", "GoogleAuthError"),
    ("azure.core.exceptions", "AzureError"),
)

_TIMEOUTS = (TimeoutError, asyncio.TimeoutError)
"""Two errors on Python 3.10, where the latter is no OSError; fsspec's own is one of them."""

_OUTAGES = (*_TIMEOUTS, ConnectionError, HTTPClientError, BotoConnectionError, aiohttp.ClientError)
_OUTAGE_ERRNOS = (
    errno.EIO,
    getattr(errno, "EREMOTEIO", errno.EIO),
    errno.EBUSY,
    errno.ETIMEDOUT,
    errno.EHOSTUNREACH,
    errno.ENETUNREACH,
)
"""Of a plain OSError. s3fs raises EREMOTEIO for 500, EBUSY for 503, EIO for what it does not know."""

_TOKEN_CODES = ("400", "AuthorizationHeaderMalformed", "InvalidToken", "TokenRefreshRequired")
"""How S3 refuses credentials where s3fs raises no PermissionError; a HEAD that is answered with 400 says no more."""


def store_errors() -> tuple[type[Exception], ...]:
    """Return what a file system raises where a file is missing, forbidden or out of reach.

    Those of a package that nobody has loaded are left out: nobody can raise them.
    """
    loaded = ((sys.modules.get(module), name) for module, name in _ERRORS_OF_EXTRAS)
    of_extras = tuple(getattr(module, name) for module, name in loaded if module is not None)
    return (OSError, BotoCoreError, ClientError, aiohttp.ClientError, *_TIMEOUTS, *of_extras)


def raise_outage(error: BaseException, url: str) -> None:
    """Raise what says so where an error tells of the store at this moment, and nothing of the file asked for.

    Args:
        error: one of `store_errors`.
        url: what was asked for.

    Raises:
        StoreError: the store answers with 5xx or 429, or not at all; the same request may succeed later.
    """
    if is_outage(error, url):
        told = _find_reason(error)
        raise StoreError(
            f"the store of {url} cannot be asked for now ({type(told).__name__}: {told}); run again later, or check "
            "endpoint and network"
        ) from error


def is_outage(error: BaseException, url: str) -> bool:
    """Say whether a store in the network answers with 5xx or 429, or not at all."""
    if is_local(url):
        return False
    error = _find_reason(error)
    status = _find_status(error)
    if status is not None:
        return status >= 500 or status == 429
    if isinstance(error, _OUTAGES):
        return not isinstance(error, aiohttp.InvalidURL)
    return (type(error) is OSError and error.errno in _OUTAGE_ERRNOS) or _is_lost_request(error)


def is_refusal(error: BaseException, url: str) -> bool:
    """Say whether a store in the network refuses: rights that lack, or credentials or a clock that it does not accept.

    s3fs raises PermissionError, but EINVAL for some tokens, and gcsfs a plain OSError that starts with "Forbidden".
    """
    if is_local(url):
        return False
    if isinstance(error, PermissionError) or _find_status(error) in (401, 403):
        return True
    cause = error.__cause__
    is_token = isinstance(cause, ClientError) and cause.response.get("Error", {}).get("Code") in _TOKEN_CODES
    return is_token or (type(error) is OSError and str(error).startswith("Forbidden"))


def _find_reason(error: BaseException) -> BaseException:
    """Return why a file is missing: fsspec's web client says that it is, of whatever befalls it, with the cause."""
    return error.__cause__ if isinstance(error, FileNotFoundError) and error.__cause__ is not None else error


def _find_status(error: BaseException) -> int | None:
    """Return the HTTP status that an error of aiohttp, Azure or Google tells; s3fs has an error of its own for each."""
    told = (str(getattr(error, name, "")) for name in ("status", "status_code", "code"))
    return next((int(each) for each in told if each.isdigit()), None)


def _is_lost_request(error: BaseException) -> bool:
    """Say whether Azure's client got no answer, by the names of its errors: the package may not be installed."""
    return any(kind.__name__ in ("ServiceRequestError", "ServiceResponseError") for kind in type(error).__mro__)


def foreseen_errors() -> tuple[type[Exception], ...]:
    """Return the errors that say by themselves what is wrong: those raised on purpose, and those of stores."""
    return (MmcsalError, *store_errors())


def list_synonyms(url: str) -> tuple[str, ...]:
    """Return the protocols of the store that a URL lies in, the usual one first."""
    protocol = get_protocol(url)
    return next((names for names in SYNONYMS if protocol in names), (protocol,))


def is_local(url: str) -> bool:
    """Say whether a URL reaches no network."""
    return get_protocol(url) in LOCAL


def is_endless(url: str) -> bool:
    """Say whether a URL leads to a pipe, a socket or a device of this machine, which may have no end or never begin.

    Of chained file systems (`simplecache::file:///dev/zero`) any link may.
    """
    return any(_is_special(link) for link in url.split("::") if get_protocol(link) in ("file", "local"))


def _is_special(url: str) -> bool:
    try:
        mode = Path(fsspec.core.strip_protocol(url)).stat().st_mode
    except (OSError, ValueError):  # whoever reads it tells what is wrong
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def open_filesystem(url: str, options: Mapping[str, Any]) -> tuple[Any, str]:
    """Return the file system of `url`, and the path in it as that file system spells it.

    Args:
        url: a path, or any URL that fsspec knows.
        options: storage options of that very file system.

    Raises:
        ConfigError: the protocol is unknown, or the package that speaks it is not installed.
    """
    chosen = dict(options)
    if not is_local(url):
        chosen.setdefault("use_listings_cache", False)
    if list_synonyms(url)[0] == "s3":
        chosen["config_kwargs"] = {**S3_TIMEOUTS, **chosen.get("config_kwargs", {})}
    if get_protocol(url) in ("http", "https"):
        chosen["client_kwargs"] = _with_timeout(chosen.get("client_kwargs", {}))
    try:
        filesystem, path = fsspec.core.url_to_fs(url, **chosen)
    except ValueError as error:
        raise ConfigError(
            f"a URL starts with a protocol that fsspec knows, got {url!r} ({error}); correct it"
        ) from error
    except ImportError as error:
        extra = list_synonyms(url)[0]
        advice = f"pip install 'mmcsal[{extra}]'" if extra in EXTRAS else "install it beside mmcsal"
        raise ConfigError(f"{url!r} needs a package that is not installed ({error}); {advice}") from error
    return filesystem, str(path)


def _with_timeout(client_kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Add timeouts to what an aiohttp session is made of; a configuration can give some of them as a mapping."""
    given = client_kwargs.get("timeout", {})
    if isinstance(given, Mapping):
        given = aiohttp.ClientTimeout(**{**HTTP_TIMEOUTS, **given})
    return {**client_kwargs, "timeout": given}
