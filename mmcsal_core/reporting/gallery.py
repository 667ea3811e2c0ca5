"""The selected pairs as cards: small pictures, texts and sounds inside the page, or the reason why there is none.

Pictures are decoded and encoded again, so nothing of an uploaded file but its pixels reaches the page. Sounds go in as
they are, if small. Everything else is plain text, which the page escapes.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from PIL import Image

from mmcsal_core.corpus.decode_image import decode_image, open_image
from mmcsal_core.corpus.decode_video import decode_video
from mmcsal_core.corpus.modality import ModalityConfig
from mmcsal_core.corpus.references import read_contents
from mmcsal_core.corpus.reject import RejectPair
from mmcsal_core.errors import MmcsalError
from mmcsal_core.schema import ALIGNMENT, PAIR_ID, SUSPICION, uri_column

MAX_AUDIO_BYTES = 200_000
"""Larger sounds are named, not played."""

MAX_TEXT_CHARS = 600
"""Longer texts are cut in the gallery."""

AUDIO_TYPES = {b"RIFF": "audio/wav", b"OggS": "audio/ogg", b"fLaC": "audio/flac", b"ID3": "audio/mpeg"}
"""First bytes of a sound file -> its MIME type."""


@dataclass(frozen=True)
class Panel:
    """One modality of a card: a picture, a sound, a text, or a `problem` with the place of the content."""

    modality: str
    kind: str
    picture: str | None = None
    sound: str | None = None
    text: str | None = None
    problem: str | None = None
    uri: str | None = None


@dataclass(frozen=True)
class Card:
    """One selected pair as the gallery shows it."""

    pair_id: str
    rank: int
    gain: float
    alignment: float
    suspicion: float
    cluster_weight: int
    panels: tuple[Panel, ...]
    metadata: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class GalleryView:
    """How content is shown: modalities in order, columns of metadata, a picture's longer side in pixels."""

    modalities: Mapping[str, ModalityConfig]
    metadata: Sequence[str]
    thumbnail_px: int


def make_cards(
    selection: pa.Table, pairs: pa.Table, view: GalleryView, source_options: Mapping[str, Any]
) -> list[Card]:
    """Return one card a selected pair; content that cannot be read becomes a reason on its card, never an error.

    Args:
        selection: the picks to show, in order.
        pairs: their rows of pairs/, in the same order.
        view: what is shown and how.
        source_options: storage options of the source.
    """
    panels = [
        _make_panels(pairs, name, modality, view.thumbnail_px, source_options)
        for name, modality in view.modalities.items()
    ]
    return [
        Card(
            pair_id=row[PAIR_ID],
            rank=row["rank"],
            gain=row["gain"],
            alignment=row[ALIGNMENT],
            suspicion=row[SUSPICION],
            cluster_weight=row["cluster_weight"],
            panels=tuple(column[position] for column in panels),
            metadata=tuple((name, _shorten(str(row[name]))) for name in view.metadata if row[name] is not None),
        )
        for position, row in enumerate(selection.to_pylist())
    ]


def _make_panels(
    pairs: pa.Table, name: str, modality: ModalityConfig, thumbnail_px: int, source_options: Mapping[str, Any]
) -> list[Panel]:
    column = uri_column(name)
    uris = pairs[column].to_pylist() if column in pairs.column_names else [None] * pairs.num_rows
    contents = read_contents(pairs, name, modality, source_options)
    kind = modality.resolved_kind
    return [
        Panel(modality=name, kind=kind, uri=uri, **_show_content(content, modality, thumbnail_px))
        for content, uri in zip(contents, uris, strict=True)
    ]


def _show_content(content: Any, modality: ModalityConfig, thumbnail_px: int) -> dict[str, str]:
    if isinstance(content, RejectPair):
        return {"problem": str(content)}
    kind = modality.resolved_kind
    if kind in PICTURE_DECODERS:
        try:
            return {"picture": encode_picture(PICTURE_DECODERS[kind](content, modality, thumbnail_px))}
        except MmcsalError as error:
            return {"problem": str(error)}
    if kind == "audio":
        return _show_sound(content)
    if kind == "vector":
        return {"text": f"a vector of {len(content)} numbers"}
    text = content.decode(errors="replace") if isinstance(content, bytes) else content
    return {"text": _shorten(text)}


def _decode_thumbnail(content: bytes, modality: ModalityConfig, longer_side: int) -> npt.NDArray[np.uint8]:
    square = decode_image(content, longer_side, modality.max_pixels)
    with open_image(content) as image:
        width, height = image.size
        if image.getexif().get(0x0112, 1) >= 5:
            width, height = height, width
    scale = longer_side / max(width, height)
    shape = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(Image.fromarray(square).resize(shape, Image.Resampling.LANCZOS))


def _decode_first_frame(content: bytes, modality: ModalityConfig, side: int) -> npt.NDArray[np.uint8]:
    frames = decode_video(content, modality.model_copy(update={"image_size": side, "num_frames": 1}))
    first: npt.NDArray[np.uint8] = frames[0]
    return first


PICTURE_DECODERS = {"image": _decode_thumbnail, "video": _decode_first_frame}


def encode_picture(pixels: npt.NDArray[np.uint8]) -> str:
    """Return an RGB picture (height, width, 3) as a `data:` URI, JPEG, the same bytes for the same pixels."""
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, format="JPEG", quality=88, subsampling=0)
    return _to_data_uri("image/jpeg", sink.getvalue())


def _show_sound(content: bytes) -> dict[str, str]:
    if len(content) > MAX_AUDIO_BYTES:
        return {
            "problem": f"{len(content) / 1000:.0f} kB of sound; the page holds at most {MAX_AUDIO_BYTES // 1000} kB"
        }
    kind = next((kind for start, kind in AUDIO_TYPES.items() if content.startswith(start)), "audio/mpeg")
    return {"sound": _to_data_uri(kind, content)}


def _to_data_uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def _shorten(text: str) -> str:
    return text if len(text) <= MAX_TEXT_CHARS else text[: MAX_TEXT_CHARS - 1] + "…"
