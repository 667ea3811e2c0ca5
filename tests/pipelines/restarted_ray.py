"""Let go of an engine when another Ray runs than the one it was made on: a process of its own, since it starts Ray."""

import numpy as np
import ray

from pipelines.selection_engine import RayEngine

SETTINGS = {"num_cpus": 0, "include_dashboard": False, "log_to_driver": False, "logging_level": "error"}
"""No actor ever starts, which takes seconds."""


def main() -> None:
    """Print the ids of both jobs, which are the same; Python prints what goes wrong when shards and engine go."""
    jobs = [start()]
    engine = RayEngine(2)
    shards = engine.open_k_center(np.eye(2048, 8, dtype=np.float32), np.empty(0, dtype=np.int64), None)
    ray.shutdown()
    jobs.append(start())
    del shards, engine
    print(*jobs)


def start() -> str:
    """Start Ray and return the id of the job."""
    ray.init(address="local", **SETTINGS)
    return str(ray.get_runtime_context().get_job_id())


if __name__ == "__main__":
    main()
