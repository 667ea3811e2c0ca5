"""The coverage engine: whole numbers, so every way of running it gives the same bits."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from scipy import sparse

from mmcsal_core.neighbors.vectors import Floats, Rows
from mmcsal_core.neighbors.whole_kernel import round_graph, scale_by_trust
from mmcsal_core.selection.engine import cover, lazy_blocks
from mmcsal_core.selection.engine.cover import CoverShard, repel
from mmcsal_core.selection.engine.cover_objective import Cover
from mmcsal_core.selection.engine.eligibility import NO_ROWS, Eligibility, Rule
from mmcsal_core.selection.engine.engines import LocalEngine
from mmcsal_core.selection.engine.lazy_blocks import Limits, Round, Search, count_start, pick_greedily
from mmcsal_core.selection.engine.local_shards import LocalShards

NUM_ROWS, LAMBDA_DIV = 240, 0.3
SPLITS = [[], [100], [31, 90, 91, 200]]


class CloseNeighbors:
    """Closes the rows just before and after a pick."""

    def close_at_start(self) -> Rows:
        return np.array([5, 17])

    def close_after(self, row: int) -> Rows:
        return np.arange(max(row - 2, 0), min(row + 3, NUM_ROWS))


def make_kernel(num_values: int | None = None, share: float = 0.08) -> sparse.csr_array:
    """Draw a symmetric kernel on a share of all couples, of few distinct values where ties are wanted."""
    rng = np.random.default_rng(0)
    values = np.triu(rng.random((NUM_ROWS, NUM_ROWS)), 1) * (rng.random((NUM_ROWS, NUM_ROWS)) < share)
    if num_values is not None:
        values = np.ceil(values * num_values) / num_values
    return round_graph(sparse.csr_array(values + values.T + np.eye(NUM_ROWS)))


TRUST = np.random.default_rng(1).choice([1.0, 0.75, 0.4], NUM_ROWS)
COSTS = np.random.default_rng(2).choice([1.0, 2.0, 5.0], NUM_ROWS)
LABELLED = np.array([3, 44, 200])


class Run:
    """The engine on shards that end at given rows, with blocks small enough for many rounds."""

    def __init__(
        self,
        kernel: sparse.csr_array,
        ends: Sequence[int] = (),
        costs: Floats | None = None,
        rules: Sequence[Rule] = (),
    ) -> None:
        self.eligibility = Eligibility(NUM_ROWS, LABELLED, rules)
        self.objective = Cover(TRUST, LAMBDA_DIV, costs)
        edges = [0, *ends, NUM_ROWS]
        self.own = [
            CoverShard(
                kernel[start:stop],
                start,
                trust=TRUST[start:stop],
                lambda_div=LAMBDA_DIV,
                closed=self.eligibility.list_closed(),
                costs=None if costs is None else costs[start:stop],
            )
            for start, stop in pairwise(edges)
        ]
        self.shards = LocalShards(self.own, len(self.own))

    def pick(self, num_picks: int, done: Sequence[Round] = ()) -> list[Round]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(lazy_blocks, "MIN_BLOCK_ROWS", 8)
            patch.setattr(lazy_blocks, "MAX_BLOCK_SHARE", 0.1)
            patch.setattr(cover, "BLOCK_EDGES", 50)
            search = Search(self.objective, self.shards, self.eligibility, done=done)
            count_start(search, LABELLED)
            return pick_greedily(search, Limits(num_picks))


def pick_plainly(
    kernel: sparse.csr_array, num_picks: int, costs: Floats | None = None, rules: Sequence[Rule] = ()
) -> list[int]:
    """Compute every candidate's value anew before every pick, in whole numbers."""
    dense = kernel.toarray()
    trusted = scale_by_trust(dense, np.broadcast_to(TRUST[:, None], dense.shape)).astype(np.int64)
    eligibility = Eligibility(NUM_ROWS, LABELLED, rules)
    covered, nearest = trusted[LABELLED].max(axis=0), dense[LABELLED].max(axis=0)
    picks = list[int]()
    while len(picks) < num_picks and eligibility.is_open.any():
        rises = np.maximum(trusted - covered, 0).sum(axis=1)
        priorities = (rises - repel(nearest, LAMBDA_DIV)).astype(np.float64)
        if costs is not None:
            priorities /= costs
        row = int(np.where(eligibility.is_open, priorities, -np.inf).argmax())
        eligibility.take(row)
        picks.append(row)
        covered, nearest = np.maximum(covered, trusted[row]), np.maximum(nearest, dense[row])
    return picks


def list_picks(rounds: Sequence[Round]) -> list[int]:
    return [row for done in rounds for row in done.rows]


def list_terms(rounds: Sequence[Round]) -> list[tuple[float, float, float]]:
    return [terms for done in rounds for terms in done.terms]


@pytest.mark.parametrize("num_values", [None, 2])
@pytest.mark.parametrize("has_costs", [False, True])
@pytest.mark.parametrize("has_rules", [False, True])
@pytest.mark.parametrize("share", [0.08, 1.0])
def test_picks_are_those_of_the_plain_loop_over_any_shards(
    num_values: int | None, has_costs: bool, has_rules: bool, share: float
) -> None:
    kernel, costs = make_kernel(num_values, share), COSTS if has_costs else None
    rules = [CloseNeighbors()] if has_rules else []
    expected = pick_plainly(kernel, 120, costs, rules)
    assert len(expected) < 120 if has_rules else len(expected) == 120
    runs = [Run(kernel, ends, costs, rules).pick(120) for ends in SPLITS]
    assert len(runs[0]) > 3
    for rounds in runs:
        assert list_picks(rounds) == expected
        assert list_terms(rounds) == list_terms(runs[0])


@pytest.mark.parametrize("share", [0.08, 1.0])
@pytest.mark.parametrize("ends", SPLITS)
def test_corrected_values_equal_recomputed_ones(ends: list[int], share: float) -> None:
    kernel = make_kernel(share=share)
    run = Run(kernel, ends)
    picks = np.array([*LABELLED, *list_picks(run.pick(70))])
    dense = kernel.toarray()
    trusted = scale_by_trust(dense, np.broadcast_to(TRUST[:, None], dense.shape)).astype(np.int64)
    expected = np.maximum(trusted - trusted[picks].max(axis=0), 0).sum(axis=1)
    np.testing.assert_array_equal(np.concatenate([shard.read_values() for shard in run.own]), expected)
    parts = [shard.fetch(np.arange(shard.first_row, shard.first_row + shard.num_rows)) for shard in run.own]
    np.testing.assert_array_equal(np.concatenate([part.nearest for part in parts]), dense[picks].max(axis=0))
    np.testing.assert_array_equal(run.objective.covered, trusted[picks].max(axis=0))


@pytest.mark.parametrize("share", [0.08, 1.0])
def test_a_run_resumes_from_any_round_on_any_shards(share: float) -> None:
    kernel, rules = make_kernel(3, share), [CloseNeighbors()]
    rounds = Run(kernel, [], COSTS, rules).pick(50)
    for num_done in range(len(rounds) + 1):
        again = Run(kernel, SPLITS[num_done % 3], COSTS, rules).pick(50, rounds[:num_done])
        assert list_picks(again) == list_picks(rounds)
        assert list_terms(again) == list_terms(rounds)


def test_closed_rows_are_not_proposed() -> None:
    run = Run(make_kernel(), [100])
    run.shards.apply(run.objective.open_fresh_hot_set(*empty_hot_set()).describe([]), np.arange(0, NUM_ROWS, 2))
    proposed = run.shards.propose(NUM_ROWS).rows
    assert sorted(proposed.tolist()) == [row for row in range(1, NUM_ROWS, 2) if row not in LABELLED]


def empty_hot_set() -> tuple[Rows, sparse.csr_array, Rows, sparse.csr_array]:
    empty = sparse.csr_array((0, NUM_ROWS), dtype=np.int32)
    return NO_ROWS, empty, NO_ROWS, empty


@pytest.mark.parametrize("num_shards", [1, 3])
def test_the_shards_of_a_process_hold_views_of_the_kernel(num_shards: int) -> None:
    num_rows = 2500
    kernel = round_graph(sparse.random_array((num_rows, num_rows), density=0.01, format="csr", rng=0))
    shards = LocalEngine(num_shards, 1).open_cover(kernel, Cover(np.ones(num_rows), 0.0), NO_ROWS)
    held = shards.gather("__getattribute__", "_kernel")
    assert len(held) == num_shards
    assert all(np.shares_memory(own.data, kernel.data) for own in held)
    assert all(np.shares_memory(own.indices, kernel.indices) for own in held)
    assert (sparse.vstack(held) != kernel).nnz == 0
