"""Hold more objects than Ray has memory for: a process of its own, since it starts Ray."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import ray
from ray._common.usage.usage_lib import usage_stats_enabled

from jobs.cluster import connect_ray
from jobs.config import RayConfig
from pipelines.stage_run import Resources

NUM_OBJECTS, NUM_BYTES = 8, 20 * 2**20

STRANGER = """
import sys
from ray._raylet import GcsClient
GcsClient(address=sys.argv[1]).internal_kv_keys(b"", None)
"""


def ask_as(token: dict[str, str]) -> bool:
    """Say whether a process with another environment is told what Ray's head knows."""
    command = [sys.executable, "-c", STRANGER, ray.get_runtime_context().gcs_address]
    return subprocess.run(command, env=os.environ | token, capture_output=True, check=False).returncode == 0


def main() -> None:
    """Print what came back of the objects, the bytes on disk, Ray's memory, what it reports, and whom it answers."""
    folder = Path(sys.argv[1])
    with connect_ray(RayConfig(num_cpus=1, object_store_gb=0.08, spill_folder=str(folder)), Resources()):
        held = [ray.put(np.full(NUM_BYTES, number, np.uint8)) for number in range(NUM_OBJECTS)]
        on_disk = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        values = [sorted(set(ray.get(reference).tolist())) for reference in held]
        memory = ray.cluster_resources()["object_store_memory"]
        tells = usage_stats_enabled()
        answers = [ask_as({}), ask_as({"RAY_AUTH_TOKEN": "0" * 64}), ask_as({"RAY_AUTH_MODE": "disabled"})]
    print(json.dumps({"values": values, "on_disk": on_disk, "memory": memory, "tells": tells, "answers": answers}))


if __name__ == "__main__":
    main()
