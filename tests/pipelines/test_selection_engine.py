import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import ray
from ray import cloudpickle

from mmcsal_core.selection.engine.engines import LocalEngine
from mmcsal_core.selection.engine.screening import PrefixScreen
from mmcsal_core.selection.k_center import select_k_center
from pipelines.coreset import choose_engine
from pipelines.selection_engine import RayEngine
from pipelines.stage_run import Resources
from tests.pipelines.pool_selections import POOL, ListLog, ask, check_same, select, select_plainly, start_engine

NOTHING = np.empty(0, dtype=np.int64)

pytestmark = pytest.mark.usefixtures("ray_session")

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # actors would import all of this, which takes seconds


@pytest.fixture(scope="module")
def engines(ray_session: None) -> Iterator[dict[int, RayEngine]]:
    """Engines by their number of actors, none of which any test kills."""
    engines = {num_actors: start_engine(num_actors) for num_actors in (1, 2, 4)}
    yield engines
    engines.clear()  # a failed test's traceback would keep them


@pytest.mark.parametrize("name", ["k_center", "coverage", "mmcsal"])
@pytest.mark.parametrize("num_actors", [1, 2, 4])
def test_the_same_bits_on_any_number_of_actors(engines: dict[int, RayEngine], name: str, num_actors: int) -> None:
    handles = list(engines[num_actors].actors.handles)
    check_same(select(name, ask(engines[num_actors])), select_plainly(name))
    assert engines[num_actors].actors.handles == handles
    assert len(select_plainly(name).indices) > 300


def test_the_cells_of_k_center_come_from_the_actors(engines: dict[int, RayEngine]) -> None:
    one, two = (select_k_center(POOL, ask(engine, labelled=NOTHING)) for engine in (LocalEngine(1), engines[2]))
    check_same(two, one)
    assert one.find_cells is not None
    assert two.find_cells is not None
    np.testing.assert_array_equal(one.find_cells(), two.find_cells())


def holds(kind: type, held: object) -> bool:
    """Say whether an object is of a kind or holds one that is, at any depth of lists and attributes."""
    parts = held if isinstance(held, list) else getattr(held, "__dict__", {}).values()
    return isinstance(held, kind) or any(holds(kind, part) for part in parts)


def test_the_same_bits_however_the_actors_screen(engines: dict[int, RayEngine]) -> None:
    engine = RayEngine(0, screening="prefix")
    engine.actors = engines[2].actors
    looks = list[Any]()
    find = lambda actor: holds(PrefixScreen, list(actor.shards.values()))  # noqa: E731
    log = ListLog(on_round=lambda _: looks.extend(actor.__ray_call__.remote(find) for actor in engine.actors.handles))
    check_same(select("k_center", ask(engine, log)), select_plainly("k_center"))
    assert len(looks) >= 8
    assert all(ray.get(looks))


def test_actors_reserve_a_share_of_a_gpu_and_pick_the_same_with_or_without_one() -> None:
    engine = choose_engine(Resources(selection_actors=2, cpus_per_actor=0.1, selection_gpus=0.5), open_ray=lambda: None)
    assert isinstance(engine, RayEngine)
    check_same(select("k_center", ask(engine)), select_plainly("k_center"))
    reserved = [actor.__ray_call__.remote(lambda _: ray.get_gpu_ids()) for actor in engine.actors.handles]
    assert ray.get(reserved) == [[0], [0]]


@pytest.mark.parametrize("name", ["k_center", "coverage", "mmcsal"])
def test_a_run_that_was_cut_goes_on_from_its_log(name: str) -> None:
    whole = ListLog()
    select(name, ask(LocalEngine(2, 1), whole))
    assert len(whole.appended) >= 4
    for num_kept in (1, 3, len(whole.appended)):
        rest = ListLog(whole.appended[:num_kept])
        check_same(select(name, ask(LocalEngine(2, 1), rest)), select_plainly(name))
        assert rest.appended == whole.appended[num_kept:]


def test_actors_go_on_from_the_log_of_another_engine(engines: dict[int, RayEngine]) -> None:
    whole = ListLog()
    select("k_center", ask(LocalEngine(2, 1), whole))
    rest = ListLog(whole.appended[:3])
    check_same(select("k_center", ask(engines[2], rest)), select_plainly("k_center"))
    assert rest.appended == whole.appended[3:]
