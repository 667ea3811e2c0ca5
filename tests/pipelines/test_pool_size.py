"""How many actors a pool starts with: what the nodes have room for."""

import pytest

from pipelines.shard_pool import count_room


@pytest.mark.parametrize(
    ("needs", "nodes", "num_reader_cpus", "room"),
    [
        ({"CPU": 1.0}, [{"CPU": 4.0}], 0, 4),
        ({"CPU": 1.0}, [{"CPU": 4.0}], 1, 3),
        ({"CPU": 1.0}, [{"CPU": 1.0}], 1, 0),
        ({"CPU": 0.2}, [{"CPU": 2.0}], 1, 5),
        ({"CPU": 0.1}, [{"CPU": 0.3}], 0, 3),
        ({"CPU": 4.0}, [{"CPU": 6.0}, {"CPU": 6.0}], 0, 2),
        ({"CPU": 4.0}, [{"CPU": 3.0}, {"CPU": 3.0}], 0, 0),
        ({"CPU": 1.0, "GPU": 0.5}, [{"CPU": 8.0, "GPU": 1.0}, {"CPU": 8.0}], 1, 2),
        ({"CPU": 1.0, "memory": 4.0}, [{"CPU": 8.0, "memory": 9.0}], 0, 2),
        ({"CPU": 1.0}, [], 0, 0),
    ],
)
def test_room_is_counted_node_by_node(
    needs: dict[str, float], nodes: list[dict[str, float]], num_reader_cpus: int, room: int
) -> None:
    assert count_room(needs, nodes, num_reader_cpus) == room
