"""Pictures, sounds and films, encoded on the spot."""

import io
import struct
import wave
from typing import Any

import numpy as np
from PIL import Image


def encode_image(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    sink = io.BytesIO()
    image.save(sink, form, **options)
    return sink.getvalue()


def encode_wav(samples: np.ndarray, rate: int) -> bytes:
    sink = io.BytesIO()
    with wave.open(sink, "wb") as sound:
        sound.setnchannels(samples.shape[1])
        sound.setsampwidth(2)
        sound.setframerate(rate)
        sound.writeframes((samples * 32_767).astype("<i2").tobytes())
    return sink.getvalue()


def encode_turned_video(degrees: int) -> bytes:
    """Encode a frame whose upper half is white, which a player turns counterclockwise by so many degrees."""
    import av

    sink = io.BytesIO()
    with av.open(sink, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        picture = np.repeat(np.array([255, 0], np.uint8), 16 * 48 * 3).reshape(32, 48, 3)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    content, (cos, sin) = sink.getvalue(), {0: (1, 0), 90: (0, -1), 180: (-1, 0), -90: (0, 1)}[degrees]
    start = content.index(b"tkhd") + 44  # where the header of the track has its matrix
    matrix = struct.pack(">9i", cos << 16, sin << 16, 0, -sin << 16, cos << 16, 0, 0, 0, 1 << 30)
    return content[:start] + matrix + content[start + len(matrix) :]


def encode_video(num_frames: int) -> bytes:
    import av

    sink = io.BytesIO()
    with av.open(sink, "w", format="matroska") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        for i in range(num_frames):
            picture = np.full((32, 48, 3), 255 * i // max(1, num_frames - 1), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return sink.getvalue()


def encode_film(suffix: str, num_seconds: float = 1.0, pictures: bool = True, sound: bool = True) -> bytes:
    """Encode frames that grow brighter, 10 a second, and a tone of 440 Hz that grows louder."""
    import av

    sink, codecs = io.BytesIO(), {"mp4": ("mpeg4", "aac"), "webm": ("libvpx", "libopus")}[suffix]
    with av.open(sink, "w", format=suffix) as container:
        film = container.add_stream(codecs[0], rate=10) if pictures else None
        track = container.add_stream(codecs[1], rate=48_000, layout="mono") if sound else None
        if film is not None:
            film.width, film.height, film.pix_fmt, film.gop_size = 48, 32, "yuv420p", 5
            for i in range(round(10 * num_seconds)):
                picture = np.add.outer(np.arange(32), np.arange(48))[..., None].repeat(3, 2).astype(np.uint8) + 10 * i
                container.mux(film.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(film.encode(None))
        if track is not None:
            time_s = np.arange(round(48_000 * num_seconds)) / 48_000
            tone = (0.9 * time_s / num_seconds * np.sin(2 * np.pi * 440 * time_s)).astype(np.float32)
            for start in range(0, len(tone), 960):
                frame = av.AudioFrame.from_ndarray(tone[None, start : start + 960], format="fltp", layout="mono")
                frame.sample_rate, frame.pts = 48_000, start
                container.mux(track.encode(frame))
            container.mux(track.encode(None))
    return sink.getvalue()
