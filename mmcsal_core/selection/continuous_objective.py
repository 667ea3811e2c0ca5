"""Fit points to a pool in the continuous space of pairs: the objective, and its descent by mini-batches.

A point is one unit vector a modality. With s(i, j) the sum over modalities of z_i . theta_j and, by their weight gamma,
over modality pairs of the cross-modal cosines, both directions averaged, the objective is
`- mean_i max_j s(i, j) / tau + lambda_div mean_j log sum_{k != j} exp(s(j, k) / tau)
+ lambda_align / tau mean_j sum over modality pairs of (1 - theta_j^a . theta_j^b)`
With one modality this is the objective of ActiveFT (arXiv 2303.14382). s is divided by the sum of its weights, so that
it stays within [-1, 1] and the temperature keeps its meaning for any number of modalities.

Both means are taken over a batch in each step, so nothing larger than batch x points is held.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from mmcsal_core.neighbors.vectors import Rows, Vectors, iter_blocks
from mmcsal_core.selection.baseline_config import ContinuousConfig
from mmcsal_core.selection.clusters import order_by_value
from mmcsal_core.selection.pool import Pool

BLOCK_ROWS = 4096


@dataclass(frozen=True, eq=False)
class Points:
    """Fitted points, the one that stands for most of the pool first.

    Args:
        mixed: (B, M * D) float32: their inner product with a pair's embeddings side by side is s.
        shares: (B,) share of the pool that is nearest to each point.
    """

    mixed: Vectors
    shares: Sequence[float]


@dataclass(frozen=True)
class Fit:
    """How points are fitted.

    Args:
        config: steps, temperature and weights of the terms.
        seed: of the first points and of the batches.
    """

    config: ContinuousConfig
    seed: int


def fit_points(pool: Pool, num_points: int, labelled: Rows, fit: Fit) -> Points:
    """Fit points to the pool by Adam, from rows drawn at random, on the GPU where there is one.

    Args:
        pool: N pairs, all embeddings of one length.
        num_points: B, at most the rows that are not labelled.
        labelled: rows that are points already; they stay where they are and are not returned.
        fit: how.

    Returns:
        B points; the same on the same machine, whatever the order of the pool's rows.
    """
    config, rng = fit.config, np.random.default_rng(fit.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    order, matrices = order_by_value(pool.joint), list(pool.embeddings.values())
    weights = [pool.weights.get(name, 1.0) for name in pool.embeddings]
    mixing = mix_modalities(weights, config.crossmodal_weight).to(device)
    start = rng.choice(order[~np.isin(order, labelled)], num_points, replace=False)
    fixed = _gather(matrices, labelled, device)
    theta = _gather(matrices, start, device).requires_grad_()
    optimizer = torch.optim.Adam([theta], lr=config.learning_rate)
    for _ in range(config.num_steps):
        batch = _gather(matrices, order[_draw(len(order), config.batch_size, rng)], device)
        rows = torch.from_numpy(_draw(num_points, config.batch_size, rng)).to(device)
        loss = measure_objective(batch, torch.cat([normalize(theta, dim=2), fixed]), rows, mixing, config)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    points = torch.cat([normalize(theta.detach(), dim=2), fixed])
    mixed = mix(points, mixing)
    counts = _count_nearest(matrices, order, mixed)[:num_points]
    ranking = np.argsort(-counts, kind="stable")
    return Points(mixed[:num_points].cpu().numpy()[ranking], (counts[ranking] / len(order)).tolist())


def measure_objective(batch: Tensor, points: Tensor, rows: Tensor, mixing: Tensor, config: ContinuousConfig) -> Tensor:
    """Compute the objective on some pairs and some of the points.

    Args:
        batch: (n, M, D) pairs of the pool.
        points: (P, M, D) of unit length.
        rows: (r,) distinct points over which repulsion and alignment are averaged.
        mixing: (M, M), from `mix_modalities`.
        config: temperature and weights of the terms.

    Returns:
        A scalar.
    """
    some, mixed, num_modalities = points[rows], mix(points, mixing), points.shape[1]
    nearest = (batch.flatten(1) @ mixed.T).max(dim=1).values
    agreement = (some.sum(dim=1).square().sum(dim=1) - num_modalities) / 2
    misalignment = num_modalities * (num_modalities - 1) / 2 - agreement
    objective = (config.lambda_align * misalignment.mean() - nearest.mean()) / config.temperature
    if len(points) == 1:
        return objective
    similarities = some.flatten(1) @ mixed.T / config.temperature
    is_own = torch.arange(len(points), device=points.device) == rows[:, None]
    repulsion = similarities.masked_fill(is_own, -torch.inf).logsumexp(dim=1)
    return objective + config.lambda_div * repulsion.mean()


def mix_modalities(weights: Sequence[float], crossmodal_weight: float) -> Tensor:
    """Return what each modality of a pair counts with each modality of a point, (M, M) float32 of sum 1.

    Args:
        weights: of the M modalities, mean 1; a modality pair has the mean of its two.
        crossmodal_weight: gamma.
    """
    own = torch.tensor(weights, dtype=torch.float32)
    mixing = crossmodal_weight * (own[:, None] + own) / 4
    mixing.diagonal().copy_(own)
    return mixing / mixing.sum()


def mix(points: Tensor, mixing: Tensor) -> Tensor:
    """Mix each modality's vectors (P, M, D) with the others', so that s is one inner product with (P, M * D)."""
    return torch.einsum("mk,pkd->pmd", mixing, points).flatten(1)


def _gather(matrices: Sequence[Vectors], rows: Rows, device: torch.device) -> Tensor:
    return torch.from_numpy(np.stack([x[rows] for x in matrices], axis=1)).to(device)


def _draw(num_rows: int, num_drawn: int, rng: np.random.Generator) -> Rows:
    return rng.choice(num_rows, num_drawn, replace=False) if num_drawn < num_rows else np.arange(num_rows)


def _count_nearest(matrices: Sequence[Vectors], order: Rows, mixed: Tensor) -> Rows:
    """Count the rows that are nearest to each point."""
    counts = torch.zeros(len(mixed), dtype=torch.int64, device=mixed.device)
    for block in iter_blocks(len(order), BLOCK_ROWS):
        similarities = _gather(matrices, order[block], mixed.device).flatten(1) @ mixed.T
        counts += torch.bincount(similarities.argmax(dim=1), minlength=len(mixed))
    return counts.cpu().numpy()
