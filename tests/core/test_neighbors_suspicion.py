import numpy as np

from mmcsal_core.neighbors import NeighborConfig
from mmcsal_core.neighbors.index import NO_NEIGHBOR, find_rows
from mmcsal_core.neighbors.suspicion import measure_alignment, measure_consistency, score_suspicion
from tests.core.pair_pools import make_clustered_pool


def test_consistency_is_the_share_of_common_neighbours() -> None:
    a = np.array([[1, 2], [0, 2], [0, 1], [0, 1]])
    b = np.array([[2, 1], [3, 2], [3, NO_NEIGHBOR], [NO_NEIGHBOR, NO_NEIGHBOR]])
    np.testing.assert_array_equal(measure_consistency([a, b]), [1.0, 0.5, 0.0, 0.0])
    np.testing.assert_allclose(measure_consistency([a, b, a]), [1.0, 2 / 3, 1 / 3, 1 / 3])


def test_one_modality_gives_no_reason_for_suspicion() -> None:
    z = make_clustered_pool(20).embeddings["image"]
    assert (measure_alignment({"image": z}) == 1).all()
    assert (measure_consistency([np.array([[1], [0]])]) == 1).all()
    assert (measure_consistency([np.empty((1, 0), dtype=np.int64)] * 2) == 1).all()


def test_alignment_is_the_mean_cosine_over_modality_pairs() -> None:
    x, y = np.array([[1.0, 0.0]], dtype=np.float32), np.array([[0.0, 1.0]], dtype=np.float32)
    np.testing.assert_allclose(measure_alignment({"a": x, "b": x, "c": y}), [1 / 3])


def test_only_the_most_suspicious_fifth_scores_and_rises_by_rank_to_one() -> None:
    alignment = np.linspace(1, 0, 11)
    score = score_suspicion(alignment, alignment, 0.2)
    np.testing.assert_allclose(score, [0] * 9 + [0.5, 1.0], atol=1e-12)
    np.testing.assert_array_equal(score_suspicion(alignment, alignment, 0.0), np.zeros(11))
    np.testing.assert_array_equal(score_suspicion(np.ones(10), np.ones(10), 0.2), np.zeros(10))
    np.testing.assert_array_equal(score_suspicion(np.ones(1), np.ones(1), 0.2), [0.0])


def test_planted_mispaired_pairs_are_suspected() -> None:
    pool = make_clustered_pool(400, seed=2)
    is_wrong = np.arange(400) < 40
    text = pool.embeddings["text"].copy()
    text[is_wrong] = text[np.flatnonzero(is_wrong)[::-1]]
    is_wrong &= pool.clusters != np.where(is_wrong, pool.clusters[39 - np.arange(400) % 40], pool.clusters)
    z = {"image": pool.embeddings["image"], "text": text}
    lists = [find_rows(x, x, NeighborConfig(num_neighbors=20)) for x in z.values()]
    score = score_suspicion(measure_alignment(z), measure_consistency(lists), 0.2)
    assert score[is_wrong].mean() > 5 * score[~is_wrong].mean()
