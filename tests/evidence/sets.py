"""The labelled sets of the evidence run, and on which of them choices were made.

A set is a source, the modalities that make its pairs and one of its labellings. The method's defaults were chosen by
looking at the sets that are `chosen on`; all others only confirm, and the document reports the two apart.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy.typing as npt

from mmcsal_core.backbones.backbone import Features
from mmcsal_core.errors import ConfigError
from tests.evidence.frozen_features import load_features
from tests.evidence.labelled_corpus import Labels

Role: TypeAlias = Literal["chosen on", "confirmed on"]
ROLES: tuple[Role, ...] = ("chosen on", "confirmed on")


@dataclass(frozen=True)
class EvidenceSet:
    """One labelled set.

    Args:
        name: in the document.
        source: of `frozen_features.SOURCES`.
        modalities: that make a pair.
        role: whether choices were made on it.
        labelling: the categories, or the sub-categories of ten pairs at least.
    """

    name: str
    source: str
    modalities: tuple[str, ...]
    role: Role = "confirmed on"
    labelling: Literal["labels", "sublabels"] = "labels"


IMAGE_TEXT = ("image", "text")

SETS: tuple[EvidenceSet, ...] = (
    EvidenceSet("openmoji", "openmoji", IMAGE_TEXT, role="chosen on"),
    EvidenceSet("openmoji sub", "openmoji", IMAGE_TEXT, labelling="sublabels"),
    EvidenceSet("twitter", "twitter", IMAGE_TEXT),
    EvidenceSet("twitter sub", "twitter", IMAGE_TEXT, labelling="sublabels"),
    EvidenceSet("google", "google", IMAGE_TEXT),
    EvidenceSet("google sub", "google", IMAGE_TEXT, labelling="sublabels"),
    EvidenceSet("tux image-text", "tux-paint", IMAGE_TEXT, role="chosen on"),
    EvidenceSet("tux image-audio", "tux-paint", ("image", "audio")),
    EvidenceSet("tux text-audio", "tux-paint", ("text", "audio")),
    EvidenceSet("tux image-text-audio", "tux-paint", ("image", "text", "audio")),
    EvidenceSet("mfeat fac-fou", "mfeat", ("fac", "fou"), role="chosen on"),
    EvidenceSet("mfeat pix-mor", "mfeat", ("pix", "mor"), role="chosen on"),
    EvidenceSet("mfeat kar-zer", "mfeat", ("kar", "zer")),
    EvidenceSet("mfeat fou-kar", "mfeat", ("fou", "kar")),
    EvidenceSet("mfeat pix-fou", "mfeat", ("pix", "fou")),
    EvidenceSet("mfeat fac-zer", "mfeat", ("fac", "zer")),
)


@dataclass(frozen=True)
class LabelledSet:
    """A set's pairs.

    Args:
        features: per modality (N, in_dim).
        labels: (N,), none empty.
    """

    features: dict[str, Features]
    labels: Labels

    def take(self, rows: npt.NDArray[Any]) -> "LabelledSet":
        """Return some of the pairs, by row numbers or by a mask."""
        return LabelledSet({name: x[rows] for name, x in self.features.items()}, self.labels[rows])


def find_set(name: str) -> EvidenceSet:
    """Return the set of that name.

    Raises:
        ConfigError: there is none.
    """
    for each in SETS:
        if each.name == name:
            return each
    raise ConfigError(f"a set is one of {', '.join(each.name for each in SETS)}, got {name!r}; choose one of them")


def load_set(declared: EvidenceSet, cache: Path) -> LabelledSet:
    """Return a set's features and labels; pairs without a label of its labelling are left out."""
    loaded = load_features(declared.source, cache)
    labels = getattr(loaded, declared.labelling)
    return LabelledSet({name: loaded.features[name] for name in declared.modalities}, labels).take(labels != "")
