"""Credentials inside URLs: masked where a message quotes one, refused where a configuration would write it down.

What counts is a password before the host (`s3://KEY:SECRET@bucket`, one with a slash too), anything before the host of
a web address, and the parts of a query that sign a link or carry a token, as S3, Google, Azure and CloudFront write
them. A user alone is none elsewhere: `abfs://container@account...`, `sftp://user@host`.
"""

import re

MASK = "***"

_USER = re.compile(r"(?i)(\bhttps?://)[^/?#\s]+@")
_PASSWORD = re.compile(r"(://)(?!arn:)[^/?#:@\[\s'\"]*:(?!\d*(?:[/?#\s]|$))\S*@")
_SIGNATURE = re.compile(
    r"(?i)([?&](?:sig|policy|key-pair-id|awsaccesskeyid|googleaccessid|(?:[\w.~%-]*[-_.])?(?:api|access)[-_]?key"
    r"|[\w.~%-]*(?:signature|credential|token|password|secret))=)[^&#\s'\"<>]+"
)


def mask_credentials(text: str) -> str:
    """Return a text without the credentials of the URLs in it; all else stays as it is."""
    for pattern in (_PASSWORD, _USER, _SIGNATURE):
        text = pattern.sub(_keep_name, text)
    return text


def _keep_name(found: re.Match[str]) -> str:
    return f"{found[1]}{MASK}" + ("@" if found[0].endswith("@") else "")


def check_url(url: str) -> str:
    """Return a URL, or a path, as it is.

    Raises:
        ValueError: it holds credentials, which the message leaves out.
    """
    masked = mask_credentials(url)
    if masked != url:
        raise ValueError(
            "a URL must hold no credentials, since it is written into config.json, manifests and reports, got "
            f"{masked!r}; take them out, and leave them to the environment, a role or a profile, or give them in "
            "source_options or output_options (--store-option where a command takes a URL); links that are signed "
            "belong into the uri_column of a manifest"
        )
    return url
