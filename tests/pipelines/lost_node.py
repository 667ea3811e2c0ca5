"""Select on a cluster of three nodes, one of which is lost meanwhile: a process of its own, since it starts Ray."""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import ray
from ray.cluster_utils import Cluster

from mmcsal_core.selection.k_center import select_k_center
from tests.pipelines.pool_selections import POOL, ListLog, ask, start_engine

SETTINGS = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 3}


class Counter(logging.Handler):
    """Counts what is logged."""

    count = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.count += 1


@contextmanager
def start_cluster() -> Iterator[Cluster]:
    """The driver's node, which has no CPU to offer, and two that have one each."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "_system_config": SETTINGS})
    for _ in range(2):
        cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    ray.init(address=cluster.address, log_to_driver=False, logging_level="error")
    try:
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


def main() -> None:
    """Print the picks, the actors that were replaced, and the number of nodes that the first actors lay on."""
    counter, nodes = Counter(), list[str]()
    logging.getLogger("pipelines.shard_actors").addHandler(counter)

    def lose_node(number: int) -> None:
        if number == 2:
            find = lambda _: ray.get_runtime_context().get_node_id()  # noqa: E731
            nodes.extend(ray.get([actor.__ray_call__.remote(find) for actor in engine.actors.handles]))
            lost = next(node for node in cluster.worker_nodes if node.node_id == nodes[1])
            cluster.remove_node(lost, allow_graceful=False)

    with start_cluster() as cluster:
        engine = start_engine(2)
        picks = select_k_center(POOL, ask(engine, ListLog(on_round=lose_node)))
    found = {"indices": picks.indices.tolist(), "terms": picks.terms.tolist()}
    print(json.dumps({**found, "num_replaced": counter.count, "nodes_of_actors": len(set(nodes))}))


if __name__ == "__main__":
    main()
