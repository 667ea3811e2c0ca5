"""Fixtures that every test shares: one Ray session, since starting Ray takes seconds."""

import gc
import os
from collections.abc import Iterator

import pytest

from tests.browser import browser  # noqa: F401
from tests.s3_server import s3_endpoint  # noqa: F401

os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_TRAIN_ENABLE_STATE_TRACKING", "0")


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """A local Ray of two CPUs for the whole session of a test process; its GPU is a number that actors can reserve."""
    import ray

    ray.init(
        address="local", num_cpus=2, num_gpus=1, include_dashboard=False, log_to_driver=False, logging_level="warning"
    )
    yield
    ray.shutdown()


@pytest.fixture(autouse=True)
def nobody_holds_actors(request: pytest.FixtureRequest) -> Iterator[None]:
    """Let go of the actors that the error of a failed dataset holds in a cycle: the next test waits for their cores."""
    yield
    if "ray_session" in request.fixturenames:
        gc.collect()
