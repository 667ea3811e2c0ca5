from collections.abc import Sequence

import numpy as np
import pytest
from scipy.stats import rankdata
from sklearn.metrics import roc_auc_score

from mmcsal_core.artifacts import CHUNK_ROWS
from mmcsal_core.errors import DataError
from mmcsal_core.neighbors import NeighborConfig
from mmcsal_core.neighbors.index import NO_NEIGHBOR, find_rows
from mmcsal_core.neighbors.suspicion import (
    Witnesses,
    measure_alignment,
    measure_consistency,
    measure_witnesses,
    score_suspicion,
    weigh_suspicion,
)
from mmcsal_core.neighbors.vectors import Floats, Rows, Vectors
from mmcsal_core.schema import relation_name
from mmcsal_core.selection import SelectionConfig, measure_suspicion, select_coreset
from tests.core.pair_pools import MispairedPool, make_clustered_pool, make_mispaired_pool


def find_overlap(a: Sequence[int], b: Sequence[int]) -> float:
    """Average the shared part of the first k over all k, with weight 1 / k, as the docstring says."""
    depths = range(1, min(len(a), len(b)) + 1)
    shares = [len((set(a[:k]) & set(b[:k])) - {NO_NEIGHBOR}) / k for k in depths]
    return float(np.average(shares, weights=[1 / k for k in depths]))


def draw_lists(num_rows: int, num_neighbors: int, seed: int) -> Rows:
    rng = np.random.default_rng(seed)
    return np.array([rng.permutation(np.delete(np.arange(num_rows), row))[:num_neighbors] for row in range(num_rows)])


def test_consistency_is_the_average_overlap_of_the_lists() -> None:
    num_rows = CHUNK_ROWS + 40
    a, b, c = draw_lists(num_rows, 30, 0), draw_lists(num_rows, 30, 1), draw_lists(num_rows, 12, 2)
    b[::2] = a[::2]
    b[::2, [3, 9]] = b[::2, [9, 3]]
    a[5, 20:] = b[7, 4:] = b[9] = NO_NEIGHBOR
    expected = np.array([find_overlap(x, y) for x, y in zip(a.tolist(), b.tolist(), strict=True)])
    np.testing.assert_allclose(measure_consistency([a, b]), expected, atol=1e-12)
    others = [np.array([find_overlap(x, y) for x, y in zip(p.tolist(), c.tolist(), strict=True)]) for p in (a, b)]
    np.testing.assert_allclose(measure_consistency([a, b, c]), (expected + sum(others)) / 3, atol=1e-12)
    np.testing.assert_allclose(measure_consistency([a[:5], a[:5]]), 1.0)


def test_one_modality_gives_no_reason_for_suspicion() -> None:
    z = make_clustered_pool(20).embeddings["image"]
    assert (measure_alignment({"image": z}) == 1).all()
    assert (measure_consistency([np.array([[1], [0]])]) == 1).all()
    assert (measure_consistency([np.empty((1, 0), dtype=np.int64)] * 2) == 1).all()
    witnesses = measure_witnesses({"image": z}, {"image->image": find_rows(z, z, NeighborConfig())})
    assert (witnesses.crowding == 0).all()
    assert (weigh_suspicion(score_suspicion(witnesses), 0.2) == 0).all()


def test_alignment_is_the_mean_cosine_over_modality_pairs() -> None:
    x, y = np.array([[1.0, 0.0]], dtype=np.float32), np.array([[0.0, 1.0]], dtype=np.float32)
    np.testing.assert_allclose(measure_alignment({"a": x, "b": x, "c": y}), [1 / 3])


def find_cross(z: dict[str, Vectors], num_neighbors: int = 15) -> dict[str, Rows]:
    config = NeighborConfig(num_neighbors=num_neighbors)
    return {relation_name(a, b): find_rows(z[a], z[b], config) for a in z for b in z}


def test_crowding_is_the_mean_cosine_with_the_ten_nearest_halves_of_others() -> None:
    z = make_clustered_pool(90).embeddings
    neighbors = find_cross(z)
    neighbors["image->text"][4, 6:] = NO_NEIGHBOR
    neighbors["image->text"][8] = NO_NEIGHBOR
    cosines = z["image"].astype(np.float64) @ z["text"].T
    np.fill_diagonal(cosines, -np.inf)
    forth, back = (-np.sort(-c, axis=1)[:, :10] for c in (cosines, cosines.T))
    expected = forth.mean(axis=1)
    expected[4], expected[8] = forth[4, :6].mean(), 0.0
    crowding = measure_witnesses(z, neighbors).crowding
    np.testing.assert_allclose(crowding, (expected + back.mean(axis=1)) / 2, atol=1e-6)


def test_witnesses_of_chunks_are_those_of_the_whole_to_the_last_bit() -> None:
    z = make_clustered_pool(CHUNK_ROWS + 50).embeddings
    neighbors = find_cross(z)
    whole = measure_witnesses(z, neighbors)
    for start in (0, CHUNK_ROWS):
        stop = start + CHUNK_ROWS
        part = measure_witnesses(z, {name: rows[start:stop] for name, rows in neighbors.items()}, start)
        for name in ("alignment", "crowding", "consistency"):
            np.testing.assert_array_equal(getattr(part, name), getattr(whole, name)[start:stop])


def make_witnesses(alignment: Floats, crowding: Floats | float = 0.0, consistency: Floats | float = 0.0) -> Witnesses:
    ones = np.ones(len(alignment))
    return Witnesses(alignment, crowding * ones, consistency * ones)


def test_suspicion_is_the_share_of_pairs_that_look_better_paired() -> None:
    falling = np.linspace(1, 0, 11)
    rising = np.linspace(0, 1, 11)
    np.testing.assert_allclose(score_suspicion(make_witnesses(falling)), rising, atol=1e-6)
    np.testing.assert_allclose(score_suspicion(make_witnesses(np.zeros(11), rising)), rising, atol=1e-6)
    np.testing.assert_allclose(score_suspicion(make_witnesses(np.zeros(11), 0.0, falling)), rising, atol=1e-6)
    np.testing.assert_allclose(score_suspicion(make_witnesses(falling, falling, 0.3)), np.full(11, 0.5))
    np.testing.assert_allclose(score_suspicion(make_witnesses(rising), 3 * falling), rising, atol=1e-6)
    assert score_suspicion(make_witnesses(np.ones(1))).tolist() == [0.0]


def test_only_the_most_suspicious_fifth_weighs_and_rises_by_rank_to_one() -> None:
    suspicion = np.linspace(0, 1, 11)
    np.testing.assert_allclose(weigh_suspicion(suspicion, 0.2), [0] * 9 + [0.5, 1.0], atol=1e-12)
    np.testing.assert_array_equal(weigh_suspicion(suspicion**3, 0.2), weigh_suspicion(suspicion, 0.2))
    np.testing.assert_array_equal(weigh_suspicion(suspicion, 0.0), np.zeros(11))
    np.testing.assert_array_equal(weigh_suspicion(np.full(10, 0.5), 0.2), np.zeros(10))
    np.testing.assert_array_equal(weigh_suspicion(np.ones(1), 0.2), [0.0])


@pytest.fixture(scope="module")
def mispaired() -> MispairedPool:
    return make_mispaired_pool(1000, rare_share=0.03, mispaired_share=0.15, seed=5)


def score_plainly(pool: MispairedPool) -> Floats:
    """Suspect by cosine and by the share of 64 common neighbours, as was done before."""
    lists = [find_rows(x, x, NeighborConfig()) for x in pool.embeddings.values()]
    shared = [len(np.intersect1d(a, b)) for a, b in zip(*lists, strict=True)]
    ranks = [rankdata(-x) for x in (measure_alignment(pool.embeddings), np.array(shared, dtype=np.float64))]
    return np.asarray(rankdata(ranks[0] + ranks[1]) / len(shared))


def test_mispaired_pairs_are_suspected_and_rare_ones_are_not(mispaired: MispairedPool) -> None:
    is_wrong, is_rare = mispaired.is_mispaired, mispaired.is_rare & ~mispaired.is_mispaired
    suspicion, plain = measure_suspicion(mispaired.embeddings), score_plainly(mispaired)
    kept = is_wrong | is_rare
    assert roc_auc_score(is_wrong, suspicion) > max(0.95, roc_auc_score(is_wrong, plain) - 0.005)
    assert roc_auc_score(is_wrong[kept], suspicion[kept]) > max(0.95, roc_auc_score(is_wrong[kept], plain[kept]) + 0.02)
    assert suspicion[is_rare].mean() < min(plain[is_rare].mean() - 0.1, suspicion[is_wrong].mean() - 0.3)
    assert (suspicion[is_rare] > 0.8).mean() < 0.5 * (plain[is_rare] > 0.8).mean()


def test_out_of_fold_cosines_help_where_the_encoder_knows_the_pairs_by_heart(mispaired: MispairedPool) -> None:
    learned = dict(mispaired.embeddings)
    learned["text"] = learned["text"].copy()
    learned["text"][mispaired.is_mispaired] = learned["image"][mispaired.is_mispaired]
    unseen = measure_alignment(mispaired.embeddings)
    plain, helped = measure_suspicion(learned), measure_suspicion(learned, out_of_fold_alignment=unseen)
    assert roc_auc_score(mispaired.is_mispaired, helped) > roc_auc_score(mispaired.is_mispaired, plain) + 0.1


def test_selection_takes_the_suspicion_that_it_is_given(mispaired: MispairedPool) -> None:
    embeddings, config = mispaired.embeddings, SelectionConfig(refine="none", lambda_align=1.0)
    own = select_coreset(embeddings, 30, config=config)
    given = select_coreset(embeddings, 30, suspicion=measure_suspicion(embeddings), config=config)
    np.testing.assert_array_equal(given.indices, own.indices)
    blamed = np.zeros(1000)
    blamed[own.indices] = 1.0
    other = select_coreset(embeddings, 30, suspicion=blamed, config=config)
    assert not set(other.indices) & set(own.indices)


def test_suspicion_that_does_not_fit_is_refused() -> None:
    z = make_clustered_pool(30).embeddings
    with pytest.raises(DataError, match=r"suspicion is one number a pair, \(30,\), got \(29,\)"):
        select_coreset(z, 3, suspicion=np.zeros(29))
    wrong = np.zeros(30)
    wrong[7] = np.nan
    with pytest.raises(DataError, match=r"suspicion must be finite, but row 7 has nan \(1 such rows\)"):
        select_coreset(z, 3, suspicion=wrong)
    with pytest.raises(DataError, match="out-of-fold alignment must be finite, but row 7"):
        measure_suspicion(z, out_of_fold_alignment=wrong)
