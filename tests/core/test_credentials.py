"""Credentials in URLs: refused where a URL is written down, masked where a message quotes it."""

import pickle
from collections.abc import Callable
from typing import Any

import pytest

from mmcsal_core.corpus.reject import RejectPair
from mmcsal_core.corpus.sources import SourceConfig
from mmcsal_core.credentials import check_url, mask_credentials
from mmcsal_core.errors import ConfigError
from mmcsal_core.storage import Store

SECRET_URLS = {
    "s3://AKIA:planted@bucket/a": "s3://***@bucket/a",
    "s3://AKIA:plan/ted+planted=@bucket/a": "s3://***@bucket/a",
    "s3://AKIA:planted@planted@bucket": "s3://***@bucket",
    "abfs://container:planted@account": "abfs://***@account",
    "HTTPS://planted@host/a": "HTTPS://***@host/a",
    "https://me:planted@host:8080/a?b=1": "https://***@host:8080/a?b=1",
    "simplecache::https://me:planted@host/a": "simplecache::https://***@host/a",
    "https://h/a?X-Amz-Credential=planted%2Fs3&X-Amz-Date=1&X-Amz-Signature=planted&b=2": (
        "https://h/a?X-Amz-Credential=***&X-Amz-Date=1&X-Amz-Signature=***&b=2"
    ),
    "https://h/a?X-Amz-Security-Token=planted": "https://h/a?X-Amz-Security-Token=***",
    "https://h/a?X-Goog-Credential=planted&x-goog-signature=planted": (
        "https://h/a?X-Goog-Credential=***&x-goog-signature=***"
    ),
    "https://h/a?AWSAccessKeyId=planted&Signature=planted&Expires=9": (
        "https://h/a?AWSAccessKeyId=***&Signature=***&Expires=9"
    ),
    "https://h/a?Policy=planted&Key-Pair-Id=planted": "https://h/a?Policy=***&Key-Pair-Id=***",
    "abfss://c@acct/a?sv=2024&sig=planted%2B": "abfss://c@acct/a?sv=2024&sig=***",
    "https://h/a?access_token=planted#x": "https://h/a?access_token=***#x",
    "https://h/a?x=1&api_key=planted": "https://h/a?x=1&api_key=***",
}

PLAIN_URLS = [
    "s3://bucket/a:b@c",
    "s3://bucket/a?versionId=3",
    "s3://arn:aws:s3:eu-west-1:12:accesspoint/x/a@b",
    "abfs://container@account.dfs.core.windows.net/a",
    "sftp://user@host/a",
    "ray://head:10001",
    "http://host:8080/a@b",
    "http://[::1]:8080/a@b",
    "https://h/a?design=1&keyword=tokens&sortkey=2",
    "/data/a:b@c/*.parquet",
    "pairs.parquet",
]


@pytest.mark.parametrize(("url", "masked"), SECRET_URLS.items())
def test_credentials_are_masked_once_and_for_all(url: str, masked: str) -> None:
    assert mask_credentials(url) == masked
    assert mask_credentials(masked) == masked
    assert mask_credentials(f"403, url='{url}' (first), see log") == f"403, url='{masked}' (first), see log"


@pytest.mark.parametrize("url", PLAIN_URLS)
def test_what_is_no_secret_stays(url: str) -> None:
    assert mask_credentials(url) == check_url(url) == Store(url).url == url
    assert mask_credentials(f"{url}: retry with me@host") == f"{url}: retry with me@host"


def _make_source(url: str) -> SourceConfig:
    return SourceConfig(kind="parquet", url=url)


@pytest.mark.parametrize("url", SECRET_URLS)
@pytest.mark.parametrize(("make", "error"), [(Store, ConfigError), (_make_source, ValueError)])
def test_a_url_that_is_written_down_holds_no_credentials(url: str, make: Callable[[str], Any], error: type) -> None:
    with pytest.raises(error, match=r"no credentials.*\*\*\*.*source_options or output_options") as caught:
        make(url)
    assert "planted" not in str(caught.value)


def test_a_reject_quotes_no_signature() -> None:
    reject = RejectPair("missing_file", "there is no file https://h/a.png?sig=planted&se=1; restore it")
    assert reject.message == "there is no file https://h/a.png?sig=***&se=1; restore it"
    assert [str(reject), str(reject.args[1])] == [reject.message] * 2
    assert str(pickle.loads(pickle.dumps(reject))) == reject.message
