"""Emoji in three drawing styles: OpenMoji of the demo, and the art of Twitter and of Google.

- OpenMoji (CC BY-SA 4.0): the demo's own corpus, a 128-px drawing and the Unicode name.
- Twitter (CC-BY 4.0) and Google (Apache-2.0): 32-px drawings cut from the sheets of the npm package emoji-datasource;
  the text is the CLDR name and its tags, out of the npm package emojibase-data (MIT).

Labels are the nine categories of Unicode, sub-labels its sub-categories. "Component", the skin tone swatches and hair
styles, is none of the nine and left out.
"""

import io
import json
from pathlib import Path
from typing import Any, Literal

import pyarrow.parquet as pq
from PIL import Image

from jobs.demo import COMPONENT, build_corpus
from tests.evidence.downloads import fetch_npm
from tests.evidence.labelled_corpus import LabelledCorpus, blank_rare

Style = Literal["twitter", "google"]

DRAWING_PX = 32
CELL_PX = DRAWING_PX + 2
"""A drawing has a margin of one pixel on each side."""


def load_openmoji(cache: Path) -> LabelledCorpus:
    """Draw the demo's corpus, with the sub-categories of emoji-datasource."""
    folder = cache / "openmoji"
    folder.mkdir(parents=True, exist_ok=True)
    rows = pq.read_table(build_corpus(folder)).to_pylist()
    rows = [row for row in rows if row["category"] != COMPONENT]
    subcategories = {emoji["unified"]: emoji["subcategory"] for emoji in _read_datasource(cache)}
    return LabelledCorpus(
        {"image": [row["image"] for row in rows], "text": [row["text"] for row in rows]},
        [row["category"] for row in rows],
        blank_rare([subcategories.get(row["code"], "") for row in rows]),
    )


def load_emoji_style(style: Style, cache: Path) -> LabelledCorpus:
    """Cut the drawings of one style, and join them with names and tags by code point."""
    sheet = Image.open(_datasource(cache) / "img" / style / "sheets" / f"{DRAWING_PX}.png").convert("RGBA")
    texts = _read_texts(cache)
    emojis = [emoji for emoji in _read_datasource(cache) if emoji[f"has_img_{style}"]]
    emojis = [emoji for emoji in emojis if emoji["category"] != COMPONENT and _strip(emoji["unified"]) in texts]
    return LabelledCorpus(
        {
            "image": [_cut(sheet, emoji["sheet_x"], emoji["sheet_y"]) for emoji in emojis],
            "text": [texts[_strip(emoji["unified"])] for emoji in emojis],
        },
        [emoji["category"] for emoji in emojis],
        blank_rare([emoji["subcategory"] for emoji in emojis]),
    )


def _datasource(cache: Path) -> Path:
    return fetch_npm("emoji-datasource", "16.0.0", cache)


def _read_datasource(cache: Path) -> list[dict[str, Any]]:
    emojis: list[dict[str, Any]] = json.loads((_datasource(cache) / "emoji.json").read_text(encoding="utf-8"))
    return emojis


def _read_texts(cache: Path) -> dict[str, str]:
    """Return name and tags by code points without the variation selector, which the two packages do not agree on."""
    path = fetch_npm("emojibase-data", "17.0.0", cache) / "en" / "data.json"
    emojis = json.loads(path.read_text(encoding="utf-8"))
    return {_strip(emoji["hexcode"]): ", ".join([emoji["label"], *emoji.get("tags", [])]) for emoji in emojis}


def _strip(code: str) -> str:
    return "-".join(part for part in code.upper().split("-") if part != "FE0F")


def _cut(sheet: Image.Image, column: int, row: int) -> bytes:
    left, top = column * CELL_PX + 1, row * CELL_PX + 1
    drawing = io.BytesIO()
    sheet.crop((left, top, left + DRAWING_PX, top + DRAWING_PX)).save(drawing, "PNG")
    return drawing.getvalue()
