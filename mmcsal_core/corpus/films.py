"""Files with a picture and a sound track: what they look like, and the library that reads them."""

from typing import Any

from mmcsal_core.errors import ConfigError

_EBML = b"\x1a\x45\xdf\xa3"
"""The first bytes of webm and mkv."""


def is_film(content: bytes) -> bool:
    """Say whether content is of a format that holds pictures and sound: mp4 and mov, webm and mkv, avi."""
    is_riff = content[:4] == b"RIFF" and content[8:12] == b"AVI "
    return content[4:8] in (b"ftyp", b"moov", b"mdat") or content[:4] == _EBML or is_riff


def import_av(purpose: str) -> Any:
    """Import PyAV.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import av  # noqa: PLC0415  an extra of its own
    except ImportError as error:
        raise ConfigError(f"{purpose} needs PyAV, which is missing; pip install 'mmcsal[video]'") from error
    return av
