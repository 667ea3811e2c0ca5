"""`mmcsal doctor`: what this machine has, and whether a store can be written to in the way that a run needs."""

import importlib.metadata
import platform
from collections.abc import Mapping
from typing import Any

import faiss
import torch

from jobs.store_health import StoreHealth, probe_store
from mmcsal_core.settings import Settings
from mmcsal_core.storage import Store
from mmcsal_core.version import __version__

PACKAGES = ("ray", "torch", "pyarrow", "faiss-gpu", "faiss-cpu", "pandas", "s3fs", "numpy", "transformers", "av")


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


def _find_version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
