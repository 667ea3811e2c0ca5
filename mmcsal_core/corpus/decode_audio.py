"""Encoded sound in, a mono window of fixed length out.

The window is resampled, and zero-padded at the end where the sound is shorter. By default it is the start of a clip,
where a labelled sound event or a spoken word mostly lies. `middle` suits films; `sampled` takes a place that hangs on
the content alone, so that it is the same in every run and whatever the order of the pairs.

What libsndfile does not read, the sound track of a film above all, is read through PyAV where that is installed.
"""

import hashlib
import io
import math
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from mmcsal_core.corpus.films import import_av, is_film
from mmcsal_core.corpus.reject import RejectPair

Window: TypeAlias = Literal["start", "middle", "sampled"]
"""Where in a longer clip the window lies."""

Wave: TypeAlias = npt.NDArray[np.float32]

MAX_TRACK_S = 600
"""Seconds of a film's sound track that are looked at, the longest window that can be configured."""

SAMPLE_RATES = (100, 10_000_000)
"""Samples a second that a sound may have, from below those of heart beats to above those of ultrasound. Beyond them
the header lies: resampling would make a tone of a few samples, or silence of a loud sound."""


def decode_audio(content: bytes, sample_rate: int, window_s: float, window: Window = "start") -> Wave:
    """Decode sound to mono at `sample_rate`, cut or zero-padded at the end to `window_s` seconds.

    Args:
        content: the encoded sound, in any format that libsndfile reads (wav, flac, ogg, opus, mp3), or a film.
        sample_rate: samples per second of the result.
        window_s: length of the result in seconds.
        window: where it lies in a longer clip.

    Returns:
        float32 (round(window_s * sample_rate),), nominally in [-1, 1].

    Raises:
        RejectPair: `unreadable_audio`, `empty_audio`, `silent_audio` or `no_sound`.
        ConfigError: the content is a film, and PyAV is not installed.
    """
    wave, source_rate = _read_window(content, window_s, window)
    if not wave.size:
        raise RejectPair("empty_audio", "sound must have at least one sample, got 0; mend the file or drop the pair")
    if not np.isfinite(wave).all():
        raise RejectPair("unreadable_audio", "sound must have finite samples, got NaN or infinity; mend the file")
    if not wave.any():
        raise RejectPair(
            "silent_audio",
            f"sound must not be all zeros, got {len(wave)} samples of it at the {window}; mend the file, drop the "
            "pair or configure another window",
        )
    if source_rate != sample_rate:
        wave = soxr.resample(wave, source_rate, sample_rate)
    result = np.zeros(round(window_s * sample_rate), dtype=np.float32)
    length = min(len(result), len(wave))
    result[:length] = wave[:length]
    return result


def _read_window(content: bytes, window_s: float, window: Window) -> tuple[Wave, int]:
    try:
        with soundfile.SoundFile(io.BytesIO(content)) as sound:
            rate = _check_rate(int(sound.samplerate))
            wanted = math.ceil(window_s * rate)
            start = _find_start(content, sound.frames - wanted, window)
            if start:
                sound.seek(start)
            channels = sound.read(wanted, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        if is_film(content):
            return _read_track(content, window_s, window)
        raise RejectPair(
            "unreadable_audio",
            f"sound must be readable by libsndfile, got {len(content)} bytes that are not ({error.error_string}); "
            "convert it to wav, flac, ogg or mp3",
        ) from error
    return channels.mean(axis=1, dtype=np.float32), rate


def _check_rate(rate: int) -> int:
    if not SAMPLE_RATES[0] <= rate <= SAMPLE_RATES[1]:
        raise RejectPair(
            "unreadable_audio",
            f"sound must have {SAMPLE_RATES[0]} to {SAMPLE_RATES[1]} samples a second, got {rate}; mend its header",
        )
    return rate


def _find_start(content: bytes, num_spare: int, window: Window) -> int:
    """Return the first sample of the window, of `num_spare` more samples than it has."""
    if num_spare <= 0 or window == "start":
        return 0
    if window == "middle":
        return num_spare // 2
    return int.from_bytes(hashlib.sha256(content).digest()[:8], "big") % (num_spare + 1)


def _read_track(content: bytes, window_s: float, window: Window) -> tuple[Wave, int]:
    """Read the first sound track of a film, up to the end of the window or of what is looked at."""
    av = import_av("the sound of a film")
    try:
        with av.open(io.BytesIO(content), metadata_errors="ignore") as container:
            if not container.streams.audio:
                raise RejectPair("no_sound", "a film must have a sound track, got none; drop the pair")
            rate = _check_rate(int(container.streams.audio[0].rate or 0))
            length_s = window_s if window == "start" else MAX_TRACK_S
            wave = _decode_track(av, container, math.ceil(length_s * rate))
    except av.FFmpegError as error:
        raise RejectPair(
            "unreadable_audio",
            f"a sound track must be readable by FFmpeg, got {len(content)} bytes that are not ({error}); mend the file",
        ) from error
    wanted = math.ceil(window_s * rate)
    start = _find_start(content, len(wave) - wanted, window)
    return wave[start : start + wanted], rate


def _decode_track(av: Any, container: Any, num_samples: int) -> Wave:
    stream = container.streams.audio[0]
    stream.codec_context.thread_count = 1
    resampler = av.AudioResampler(format="flt", layout="mono")
    parts: list[Wave] = []
    length = 0
    for frame in container.decode(stream):
        for mono in resampler.resample(frame):
            parts.append(mono.to_ndarray()[0])
            length += len(parts[-1])
        if length >= num_samples:
            break
    return np.concatenate([np.empty(0, np.float32), *parts])[:num_samples]
