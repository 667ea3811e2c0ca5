"""No screen changes a result: each names every pair that matters."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mmcsal_core.neighbors.vectors import Rows, Vectors
from mmcsal_core.selection.engine import screening
from mmcsal_core.selection.engine.eligibility import Eligibility
from mmcsal_core.selection.engine.engines import LocalEngine
from mmcsal_core.selection.engine.k_center import KCenter
from mmcsal_core.selection.engine.lazy_blocks import Limits, Search, count_start, pick_greedily
from mmcsal_core.selection.engine.nearest_picks import NearestPicks
from mmcsal_core.selection.engine.screening import (
    Operands,
    PrefixScreen,
    ProductScreen,
    Screen,
    Screening,
    find_axes,
)
from mmcsal_core.selection.engine.torch_screens import ByteScreen, DeviceScreen, ThreadLimit, multiplies_bytes
from tests.cuda import needs_cuda

NUM_ROWS, NUM_PICKS, DIM = 3000, 300, 96
MODES: list[Screening] = ["prefix", "int8", "auto"]


def scale(vectors: npt.NDArray[np.floating]) -> Vectors:
    units: Vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return units


def make_pools() -> dict[str, npt.NDArray[np.floating]]:
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(NUM_ROWS, DIM))
    rotation = np.linalg.qr(rng.normal(size=(DIM, DIM)))[0]
    clustered = scale(rng.normal(size=(40, DIM))[rng.integers(0, 40, NUM_ROWS)] + 0.4 * noise)
    return {
        "uniform": scale(noise),
        "decaying": scale((noise / np.arange(1, DIM + 1)) @ rotation),
        "flat": scale((noise * (np.arange(DIM) < 5)) @ rotation),
        "clustered": clustered,
        "duplicates": clustered[rng.integers(0, 500, NUM_ROWS)],
        "float16": clustered.astype(np.float16),
    }


POOLS = make_pools()
every_pool = pytest.mark.parametrize("name", POOLS)
SCREENS: dict[str, Callable[[Operands], Screen]] = {
    "product": ProductScreen,
    "prefix": lambda operands: PrefixScreen(operands, lambda: find_axes(operands), 11),
    "device": lambda operands: DeviceScreen(operands, "cpu", is_rough=False),
    "bfloat16": lambda operands: DeviceScreen(operands, "cpu", is_rough=True),
}
if multiplies_bytes():
    SCREENS["int8"] = ByteScreen


def compare(vectors: npt.NDArray[np.floating], mode: Screening, device: str | None = None) -> tuple[Rows, Vectors]:
    nearest = NearestPicks(vectors, screening=mode, device=device)
    picks = vectors[np.random.default_rng(1).choice(NUM_ROWS, NUM_PICKS, replace=False)].astype(np.float32)
    for part in (slice(0, 100), slice(100, 103), slice(103, NUM_PICKS)):
        nearest.add(picks[part])
        nearest.compare_all()
    return nearest.ranks.astype(np.int64), nearest.squared


def pick(vectors: npt.NDArray[np.floating], engine: LocalEngine) -> list[int]:
    first = np.array([0])
    search = Search(KCenter(), engine.open_k_center(vectors, first, None), Eligibility(len(vectors), first))
    count_start(search, first)
    return [row for done in pick_greedily(search, Limits(200)) for row in done.rows]


@every_pool
@pytest.mark.parametrize("kind", SCREENS)
def test_a_screen_names_the_nearest_pick_of_every_row_that_comes_nearer(name: str, kind: str) -> None:
    operands = Operands(POOLS[name])
    operands.add(operands.take(np.arange(0, NUM_ROWS, 30)))
    rows = np.random.default_rng(2).permutation(NUM_ROWS)[:1000]
    exact_rows, exact_picks = operands.take(rows).astype(np.float64), operands.picks.astype(np.float64)
    squared = ((exact_rows[:, None] - exact_picks[None]) ** 2).sum(axis=2)
    limit = np.quantile(squared.min(axis=1), [0.1, 0.5, 0.9])[np.arange(1000) % 3]
    limit[::50] = 4.0
    rounding = 2.1e-3 if name == "float16" else 3e-4
    needed = (1 - (limit + rounding) / 2).astype(np.float32)
    screen = SCREENS[kind](operands)
    screen.prepare(rows)
    left, right = screen.find_near(rows, slice(0, len(exact_picks)), needed, rounding)
    assert (np.diff(left) >= 0).all()
    is_named = np.zeros(squared.shape, dtype=bool)
    is_named[left, right] = True
    matters = (squared == squared.min(axis=1, keepdims=True)) & (squared < limit[:, None])
    assert matters.any(axis=1).sum() > 300
    assert is_named[matters].all()
    if kind in ("product", "device") and name == "uniform":
        assert len(left) < 1.1 * matters.any(axis=1).sum()


@every_pool
@pytest.mark.parametrize("mode", MODES)
def test_screening_changes_no_bit(name: str, mode: Screening, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(screening, "TRIAL_BLOCKS", 3)
    ranks, squared = compare(POOLS[name], "off")
    again, squared_again = compare(POOLS[name], mode)
    np.testing.assert_array_equal(again, ranks)
    np.testing.assert_array_equal(squared_again, squared)


@every_pool
def test_a_prefix_is_used_where_the_spectrum_decays_and_nothing_is_missed_elsewhere(name: str) -> None:
    operands = Operands(POOLS[name])
    operands.add(operands.take(np.arange(NUM_PICKS)))
    nearest = NearestPicks(POOLS[name])
    nearest.add(operands.picks)
    nearest.compare_all()
    screen = SCREENS["prefix"](operands)
    rows = np.arange(NUM_PICKS, NUM_ROWS)
    left, _ = screen.find_near(rows, slice(0, NUM_PICKS), nearest.find_needed(nearest.squared[rows]), 1e-4)
    assert set(left.tolist()) == set(range(len(rows)))
    if name in ("decaying", "flat"):
        assert len(left) < 0.1 * len(rows) * NUM_PICKS


@pytest.mark.parametrize("mode", ["off", "auto"])
def test_picks_through_torch_are_those_of_numpy(mode: Screening) -> None:
    for name in ("clustered", "duplicates", "float16"):
        expected = pick(POOLS[name], LocalEngine(1, 1))
        assert pick(POOLS[name], LocalEngine(2, 2, screening=mode, device="cpu")) == expected
        assert pick(POOLS[name], LocalEngine(2, 2, screening=mode)) == expected


@pytest.fixture
def three_torch_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


class WatchedThreads(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes on how many threads each of torch's operations runs."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.nums: dict[str, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.nums[str(func)] = torch.get_num_threads()
        return func(*args, **(kwargs or {}))


@pytest.mark.usefixtures("three_torch_threads")
@pytest.mark.parametrize(
    ("kind", "product"), [("int8", "onednn.qlinear_pointwise"), ("device", "aten.mm"), ("bfloat16", "aten.mm")]
)
def test_torch_multiplies_on_one_thread_and_has_its_threads_back(kind: str, product: str) -> None:
    operands = Operands(POOLS["clustered"])
    operands.add(operands.take(np.arange(100)))
    screen = SCREENS[kind](operands)

    def watch() -> tuple[dict[str, int], int]:
        with WatchedThreads() as watched:
            screen.find_near(np.arange(100, 200), slice(0, 100), np.ones(100, dtype=np.float32), 1e-4)
        return watched.nums, torch.get_num_threads()

    with ThreadPoolExecutor(1) as threads:
        for nums, num_after in (watch(), threads.submit(watch).result()):
            assert any(name.startswith(product) for name in nums)
            assert set(nums.values()) == {1}
            assert num_after == 3


@pytest.mark.usefixtures("three_torch_threads")
def test_the_threads_are_back_whichever_of_two_limits_ends_first() -> None:
    limit = ThreadLimit()
    with ThreadPoolExecutor(1) as first, ThreadPoolExecutor(1) as second, ThreadPoolExecutor(1) as late:
        held = [limit.hold(), limit.hold()]
        for thread, hold in zip((first, second), held, strict=True):
            thread.submit(hold.__enter__).result()
        first.submit(held[0].__exit__, None, None, None).result()
        assert second.submit(torch.get_num_threads).result() == 1
        second.submit(held[1].__exit__, None, None, None).result()
        assert [thread.submit(torch.get_num_threads).result() for thread in (first, second, late)] == [3, 3, 3]
    assert torch.get_num_threads() == 3


@needs_cuda
def test_picks_on_a_gpu_are_those_of_the_cpu() -> None:
    for vectors in POOLS.values():
        expected, (ranks, squared) = pick(vectors, LocalEngine(1, 1)), compare(vectors, "off")
        for mode in ("off", "auto"):
            assert pick(vectors, LocalEngine(1, 1, screening=mode, device="cuda")) == expected
            own_ranks, own_squared = compare(vectors, mode, "cuda")
            np.testing.assert_array_equal(own_ranks, ranks)
            np.testing.assert_array_equal(own_squared, squared)
