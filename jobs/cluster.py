"""Start Ray, or join a cluster: the only place, beside one test fixture, that calls `ray.init`.

A Ray of our own is told of at least as many CPUs as the job's workers ask for, so that a pool never waits for a core
that the machine does not have; more workers than cores share them.
"""

import logging
import math
import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache

from jobs.config import RayConfig
from pipelines.stage_run import Resources

CONNECT_TIMEOUT_S = 10.0

_ENVIRONMENT = {
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",  # ours are drawn by jobs.progress
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # the core worker logs harmless lines about actor restarts as errors
    "RAY_USAGE_STATS_ENABLED": "0",  # what a corpus is worked on with is nobody's business, unless its owners say so
}
_QUIET = {
    "ray.data": logging.CRITICAL,  # it logs the traceback of what it raises; the command tells of that itself
    "ray.train": logging.ERROR,
    "ray._private.authentication": logging.ERROR,
}


@contextmanager
def open_ray_once(config: RayConfig, resources: Resources) -> Iterator[Callable[[], None]]:
    """Give the block a function that connects to Ray when it is first called, for the rest of the block."""
    # a stage that forgets to call it must fail, not start a Ray of other settings
    os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
    with ExitStack() as stack:

        @cache
        def open_ray() -> None:
            stack.enter_context(connect_ray(config, resources))

        yield open_ray


@contextmanager
def connect_ray(config: RayConfig, resources: Resources) -> Iterator[None]:
    """Hold a connection to Ray while the block runs; one that the process has already is used and left open.

    What the process does on SIGTERM stays as it is.

    Raises:
        ConnectionError: the configured cluster does not answer.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import ray.data  # noqa: PLC0415  slow to load; here, since it sets the levels of its loggers when it is loaded

    for name, level in _QUIET.items():
        logging.getLogger(name).setLevel(level)
    if ray.is_initialized():
        yield
        return
    if config.address is not None:
        check_address(config.address)
    with _keep_sigterm():
        ray.init(**_init_arguments(config, resources))
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _keep_sigterm() -> Iterator[None]:
    """Have SIGTERM do what it did before: Ray takes it for itself, and exits with 15 while it starts."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    except SystemExit as error:
        signal.signal(signal.SIGTERM, handler)
        if error.code == signal.SIGTERM:
            signal.raise_signal(signal.SIGTERM)
        raise
    finally:
        signal.signal(signal.SIGTERM, handler)


def check_address(address: str) -> None:
    """Try to reach a cluster's `host:port`; Ray itself tries for a quarter of an hour, without a word.

    Raises:
        ConnectionError: nobody listens there.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdecimal():
        return  # `auto` and the like, which Ray looks up on this machine
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_TIMEOUT_S).close()
    except OSError as error:
        raise ConnectionError(
            f"ray.address must be that of a Ray cluster that answers, got {address!r} ({error}); start the cluster, "
            "correct the address, or leave it out to run on this machine"
        ) from error


def _init_arguments(config: RayConfig, resources: Resources) -> dict[str, object]:
    shared: dict[str, object] = {
        "namespace": config.namespace,
        "runtime_env": config.runtime_env or None,
        "log_to_driver": False,
        "logging_level": logging.ERROR,
    }
    if config.address is not None:
        return {**shared, "address": config.address}
    workers = math.ceil(resources.num_actors * resources.cpus_per_actor) + resources.num_readers
    others = max(resources.train_workers + 1, resources.selection_actors)
    num_cpus = max(config.num_cpus or os.cpu_count() or 1, workers, others)
    local: dict[str, object] = {"address": "local", "num_cpus": num_cpus, "num_gpus": config.num_gpus}
    if config.object_store_gb is not None:
        local["object_store_memory"] = int(config.object_store_gb * 2**30)
    if config.spill_folder is not None:
        local["object_spilling_directory"] = config.spill_folder
    dashboard: dict[str, object] = {"include_dashboard": config.include_dashboard, "dashboard_host": "127.0.0.1"}
    return {**shared, **local, **dashboard}
