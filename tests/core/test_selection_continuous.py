"""The continuous objective against a plain double loop, and what its descent and its rounding are good for."""

import itertools

import numpy as np
import pytest
import torch

from mmcsal_core.errors import DataError
from mmcsal_core.neighbors.vectors import Floats
from mmcsal_core.selection import SelectionConfig, select_coreset
from mmcsal_core.selection.baseline_config import ContinuousConfig
from mmcsal_core.selection.continuous_objective import Fit, fit_points, measure_objective, mix_modalities
from mmcsal_core.selection.engine.eligibility import NO_ROWS
from mmcsal_core.selection.pool import Pool, make_pool
from tests.core.pair_pools import make_clustered_pool

POOL = make_clustered_pool(150)
CONFIG = ContinuousConfig(temperature=0.2, lambda_div=0.7, lambda_align=0.3, crossmodal_weight=0.6)


def draw_units(shape: tuple[int, ...], seed: int) -> Floats:
    points = np.random.default_rng(seed).normal(size=shape)
    return np.asarray(points / np.linalg.norm(points, axis=-1, keepdims=True))


def score(z: Floats, theta: Floats, weights: list[float], gamma: float) -> float:
    """Return s of one pair (M, D) and one point (M, D), written out."""
    pairs = list(itertools.combinations(range(len(z)), 2))
    crossed = [(weights[a] + weights[b]) / 2 * (z[a] @ theta[b] + z[b] @ theta[a]) / 2 for a, b in pairs]
    own = [weight * z[m] @ theta[m] for m, weight in enumerate(weights)]
    total = sum(weights) + gamma * sum((weights[a] + weights[b]) / 2 for a, b in pairs)
    return float((sum(own) + gamma * sum(crossed)) / total)


def measure_plainly(batch: Floats, points: Floats, rows: list[int], weights: list[float]) -> float:
    tau, gamma = CONFIG.temperature, CONFIG.crossmodal_weight
    attraction = np.mean([max(score(z, theta, weights, gamma) for theta in points) for z in batch]) / tau
    repulsion, misalignment = [], []
    for j in rows:
        others = [score(points[j], points[k], weights, gamma) / tau for k in range(len(points)) if k != j]
        repulsion.append(np.log(np.exp(others).sum()))
        pairs = itertools.combinations(points[j], 2)
        misalignment.append(sum(1 - a @ b for a, b in pairs))
    return float(
        -attraction + CONFIG.lambda_div * np.mean(repulsion) + CONFIG.lambda_align / tau * np.mean(misalignment)
    )


@pytest.mark.parametrize("weights", [[1.0], [1.0, 1.0], [0.4, 1.6], [0.5, 1.0, 1.5]])
@pytest.mark.parametrize("rows", [[0, 1, 2, 3, 4], [3, 1]])
def test_the_objective_is_that_of_a_plain_loop(weights: list[float], rows: list[int]) -> None:
    batch, points = draw_units((9, len(weights), 6), seed=1), draw_units((5, len(weights), 6), seed=2)
    mixing = mix_modalities(weights, CONFIG.crossmodal_weight).to(torch.float64)
    found = measure_objective(
        torch.from_numpy(batch), torch.from_numpy(points), torch.tensor(rows), mixing, CONFIG
    ).item()
    assert found == pytest.approx(measure_plainly(batch, points, rows, weights), rel=1e-6)


def test_one_point_repels_nobody() -> None:
    batch, point = draw_units((9, 2, 6), seed=1), draw_units((1, 2, 6), seed=2)
    tensors = torch.from_numpy(batch), torch.from_numpy(point), torch.tensor([0])
    found = measure_objective(*tensors, mix_modalities([1.0, 1.0], 1.0).to(torch.float64), CONFIG).item()
    nearest = np.mean([score(z, point[0], [1.0, 1.0], 1.0) for z in batch]) / CONFIG.temperature
    assert found == pytest.approx(0.3 / 0.2 * (1 - point[0, 0] @ point[0, 1]) - nearest, rel=1e-6)


def unmix(points: Floats, mixing: Floats) -> Floats:
    return np.asarray(np.einsum("mk,pkd->pmd", np.linalg.inv(mixing), points.reshape(len(points), len(mixing), -1)))


def test_the_descent_lowers_the_objective_of_the_whole_pool() -> None:
    pool = make_pool(POOL.embeddings)
    batch = torch.from_numpy(np.stack(list(pool.embeddings.values()), axis=1).astype(np.float64))
    config = CONFIG.model_copy(update={"learning_rate": 0.01, "batch_size": 40})
    mixing = mix_modalities([1.0, 1.0], config.crossmodal_weight).to(torch.float64)

    def measure(num_steps: int) -> float:
        fit = Fit(config.model_copy(update={"num_steps": num_steps}), seed=3)
        points = torch.from_numpy(unmix(fit_points(pool, 8, NO_ROWS, fit).mixed.astype(np.float64), mixing.numpy()))
        np.testing.assert_allclose(points.norm(dim=2), 1, atol=1e-4)
        return measure_objective(batch, points, torch.arange(8), mixing, config).item()

    start, middle, end = measure(0), measure(30), measure(150)
    assert start > middle > end


def test_points_start_at_distinct_rows_and_are_ranked_by_the_pool_that_they_stand_for() -> None:
    z = make_pool({"image": POOL.embeddings["image"]})
    fitted = fit_points(z, 30, np.arange(100), Fit(ContinuousConfig(num_steps=0), seed=3))
    closeness = fitted.mixed @ z.joint.T
    starts = closeness.argmax(axis=1)
    np.testing.assert_allclose(closeness.max(axis=1), 1, atol=1e-6)
    assert len(set(starts.tolist())) == 30
    assert starts.min() >= 100
    every = np.concatenate([starts, np.arange(100)])
    counts = np.bincount((z.joint @ z.joint[every].T).argmax(axis=1), minlength=130)[:30]
    np.testing.assert_allclose(np.array(fitted.shares) * 150, counts)
    assert list(fitted.shares) == sorted(fitted.shares, reverse=True)


@pytest.mark.parametrize("strategy", ["activeft", "mmcsal_continuous"])
def test_a_point_leaves_the_cluster_that_a_labelled_pair_stands_for(strategy: str) -> None:
    rng = np.random.default_rng(0)
    clusters = np.repeat([0, 1], [60, 20])
    points = np.eye(6)[clusters] + 0.1 * rng.normal(size=(80, 6))
    config = SelectionConfig.model_validate(
        {"strategy": strategy, "continuous": ContinuousConfig(num_steps=60, learning_rate=0.1, alignment_bonus=0)}
    )
    for seed in range(3):
        z = {"image": points, "text": points}
        found = select_coreset(z, 1, labelled=[0], seed=seed, config=config)
        assert clusters[found.indices].tolist() == [1]


def test_a_large_alignment_bonus_leaves_only_the_best_aligned_pairs() -> None:
    config = SelectionConfig(
        strategy="mmcsal_continuous", continuous=ContinuousConfig(num_steps=2, alignment_bonus=1e4)
    )
    found = select_coreset(POOL.embeddings, 10, config=config).indices
    cosines = (POOL.embeddings["image"].astype(np.float64) * POOL.embeddings["text"]).sum(axis=1)
    assert set(found.tolist()) == set(np.argsort(-cosines)[:10].tolist())


def test_activeft_is_the_continuous_method_on_one_vector_a_pair_without_alignment() -> None:
    joint = Pool({"joint": make_pool(POOL.embeddings).joint}, {}).embeddings
    few = ContinuousConfig(num_steps=20, alignment_bonus=0)
    one = select_coreset(joint, 12, seed=2, config=SelectionConfig(strategy="mmcsal_continuous", continuous=few))
    other = select_coreset(POOL.embeddings, 12, seed=2, config=SelectionConfig(strategy="activeft", continuous=few))
    np.testing.assert_array_equal(one.indices, other.indices)
    np.testing.assert_array_equal(one.gains, other.gains)


def test_batches_smaller_than_the_pool_and_the_budget_give_the_same_picks_in_any_order_of_rows() -> None:
    config = SelectionConfig(
        strategy="mmcsal_continuous", continuous=ContinuousConfig(num_steps=10, learning_rate=0.01, batch_size=16)
    )
    order = np.random.default_rng(1).permutation(150)
    first = select_coreset(POOL.embeddings, 40, seed=4, config=config).indices
    shuffled = {name: x[order] for name, x in POOL.embeddings.items()}
    np.testing.assert_array_equal(order[select_coreset(shuffled, 40, seed=4, config=config).indices], first)
    assert first.tolist() != select_coreset(POOL.embeddings, 40, seed=5, config=config).indices.tolist()


def test_modalities_of_unequal_length_are_refused() -> None:
    unequal = {"image": POOL.embeddings["image"], "text": POOL.embeddings["text"][:, :9]}
    with pytest.raises(DataError, match=r"must be of one length, got {'image': 16, 'text': 9}"):
        select_coreset(unequal, 5, strategy="mmcsal_continuous")
