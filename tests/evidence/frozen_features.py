"""Frozen features of a corpus by this project's own backbones, computed once and kept as .npz in a cache folder.

    image   efficientnet-lite0 at 128 px     1280
    text    wordllama                         256
    audio   logmel                            192
    other   precomputed                       as they come

The name of a file holds a digest of the sources that made it: a changed backbone, decoder or builder makes it anew.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import mmcsal_core
from mmcsal_core.backbones.backbone import Features
from mmcsal_core.backbones.loading import load_backbone
from mmcsal_core.corpus.decode import Content, decode_content
from mmcsal_core.corpus.modality import KINDS, Kind, ModalityConfig, resolve_modality
from tests.evidence.emoji import load_emoji_style, load_openmoji
from tests.evidence.labelled_corpus import LabelledCorpus, Labels
from tests.evidence.mfeat import load_mfeat
from tests.evidence.tux_paint import load_tux_paint

IMAGE_PX = 128
BATCH_PAIRS = 32

SOURCES: dict[str, Callable[[Path], LabelledCorpus]] = {
    "openmoji": load_openmoji,
    "twitter": lambda cache: load_emoji_style("twitter", cache),
    "google": lambda cache: load_emoji_style("google", cache),
    "tux-paint": load_tux_paint,
    "mfeat": load_mfeat,
}


@dataclass(frozen=True)
class LabelledFeatures:
    """Frozen features with labels.

    Args:
        features: per modality (N, in_dim).
        labels: (N,).
        sublabels: (N,), empty strings where a pair has none.
    """

    features: dict[str, Features]
    labels: Labels
    sublabels: Labels


def load_features(source: str, cache: Path) -> LabelledFeatures:
    """Return the features of a source; fetch and compute them unless they are in the cache folder."""
    path = find_cached(source, cache)
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        save_features(embed_corpus(SOURCES[source](cache)), path)
    with np.load(path) as stored:
        arrays = {name: stored[name] for name in stored.files}
    return LabelledFeatures(labels=arrays.pop("labels"), sublabels=arrays.pop("sublabels"), features=arrays)


def find_cached(source: str, cache: Path) -> Path:
    """Return where the features of a source are kept."""
    return cache / f"{source}-{_digest_sources()}.npz"


def embed_corpus(corpus: LabelledCorpus) -> LabelledFeatures:
    """Decode and embed every content; nothing is rejected here: a source hands over sound contents.

    Raises:
        RejectPair: a content cannot be decoded.
    """
    features = {name: _embed_modality(name, contents) for name, contents in corpus.contents.items()}
    sublabels = corpus.sublabels or [""] * len(corpus.labels)
    return LabelledFeatures(features, np.array(corpus.labels, dtype=np.str_), np.array(sublabels, dtype=np.str_))


def _embed_modality(name: str, contents: Sequence[Content]) -> Features:
    kind: Kind = next((kind for kind in KINDS if kind == name), "vector")
    modality = resolve_modality(name, ModalityConfig(kind=kind, image_size=IMAGE_PX))
    if kind == "vector":
        return np.stack([np.asarray(decode_content(content, modality)) for content in contents])
    backbone = load_backbone(modality.resolved_backbone, modality)
    parts = []
    for start in range(0, len(contents), BATCH_PAIRS):
        decoded = [decode_content(content, modality) for content in contents[start : start + BATCH_PAIRS]]
        parts.append(backbone.embed(decoded if kind == "text" else np.stack(decoded)))  # type: ignore[arg-type]
    return np.concatenate(parts)


def save_features(made: LabelledFeatures, path: Path) -> None:
    """Write features; the file appears whole."""
    partial = path.with_name(f"{path.name}.partial")
    with partial.open("wb") as file:
        np.savez(file, labels=made.labels, sublabels=made.sublabels, **made.features)  # type: ignore[arg-type]
    partial.rename(path)


def _digest_sources() -> str:
    package = Path(mmcsal_core.__path__[0])
    files = [*package.joinpath("backbones").glob("*.py"), *package.joinpath("corpus").glob("decode*.py")]
    files += [path for path in Path(__file__).parent.glob("*.py") if path.stem in _BUILDERS]
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


_BUILDERS = ("emoji", "frozen_features", "labelled_corpus", "mfeat", "tux_paint")
