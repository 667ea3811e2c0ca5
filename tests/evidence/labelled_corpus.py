"""What a source of the evidence run hands over: contents per modality, and labels that no selection ever sees."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mmcsal_core.corpus.decode import Content

Labels = npt.NDArray[np.str_]

MIN_SUBLABEL_PAIRS = 10
"""A sub-category of fewer pairs is no class: its pairs have no sub-label."""


@dataclass(frozen=True)
class LabelledCorpus:
    """Pairs with labels.

    Args:
        contents: per modality N contents, as a reader of this project hands them over.
        labels: N categories.
        sublabels: N finer categories, empty where a pair has none; no entries where the source has none at all.
    """

    contents: dict[str, Sequence[Content]]
    labels: Sequence[str]
    sublabels: Sequence[str] = ()


def blank_rare(sublabels: Sequence[str], min_pairs: int = MIN_SUBLABEL_PAIRS) -> list[str]:
    """Return the sub-labels, those of fewer than `min_pairs` pairs replaced by an empty string."""
    counts: dict[str, int] = {}
    for sublabel in sublabels:
        counts[sublabel] = counts.get(sublabel, 0) + 1
    return [sublabel if counts[sublabel] >= min_pairs else "" for sublabel in sublabels]
