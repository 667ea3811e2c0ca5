"""Stamps of Tux Paint (GPL-2): a picture, an English sentence, and the sentence of the French edition as speech.

Out of the Debian package tuxpaint-stamps-default. A stamp counts where all three are there; its label is the folder
it stands in, where that has ten stamps. Mirrored and flipped copies are left out.
"""

from pathlib import Path

from tests.evidence.downloads import fetch_debian
from tests.evidence.labelled_corpus import LabelledCorpus, blank_rare

COPIES = ("_mirror", "_flip")


def load_tux_paint(cache: Path) -> LabelledCorpus:
    """Read the stamps in the order of their paths."""
    root = fetch_debian("tuxpaint-stamps-default", cache) / "usr" / "share" / "tuxpaint" / "stamps"
    stems = [path.with_suffix("") for path in sorted(root.rglob("*.txt"))]
    stems = [stem for stem in stems if not stem.name.endswith(COPIES) and _is_triple(stem)]
    labels = blank_rare([stem.relative_to(root).parts[0] for stem in stems])
    kept = [(stem, label) for stem, label in zip(stems, labels, strict=True) if label]
    return LabelledCorpus(
        {
            "image": [_picture(stem).read_bytes() for stem, _ in kept],
            "text": [_read_sentence(stem) for stem, _ in kept],
            "audio": [_speech(stem).read_bytes() for stem, _ in kept],
        },
        [label for _, label in kept],
    )


def _is_triple(stem: Path) -> bool:
    return _picture(stem).exists() and _speech(stem).exists()


def _picture(stem: Path) -> Path:
    return stem.with_name(f"{stem.name}.png")


def _speech(stem: Path) -> Path:
    return stem.with_name(f"{stem.name}_desc_fr.ogg")


def _read_sentence(stem: Path) -> str:
    """Return the first line of the text; the others are translations."""
    return stem.with_name(f"{stem.name}.txt").read_text(encoding="utf-8").splitlines()[0]
