"""Encoded sound in, a mono window of fixed length out.

The first `window_s` seconds are used, resampled and zero-padded at the end; the start of a clip is where a labelled
sound event or a spoken word mostly lies, and a fixed window needs no length beside it.
"""

import io
import math

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from mmcsal_core.corpus.reject import RejectPair


def decode_audio(content: bytes, sample_rate: int, window_s: float) -> npt.NDArray[np.float32]:
    """Decode sound to mono at `sample_rate`, cut or zero-padded at the end to `window_s` seconds.

    Args:
        content: the encoded sound, in any format that libsndfile reads: wav, flac, ogg, opus, mp3.
        sample_rate: samples per second of the result.
        window_s: length of the result in seconds.

    Returns:
        float32 (round(window_s * sample_rate),), nominally in [-1, 1].

    Raises:
        RejectPair: `unreadable_audio` or `empty_audio`.
    """
    wave, source_rate = _read_mono(content, window_s)
    if not wave.size:
        raise RejectPair("empty_audio", "sound must have at least one sample, got 0; mend the file or drop the pair")
    if not np.isfinite(wave).all():
        raise RejectPair("unreadable_audio", "sound must have finite samples, got NaN or infinity; mend the file")
    if source_rate != sample_rate:
        wave = soxr.resample(wave, source_rate, sample_rate)
    window = np.zeros(round(window_s * sample_rate), dtype=np.float32)
    length = min(len(window), len(wave))
    window[:length] = wave[:length]
    return window


def _read_mono(content: bytes, window_s: float) -> tuple[npt.NDArray[np.float32], int]:
    try:
        with soundfile.SoundFile(io.BytesIO(content)) as sound:
            rate = int(sound.samplerate)
            channels = sound.read(math.ceil(window_s * rate), dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise RejectPair(
            "unreadable_audio",
            f"sound must be readable by libsndfile, got {len(content)} bytes that are not ({error.error_string}); "
            "convert it to wav, flac, ogg or mp3",
        ) from error
    return channels.mean(axis=1, dtype=np.float32), rate
