"""The one door to file systems, local or an object store: whatever reads or writes a file opens its store here.

fsspec and s3fs try again by themselves, with longer and longer pauses, where a request is throttled (503 SlowDown),
fails in the store (500), is cut off or does not come to an end. What is set here is how long a silent connection counts
as alive: s3fs would wait for a minute, five times. Listings are never cached, since several processes write under one
root.
"""

import sys
from collections.abc import Mapping
from typing import Any

import aiohttp
import fsspec
from botocore.exceptions import BotoCoreError, ClientError
from fsspec.exceptions import FSTimeoutError
from fsspec.utils import get_protocol

from mmcsal_core.errors import ConfigError, MmcsalError

SYNONYMS = (("s3", "s3a"), ("gs", "gcs"), ("az", "abfs", "abfss"))
"""Protocols of one store: fsspec names files by one of them, whichever the URL was."""

EXTRAS = ("gs", "az")
"""Extras of mmcsal, named as the store that they bring."""

LOCAL = ("file", "local", "memory")
"""Protocols that reach no network."""

S3_TIMEOUTS = {"connect_timeout": 10, "read_timeout": 30}
"""Seconds until a connection to an object store counts as lost; `config_kwargs` in the storage options overrides."""

_ERRORS_OF_EXTRAS = (
    ("gcsfs.retry", "HttpError"),
    ("google.auth.exceptions", "GoogleAuthError"),
    ("azure.core.exceptions", "AzureError"),
)


def store_errors() -> tuple[type[Exception], ...]:
    """Return what a file system raises where a file is missing, forbidden or out of reach.

    Those of a package that nobody has loaded are left out: nobody can raise them.
    """
    loaded = ((sys.modules.get(module), name) for module, name in _ERRORS_OF_EXTRAS)
    of_extras = tuple(getattr(module, name) for module, name in loaded if module is not None)
    return (OSError, BotoCoreError, ClientError, aiohttp.ClientError, FSTimeoutError, *of_extras)


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
