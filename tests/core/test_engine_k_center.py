"""The k-center engine against a plain loop, bit for bit, and against a certificate in float64."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmcsal_core.errors import ArtifactError
from mmcsal_core.neighbors.vectors import Floats, Rows, Vectors
from mmcsal_core.selection.engine import k_center, lazy_blocks, nearest_picks
from mmcsal_core.selection.engine.eligibility import NO_ROWS, Eligibility, Rule
from mmcsal_core.selection.engine.engines import LocalEngine
from mmcsal_core.selection.engine.k_center import KCenter, KCenterShard
from mmcsal_core.selection.engine.lazy_blocks import Limits, Round, Search, count_start, pick_greedily
from mmcsal_core.selection.engine.local_shards import LocalShards

FIRST = np.array([0])


class CloseAfterwards:
    """Closes the two rows after a pick, and at the start every row divisible by 11."""

    def __init__(self, num_rows: int) -> None:
        self._num_rows = num_rows

    def close_at_start(self) -> Rows:
        return np.arange(0, self._num_rows, 11)

    def close_after(self, row: int) -> Rows:
        return np.arange(row + 1, min(row + 3, self._num_rows))


def scale(vectors: npt.NDArray[np.floating]) -> Vectors:
    units: Vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return units


def draw_clustered(num_rows: int, dim: int, noise: float, seed: int = 0) -> Vectors:
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(12, dim))
    return scale(centers[rng.integers(0, 12, num_rows)] + noise * rng.normal(size=(num_rows, dim)))


def pick_plainly(
    vectors: Vectors,
    num_picks: int,
    centers: Rows = FIRST,
    rules: Sequence[Rule] = (),
    costs: Floats | None = None,
) -> tuple[list[int], list[float], Rows]:
    """Pick one at a time, comparing every row with every pick."""
    eligibility = Eligibility(len(vectors), centers, rules)
    nearest, cells = np.full(len(vectors), np.inf, dtype=np.float32), np.full(len(vectors), -1)
    picks, gains = list[int](), list[float]()
    for rank in range(len(centers) + num_picks):
        if rank < len(centers):
            row = int(centers[rank])
        else:
            priorities = nearest.astype(np.float64) if costs is None else nearest.astype(np.float64) / costs
            row = int(np.where(eligibility.is_open, priorities, -np.inf).argmax())
            if not eligibility.is_open[row]:
                break
            eligibility.take(row)
            picks.append(row)
            gains.append(float(np.sqrt(nearest[row])))
        difference = (vectors - vectors[row]).astype(np.float64)
        squared = np.einsum("nd,nd->n", difference, difference).astype(np.float32)
        cells[squared < nearest] = rank
        nearest = np.minimum(nearest, squared)
    return picks, gains, cells


class Run:
    """The engine on shards that end at given rows, with blocks small enough for many rounds."""

    def __init__(
        self,
        vectors: npt.NDArray[np.floating],
        *,
        centers: Rows = FIRST,
        rules: Sequence[Rule] = (),
        costs: Floats | None = None,
        ends: Sequence[int] = (),
        num_threads: int = 1,
    ) -> None:
        self.eligibility = Eligibility(len(vectors), centers, rules)
        closed, edges = self.eligibility.list_closed(), [0, *ends, len(vectors)]
        spans = [slice(a, b) for a, b in pairwise(edges)]
        shards = [KCenterShard(vectors[s], s.start, closed, None if costs is None else costs[s]) for s in spans]
        self.shards = LocalShards(shards, num_threads)
        self._costs, self._centers = costs, centers

    def pick(self, num_picks: int, done: Sequence[Round] = ()) -> list[Round]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(lazy_blocks, "MIN_BLOCK_ROWS", 8)
            patch.setattr(lazy_blocks, "MAX_BLOCK_SHARE", 0.2)
            patch.setattr(lazy_blocks, "START_ROWS", 3)
            patch.setattr(k_center, "INNER_ROWS", 5)
            for name, value in (("BLOCK_ROWS", 7), ("TILE_PICKS", 3), ("STEP_ROWS", 9), ("PAIR_BLOCK", 4)):
                patch.setattr(nearest_picks, name, value)
            search = Search(KCenter(self._costs), self.shards, self.eligibility, done=done)
            count_start(search, self._centers)
            rounds = pick_greedily(search, Limits(num_picks))
            self.cells = np.concatenate([ranks for ranks, _ in self.shards.gather("read_nearest")])
        return rounds


def list_picks(rounds: Sequence[Round]) -> list[int]:
    return [row for done in rounds for row in done.rows]


def list_gains(rounds: Sequence[Round]) -> list[float]:
    return [sum(terms) for done in rounds for terms in done.terms]


@st.composite
def small_pools(draw: st.DrawFn) -> Vectors:
    """Few directions and many rows: ties and duplicates everywhere."""
    dim, num_rows = draw(st.integers(1, 4)), draw(st.integers(1, 70))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    vectors = rng.integers(-1, 2, size=(num_rows, dim)).astype(np.float64)
    vectors[~vectors.any(axis=1), 0] = 1.0
    return scale(vectors + draw(st.sampled_from([0.0, 1e-4, 0.3])) * rng.normal(size=vectors.shape))


@settings(deadline=None, max_examples=60)
@given(small_pools(), st.integers(1, 80), st.integers(0, 2**32 - 1))
def test_picks_gains_and_cells_are_those_of_the_plain_loop(vectors: Vectors, num_picks: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    num_rows = len(vectors)
    centers = np.sort(rng.choice(num_rows, min(num_rows, int(rng.integers(1, 6))), replace=False))
    costs = rng.choice([1.0, 2.0, 3.5], num_rows) if seed % 2 else None
    rules = [CloseAfterwards(num_rows)] if seed % 3 else []
    ends = np.unique(rng.integers(0, num_rows, 3))
    run = Run(vectors, centers=centers, rules=rules, costs=costs, ends=ends[ends > 0].tolist())
    rounds = run.pick(num_picks)
    picks, gains, cells = pick_plainly(vectors, num_picks, centers, rules, costs)
    assert list_picks(rounds) == picks
    assert list_gains(rounds) == gains
    np.testing.assert_array_equal(run.cells, cells)


@pytest.mark.parametrize("seed", range(3))
def test_shards_and_threads_change_no_bit(seed: int) -> None:
    vectors = draw_clustered(400, 37, 0.4, seed)
    whole = Run(vectors)
    rounds = whole.pick(150)
    assert len(rounds) > 3
    for ends, num_threads in (([200], 1), ([1, 2, 3], 1), ([57, 130, 390], 4)):
        split = Run(vectors, ends=ends, num_threads=num_threads)
        again = split.pick(150)
        assert list_picks(again) == list_picks(rounds)
        assert list_gains(again) == list_gains(rounds)
        np.testing.assert_array_equal(split.cells, whole.cells)


def test_a_run_resumes_from_any_round() -> None:
    vectors = draw_clustered(300, 16, 0.3)
    rules = [CloseAfterwards(300)]
    rounds = Run(vectors, rules=rules).pick(60)
    for num_done in range(len(rounds) + 1):
        again = Run(vectors, rules=rules, ends=[100]).pick(60, rounds[:num_done])
        assert list_picks(again) == list_picks(rounds)
        assert list_gains(again) == list_gains(rounds)


def test_every_row_is_picked_once_at_last_and_duplicates_at_distance_zero() -> None:
    vectors = np.repeat(draw_clustered(15, 8, 0.5), 4, axis=0)
    rounds = Run(vectors, ends=[30]).pick(100)
    assert sorted(list_picks(rounds)) == list(range(1, 60))
    assert all(gain > 0 for gain in list_gains(rounds)[:14])
    assert list_gains(rounds)[14:] == [0.0] * 45
    assert list_picks(rounds)[14:] == sorted(list_picks(rounds)[14:])


def test_equal_rows_are_picked_in_order() -> None:
    rounds = Run(np.full((40, 4), 0.5, dtype=np.float32)).pick(39)
    assert list_picks(rounds) == list(range(1, 40))
    assert set(list_gains(rounds)) == {0.0}


def test_a_row_opposite_to_every_pick_has_a_nearest_one() -> None:
    compass = np.array([[1, 0], [0, 1], [-1, 0], [0, -1]], dtype=np.float32)
    run = Run(compass, ends=[2])
    assert list_picks(run.pick(0)) == []
    np.testing.assert_array_equal(run.cells, [0, 0, 0, 0])
    long = scale(np.ones((1, 300)) + np.linspace(0, 1, 300))
    opposite = Run(np.concatenate([long, -long]))
    opposite.pick(0)
    np.testing.assert_array_equal(opposite.cells, [0, 0])


def test_a_log_that_names_a_row_that_may_not_be_picked_is_refused() -> None:
    vectors = draw_clustered(50, 8, 0.3)
    for rows in ((0,), (7, 7)):
        with pytest.raises(ArtifactError, match=f"got row {rows[-1]}, which is labelled, excluded or picked already"):
            Run(vectors).pick(5, [Round(rows, ((0.0, 1.0, 0.0),) * len(rows))])


def test_a_pool_of_one_row_has_nothing_to_pick() -> None:
    assert Run(np.ones((1, 1), dtype=np.float32)).pick(3) == []


def make_certified_pools() -> dict[str, npt.NDArray[np.floating]]:
    clustered = draw_clustered(500, 64, 0.3, 1)
    near = scale(np.repeat(clustered[:100], 5, axis=0) + 1e-4 * np.random.default_rng(2).normal(size=(500, 64)))
    return {
        "random": scale(np.random.default_rng(0).normal(size=(500, 48))),
        "clustered": clustered,
        "duplicates": np.repeat(clustered[:100], 5, axis=0),
        "near duplicates": near,
        "float16": clustered.astype(np.float16),
    }


@pytest.mark.parametrize("name", make_certified_pools())
def test_every_pick_is_the_farthest_row_to_within_a_millionth(name: str) -> None:
    vectors = make_certified_pools()[name]
    rounds = Run(vectors, ends=[123, 321]).pick(300)
    rows = vectors.astype(np.float64)
    distances = np.linalg.norm(rows - rows[0], axis=1)
    is_open = np.arange(500) > 0
    for row, gain in zip(list_picks(rounds), list_gains(rounds), strict=True):
        assert is_open[row]
        assert distances[row] >= (1 - 1e-6) * distances[is_open].max()
        assert gain == pytest.approx(distances[row], rel=1e-6)
        is_open[row] = False
        distances = np.minimum(distances, np.linalg.norm(rows - rows[row], axis=1))


def test_rows_that_will_not_be_picked_are_compared_with_few_picks() -> None:
    vectors = draw_clustered(20000, 16, 0.5)
    shards = LocalEngine(2, 1).open_k_center(vectors, FIRST, None)
    search = Search(KCenter(), shards, Eligibility(len(vectors), FIRST))
    count_start(search, FIRST)
    pick_greedily(search, Limits(600))
    shards.propose(1)
    _, bounds = shards.fetch(np.arange(len(vectors)))
    squared = np.concatenate([squared for _, squared in shards.gather("read_nearest")])
    assert (bounds >= squared).all()
    assert (bounds > squared).mean() > 0.3


def test_closed_rows_stay_closed_in_every_shard() -> None:
    vectors = draw_clustered(100, 8, 0.5)
    run = Run(vectors, centers=np.arange(0, 100, 2), ends=[33, 66])
    assert sorted(list_picks(run.pick(100))) == list(range(1, 100, 2))
    run.shards.apply(vectors[:0], NO_ROWS)
    assert len(run.shards.propose(5).rows) == 0
