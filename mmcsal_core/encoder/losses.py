"""The losses of the encoder: functions of unit vectors, without state.

`info_nce` (van den Oord et al., 2018) in the symmetric form of CLIP, `proto_nce` (Li et al., Prototypical Contrastive
Learning, 2021), and the alignment and uniformity terms of Wang and Isola (2020). Where several workers share a batch,
each one asks for its own anchors only, against the rows of the whole batch.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def info_nce(
    a: Tensor, b: Tensor, temperature: float | Tensor, anchors: slice | None = None, weights: Tensor | None = None
) -> Tensor:
    """Mean over rows of half of -log p(b_i | a_i) - log p(a_i | b_i), where the other rows are the negatives.

    Args:
        a: unit vectors of one modality, (n, d).
        b: unit vectors of the other modality, row i paired with row i of `a`, (n, d).
        temperature: divides every cosine.
        anchors: rows whose share of the mean is asked for; all of them by default.
        weights: of the rows in the mean, not negative, (n,); equal by default. A row of weight 0 is still a negative.
    """
    rows = anchors or slice(0, len(a))
    target = torch.arange(len(a), device=a.device)[rows]
    to_b = F.cross_entropy(a[rows] @ b.T / temperature, target, reduction="none")
    to_a = F.cross_entropy(b[rows] @ a.T / temperature, target, reduction="none")
    if weights is None:
        return (to_b + to_a).sum() / (2 * len(a))
    return (weights[rows] * (to_b + to_a)).sum() / (2 * weights.sum().clamp(min=1e-12))


def proto_nce(embeddings: Tensor, prototypes: Tensor, concentrations: Tensor, assigned: Tensor) -> Tensor:
    """Mean over rows of -log softmax over the prototypes of (cosine / concentration), at the assigned prototype.

    Args:
        embeddings: unit vectors, (n, d).
        prototypes: unit vectors, (k, d).
        concentrations: one positive temperature a prototype, (k,).
        assigned: the prototype of each row, int64, (n,).
    """
    return F.cross_entropy(embeddings @ (prototypes / concentrations[:, None]).T, assigned)


def alignment_loss(a: Tensor, b: Tensor) -> Tensor:
    """Mean over rows of the squared distance between the two embeddings of a pair, (n, d) each."""
    return (a - b).square().sum(dim=1).mean()


def uniformity_loss(embeddings: Tensor) -> Tensor:
    """Log of the mean of exp(-2 d^2) over all couples of distinct rows, (n, d); 0 for a single row."""
    if len(embeddings) < 2:
        return embeddings.sum() * 0.0
    squared = 2 - 2 * (embeddings @ embeddings.T)
    distinct = ~torch.eye(len(embeddings), dtype=torch.bool, device=embeddings.device)
    return torch.logsumexp(-2 * squared[distinct], dim=0) - torch.log(distinct.sum())
