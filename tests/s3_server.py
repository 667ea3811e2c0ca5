"""An object store for tests: moto's S3 server in a process of its own, one for the whole session."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.servers import run_server

REGION = "eu-west-1"

AWS_SETTINGS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": REGION,
    "AWS_EC2_METADATA_DISABLED": "true",
}
# Set where this is imported, not in the fixture: Ray's workers take over the environment of the moment they start in.
os.environ.update(AWS_SETTINGS)


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """The endpoint URL of an S3 server; a bucket is made with `S3FileSystem(...).mkdir(name, region_name=REGION)`."""
    with run_s3_server() as endpoint:
        yield endpoint


@contextmanager
def run_s3_server() -> Iterator[str]:
    """Run an S3 server and yield its endpoint URL."""
    with run_server(lambda port: [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]) as port:
        yield f"http://127.0.0.1:{port}"
