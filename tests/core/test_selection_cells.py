import numpy as np
import pytest

from mmcsal_core.selection import SelectionConfig, cells, select_coreset
from mmcsal_core.selection.cells import NO_EARLIER, assign_cells, find_nearest_earlier, measure_radius
from mmcsal_core.selection.pool import make_pool
from tests.core.pair_pools import make_clustered_pool

POOL = make_clustered_pool(200)
JOINT = make_pool(POOL.embeddings).joint
PICKS = np.random.default_rng(0).choice(200, 12, replace=False)


def test_the_distance_is_the_root_mean_square_over_modalities() -> None:
    z = POOL.embeddings
    expected = np.sqrt(np.mean([((x[3] - x[9]) ** 2).sum() for x in z.values()]))
    assert np.linalg.norm(JOINT[3] - JOINT[9]) == pytest.approx(expected, rel=1e-5)


def test_cells_and_radius_are_those_of_brute_force() -> None:
    distances = np.linalg.norm(JOINT[:, None] - JOINT[PICKS][None], axis=2)
    np.testing.assert_array_equal(assign_cells(JOINT, PICKS), distances.argmin(axis=1))
    assert measure_radius(JOINT, PICKS) == pytest.approx(distances.min(axis=1).max(), rel=1e-5)


def test_the_nearest_earlier_pick_is_that_of_brute_force() -> None:
    ranks, distances = find_nearest_earlier(JOINT, PICKS)
    assert ranks[0] == NO_EARLIER
    assert np.isnan(distances[0])
    for rank in range(1, len(PICKS)):
        expected = np.linalg.norm(JOINT[PICKS[:rank]] - JOINT[PICKS[rank]], axis=1)
        assert ranks[rank] == expected.argmin()
        assert distances[rank] == pytest.approx(expected.min(), rel=1e-5)


def test_a_prefix_has_the_same_nearest_earlier_picks() -> None:
    ranks, distances = find_nearest_earlier(JOINT, PICKS)
    fewer = find_nearest_earlier(JOINT, PICKS[:5])
    np.testing.assert_array_equal(fewer[0], ranks[:5])
    np.testing.assert_array_equal(fewer[1], distances[:5])


def test_the_nearest_earlier_of_near_duplicates_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    near = np.repeat(rng.normal(size=(40, 24)), 10, axis=0) + 1e-5 * rng.normal(size=(400, 24))
    near[::7] = near[3]  # and some that are equal
    vectors = make_pool({"image": near[rng.permutation(400)]}).joint
    monkeypatch.setattr(cells, "EARLIER_ROWS", 64)
    ranks, distances = find_nearest_earlier(vectors, np.arange(400))
    exact = vectors.astype(np.float64)
    for rank in range(1, 400):
        squared = ((exact[:rank] - exact[rank]) ** 2).sum(axis=1).astype(np.float32)
        assert ranks[rank] == squared.argmin()
    for num_picks in (1, 2, 64, 65, 200):
        np.testing.assert_array_equal(find_nearest_earlier(vectors, np.arange(num_picks))[0], ranks[:num_picks])
        np.testing.assert_array_equal(find_nearest_earlier(vectors, np.arange(num_picks))[1], distances[:num_picks])


def test_k_center_is_gonzalez_from_the_row_nearest_the_mean() -> None:
    coreset = select_coreset(POOL.embeddings, 20, strategy="k_center")
    picks = [int(np.linalg.norm(JOINT - JOINT.mean(axis=0), axis=1).argmin())]
    for _ in range(19):
        distances = np.linalg.norm(JOINT[:, None] - JOINT[picks][None], axis=2).min(axis=1)
        picks.append(int(distances.argmax()))
    assert coreset.indices.tolist() == picks
    larger = select_coreset(POOL.embeddings, 21, strategy="k_center")
    assert larger.gains[-1] == pytest.approx(coreset.covering_radius, rel=1e-4)


def test_kmeans_ranks_its_clusters_by_size() -> None:
    coreset = select_coreset(POOL.embeddings, 10, strategy="kmeans")
    assert coreset.gains.sum() == pytest.approx(1.0)
    assert len(set(POOL.clusters[coreset.indices].tolist())) >= 7


def test_unknown_and_impossible_settings_are_refused() -> None:
    for wrong in ({"lambda_dif": 1.0}, {"lambda_align": 1.5}, {"strategy": "magic"}, {"refine": "maybe"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            SelectionConfig.model_validate(wrong)


def test_unit_vectors_keep_their_bits_and_a_single_modality_is_not_copied() -> None:
    z = POOL.embeddings["image"]
    assert np.shares_memory(make_pool({"image": z}).joint, z)
    half = np.vstack([z, 3 * z]).astype(np.float16)
    units = make_pool({"image": half}).joint
    assert units.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(units, axis=1), 1.0, atol=2e-7 * 16)
    mixed = make_pool({"image": np.vstack([z, 3 * z])}).joint
    np.testing.assert_array_equal(mixed[:200], z)
    np.testing.assert_allclose(mixed[200:], z, atol=1e-6)
