"""How well pairs find their partner, as one number: what the fit watches to stop early.

The mean reciprocal rank was chosen over R@1: on a few hundred held-back pairs R@1 moves in steps of whole pairs and
stands still near 0 and 1, where ranks still tell one epoch from the next.
"""

from collections.abc import Mapping
from itertools import combinations

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]


def measure_reciprocal_rank(embeddings: Mapping[str, Vectors]) -> float:
    """Return the mean of 1 / rank of the partner among all pairs, over pairs and modality pairs, both ways; in (0, 1].

    Args:
        embeddings: unit vectors per modality, (n, d) each, n >= 1, row i of each belonging to pair i. Holds an (n, n)
            matrix. Ties count against.
    """
    return float(np.mean([_measure_both_ways(a, b) for a, b in combinations(embeddings.values(), 2)]))


def _measure_both_ways(a: Vectors, b: Vectors) -> float:
    similarities = a @ b.T
    own = similarities.diagonal()
    from_a = (similarities >= own[:, None]).sum(axis=1)
    from_b = (similarities >= own[None, :]).sum(axis=0)
    return float((np.mean(1 / from_a) + np.mean(1 / from_b)) / 2)
