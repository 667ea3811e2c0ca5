"""Encoded content of one modality in, what its backbone takes out, or a named reason why the pair is rejected.

    kind     content                          decoded
    image    encoded bytes                    uint8 (H, W, 3), H = W = image_size
    text     str or UTF-8 bytes               str of at most max_chars
    audio    encoded bytes, a film's too      float32 (samples,), samples = round(window_s * sample_rate)
    video    encoded bytes                    uint8 (F, H, W, 3), F = num_frames, H = W = image_size
    vector   sequence of numbers              float32 (dim,)

Every pair of a modality decodes to the same shape, so that pairs batch without padding. The normalisation that a
backbone wants (means, scales) is not done here: it belongs to the backbone.
"""

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from mmcsal_core.corpus.decode_audio import decode_audio
from mmcsal_core.corpus.decode_image import decode_image
from mmcsal_core.corpus.decode_video import decode_video
from mmcsal_core.corpus.modality import ModalityConfig
from mmcsal_core.corpus.reject import RejectPair

Content: TypeAlias = bytes | str | Sequence[float] | npt.NDArray[Any]
"""What a reader hands over: encoded bytes, a text, or the numbers of a vector."""

Decoded: TypeAlias = str | npt.NDArray[Any]
"""What a backbone takes, for one pair."""


def decode_content(content: Content, modality: ModalityConfig, vector_dim: int | None = None) -> Decoded:
    """Decode one pair's content of one modality.

    Args:
        content: what the reader found.
        modality: a resolved modality.
        vector_dim: length that a vector must have, any length where None; other kinds ignore it.

    Raises:
        RejectPair: the content cannot be used; `reason` says why.
        ConfigError: the kind needs a package that is not installed.
    """
    kind = modality.resolved_kind
    if kind == "text":
        return decode_text(content, modality.max_chars)
    if kind == "vector":
        return decode_vector(content, vector_dim)
    if not isinstance(content, bytes):
        raise RejectPair(
            f"unreadable_{kind}",
            f"{kind} content must be encoded bytes, got {type(content).__name__}; use uri_column for paths and URLs",
        )
    if kind == "image":
        return decode_image(content, modality.image_size, modality.max_pixels)
    if kind == "audio":
        return decode_audio(content, modality.sample_rate, modality.window_s, modality.window)
    return decode_video(content, modality)


def decode_text(content: Content, max_chars: int) -> str:
    """Return the text without NUL characters and outer white space, cut to `max_chars` characters.

    Raises:
        RejectPair: `not_utf8`, or `empty_text` where nothing but white space is left.
    """
    if isinstance(content, bytes):
        try:
            content = content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise RejectPair(
                "not_utf8", f"text must be UTF-8, got byte {content[error.start]:#04x} at {error.start}; convert it"
            ) from error
    if not isinstance(content, str):
        raise RejectPair("not_text", f"text must be a string, got {type(content).__name__}; check the column")
    text = content.replace("\x00", "").strip()[:max_chars]
    if not text:
        raise RejectPair(
            "empty_text", f"text must hold more than white space, got {content[:20]!r}; fill it or drop the pair"
        )
    return text


def decode_vector(content: Content, dim: int | None = None) -> npt.NDArray[np.float32]:
    """Return a vector of finite numbers, not all zero, as float32 (dim,).

    Raises:
        RejectPair: `bad_vector`.
    """
    if isinstance(content, bytes | str):
        raise RejectPair(
            "bad_vector", f"a vector must be a list of numbers, got {type(content).__name__}; use a list column"
        )
    try:
        with np.errstate(over="ignore"):  # a number beyond float32 becomes infinite and is refused below
            vector = np.asarray(content, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise RejectPair("bad_vector", f"a vector must hold numbers only ({error}); check the column") from error
    if vector.ndim != 1 or vector.size == 0:
        raise RejectPair(
            "bad_vector", f"a vector must be a flat list of numbers, got shape {vector.shape}; check the column"
        )
    if dim is not None and vector.size != dim:
        raise RejectPair(
            "bad_vector",
            f"every vector must be as long as the first good one, {dim}, got {vector.size}; compute it again",
        )
    if not np.isfinite(vector).all() or not vector.any():
        found = "only zeros" if np.isfinite(vector).all() else "a number that is not finite in float32"
        raise RejectPair("bad_vector", f"a vector must be finite and not all zero, got {found}; compute it again")
    return vector


def decoded_shape(modality: ModalityConfig, vector_dim: int | None = None) -> tuple[int, ...]:
    """Return the shape of one pair's decoded content; () for a text."""
    kind, side = modality.resolved_kind, modality.image_size
    if kind == "image":
        return (side, side, 3)
    if kind == "video":
        return (modality.num_frames, side, side, 3)
    if kind == "audio":
        return (round(modality.window_s * modality.sample_rate),)
    return (vector_dim or 0,) if kind == "vector" else ()
