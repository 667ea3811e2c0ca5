"""`mmcsal doctor`: what this machine has, and whether a store can be written to in the way that a run needs."""

import importlib.metadata
import platform
import uuid
from collections.abc import Mapping
from typing import Any

import faiss
import torch
from botocore.exceptions import BotoCoreError, ClientError

from mmcsal_core.settings import Settings
from mmcsal_core.storage import Store
from mmcsal_core.version import __version__

PACKAGES = ("ray", "torch", "pyarrow", "faiss-gpu", "faiss-cpu", "pandas", "s3fs", "numpy", "transformers", "av")


class StoreHealth(Settings):
    """What a store can do. Without conditional writes two runs on one output are not kept apart."""

    url: str
    writable: bool
    conditional_writes: bool
    problem: str | None = None


class Diagnosis(Settings):
    """What `mmcsal doctor` found."""

    mmcsal: str
    python: str
    platform: str
    packages: dict[str, str | None]
    cuda_devices: list[str]
    faiss_gpus: int
    faiss_options: str
    store: StoreHealth | None = None

    @property
    def is_healthy(self) -> bool:
        """Say whether a run can work here: both FAISS packages at once overwrite each other."""
        clash = self.packages["faiss-gpu"] is not None and self.packages["faiss-cpu"] is not None
        return not clash and (self.store is None or self.store.writable)


def diagnose(store_url: str | None, options: Mapping[str, Any]) -> Diagnosis:
    """Look at versions, devices and, where a URL is given, at a store."""
    return Diagnosis(
        mmcsal=__version__,
        python=platform.python_version(),
        platform=platform.platform(),
        packages={name: _find_version(name) for name in PACKAGES},
        cuda_devices=[torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        faiss_gpus=faiss.get_num_gpus(),
        faiss_options=faiss.get_compile_options().strip(),
        store=None if store_url is None else probe_store(Store(store_url, options)),
    )


def probe_store(store: Store) -> StoreHealth:
    """Write, read and delete a probe file, and try whether put-if-absent is honoured."""
    name = f"_probe-{uuid.uuid4().hex}"
    try:
        first = store.create_bytes(name, b"probe")
        second = store.create_bytes(name, b"probe again")
        readable = store.read_bytes(name) == b"probe"
        store.remove(name)
    except (OSError, BotoCoreError, ClientError) as error:
        problem = f"{type(error).__name__}: {error}"
        return StoreHealth(url=store.url, writable=False, conditional_writes=False, problem=problem)
    return StoreHealth(url=store.url, writable=first, conditional_writes=first and not second and readable)


def _find_version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
