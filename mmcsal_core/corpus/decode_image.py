"""An encoded image in, a square RGB array out.

EXIF rotation is applied, transparency is composited on white, 16-bit grey is scaled to 8 bits, of an animation the
first frame is taken. The whole image is resized to the square, so its aspect ratio is lost but nothing of it; cropping
the centre would lose the subject of many drawings. A JPEG much larger than the square is decoded at a reduced scale,
never below twice the square, which is several times faster and changes pixels by less than resizing does.
"""

import io
import struct
import warnings
import zlib

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from mmcsal_core.corpus.reject import RejectPair

_DECODER_ERRORS = (
    OSError,
    SyntaxError,  # what Pillow raises for a broken PNG
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    OverflowError,
    NotImplementedError,
    struct.error,
    zlib.error,
)
"""What Pillow's decoders raise on broken files."""

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF", "ICO")
"""Formats that are read, as Pillow names them; of others it hands EPS to Ghostscript, and opens whatever IPTC holds."""


def decode_image(content: bytes, size: int, max_pixels: int) -> npt.NDArray[np.uint8]:
    """Decode an image and resize it to a square, bicubic with antialiasing.

    Args:
        content: the encoded image, in one of `FORMATS`.
        size: side of the result in pixels.
        max_pixels: largest width x height that is decoded at all.

    Returns:
        uint8 (size, size, 3), RGB.

    Raises:
        RejectPair: `unreadable_image` or `too_many_pixels`.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of odd files; what it cannot read, it raises for
            with open_image(content) as image:
                check_pixels(image.width, image.height, max_pixels)
                image.draft("RGB", (2 * size, 2 * size))
                return resize_square(_to_rgb(ImageOps.exif_transpose(image)), size)
    except Image.DecompressionBombError as error:
        raise RejectPair(
            "too_many_pixels", f"an image may not be a decompression bomb ({error}); shrink it or drop the pair"
        ) from error
    except UnidentifiedImageError as error:  # its own message holds a memory address
        raise RejectPair(
            "unreadable_image",
            f"an image must be one of {', '.join(FORMATS)}, got {len(content)} bytes that are not; convert it",
        ) from error
    except _DECODER_ERRORS as error:
        raise RejectPair(
            "unreadable_image",
            f"an image must be readable by Pillow, got {len(content)} bytes that are not ({error}); mend the file",
        ) from error


def open_image(content: bytes) -> Image.Image:
    """Open an image of one of `FORMATS`, without decoding it; no program is run for it."""
    Image.init()
    known = [name for name in FORMATS if name in Image.OPEN]  # AVIF since Pillow 11.3
    return Image.open(io.BytesIO(content), formats=known)


def check_pixels(width: int, height: int, max_pixels: int) -> None:
    """Refuse a picture of more than `max_pixels` pixels.

    Raises:
        RejectPair: `too_many_pixels`.
    """
    if width * height > max_pixels:
        raise RejectPair(
            "too_many_pixels",
            f"a picture may have {max_pixels} pixels, got {width} x {height}; shrink it or raise max_pixels",
        )


def resize_square(image: Image.Image, size: int) -> npt.NDArray[np.uint8]:
    """Resize an RGB image to uint8 (size, size, 3), bicubic; an image of that size stays as it is."""
    return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC), dtype=np.uint8)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        grey = np.asarray(image).astype(np.int64).clip(0, 65_535) // 257
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        paper = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(paper, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")
