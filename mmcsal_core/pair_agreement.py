"""Whether the halves of a pair find each other at all.

Where a join was off by one row, or one modality says nothing of the other, an encoder trains all the same and every
pair looks as suspicious as the next. On pairs that it has not learned from it shows: their partners are among the ten
nearest no oftener than chance puts them there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from scipy.stats import binom

from mmcsal_core.schema import relation_name

DEPTH = 10
MIN_PAIRS = 100
"""Held-back pairs from which on this is asked: among fewer, the ten nearest are a large share of all."""

SIGNIFICANCE = 1e-3
"""How unlikely by chance a number of found partners must be to count as more than chance."""


@dataclass(frozen=True)
class Unrelated:
    """Two modalities whose halves find each other no oftener than by chance.

    Args:
        modalities: the two.
        found: partners among the ten nearest, the better of both ways.
        num_pairs: that were asked.
    """

    modalities: tuple[str, str]
    found: int
    num_pairs: int

    def describe(self) -> str:
        """Return what was found and what to do, in one sentence."""
        first, second = self.modalities
        return (
            f"{first} and {second} must agree better than pairs put together at random, but of {self.num_pairs} "
            f"held-back pairs {self.found} find their partner among the {DEPTH} nearest, and chance alone finds about "
            f"{DEPTH}; check how the pairs were joined, and if one of the two says nothing of the other, give it less "
            "in selection.modality_weights (0 leaves it out)"
        )


def list_unrelated(metrics: Mapping[str, Any]) -> Sequence[Unrelated]:
    """Return the modalities that do not find each other, of `encoder/metrics.json`; none where too few were held back.

    Two modalities count as related where either way has more hits than chance gives once in 1000 times.
    """
    after = metrics["after"]
    num_pairs = after["num_pairs"]
    if metrics["measured_on"] != "held-back pairs" or num_pairs < MIN_PAIRS:
        return []
    found = []
    for a, b in combinations(after["uniformity"], 2):
        recalls = [after["retrieval"][relation_name(*couple)][f"r@{DEPTH}"] for couple in ((a, b), (b, a))]
        hits = round(max(recalls) * num_pairs)
        if binom.sf(hits - 1, num_pairs, DEPTH / num_pairs) > SIGNIFICANCE:
            found.append(Unrelated((a, b), hits, num_pairs))
    return found
