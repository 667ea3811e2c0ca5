"""Proposals against sorting everything, where most priorities are equal."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mmcsal_core.selection.engine.proposals import (
    NOTHING_LEFT,
    Proposal,
    is_before,
    merge_proposals,
    propose_top,
    share_rows,
)

values = st.sampled_from([-np.inf, 0.0, 0.25, 1.0])
priorities = st.lists(values, min_size=1, max_size=40)


def sort_open(given_priorities: list[float], first_row: int = 0) -> list[tuple[float, int]]:
    rows = [(value, first_row + row) for row, value in enumerate(given_priorities) if value > -np.inf]
    return sorted(rows, key=lambda pair: (-pair[0], pair[1]))


def list_rows(proposal: Proposal) -> list[tuple[float, int]]:
    return list(zip(proposal.priorities.tolist(), proposal.rows.tolist(), strict=True))


@given(priorities, st.integers(1, 45), st.integers(0, 1000))
def test_the_best_rows_are_proposed_in_order_with_the_best_left_out(
    chosen: list[float], num_rows: int, first_row: int
) -> None:
    expected = sort_open(chosen, first_row)
    proposal = propose_top(np.array(chosen), first_row, num_rows)
    assert list_rows(proposal) == expected[:num_rows]
    assert proposal.bound == (expected[num_rows] if len(expected) > num_rows else NOTHING_LEFT)
    shifted = propose_top(np.array(chosen), 0, num_rows).shift(first_row)
    assert list_rows(shifted) == list_rows(proposal)
    assert shifted.bound == proposal.bound


@given(st.lists(priorities, min_size=1, max_size=5), st.integers(1, 45))
def test_merged_proposals_are_those_of_all_rows(parts: list[list[float]], num_rows: int) -> None:
    starts = np.cumsum([0] + [len(part) for part in parts[:-1]]).tolist()
    expected = sort_open([value for part in parts for value in part])
    own = [propose_top(np.array(part), start, num_rows) for part, start in zip(parts, starts, strict=True)]
    merged = merge_proposals(own, num_rows)
    assert list_rows(merged) == expected[:num_rows]
    assert merged.bound == (expected[num_rows] if len(expected) > num_rows else NOTHING_LEFT)


@given(st.lists(priorities, min_size=1, max_size=5), st.integers(1, 45))
def test_rows_before_the_bound_are_right_however_little_a_shard_proposes(
    parts: list[list[float]], num_rows: int
) -> None:
    starts = np.cumsum([0] + [len(part) for part in parts[:-1]]).tolist()
    expected = sort_open([value for part in parts for value in part])
    own_rows = share_rows(num_rows, len(parts))
    assert num_rows <= own_rows * len(parts)
    own = [propose_top(np.array(part), start, own_rows) for part, start in zip(parts, starts, strict=True)]
    merged = merge_proposals(own, num_rows)
    certain = [row for row in list_rows(merged) if is_before(row, merged.bound)]
    assert certain == expected[: len(certain)]
    assert len(certain) > 0 or not expected
