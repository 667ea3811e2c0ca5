"""An encoded video in, a few evenly spaced frames out, through PyAV (`pip install 'mmcsal[video]'`).

The packets are counted first and the middle frame of each of F equal parts is kept, so no trust is put in the length
that a header claims. `key` chooses among key frames alone, which is several times faster, since the frames between them
are not decoded. Seeking by time was not chosen: many files have no index or a wrong one, and frames near a seek
point differ between builds of FFmpeg. Frames are turned upright as the container says, since phones film sideways. The
sound is a modality of its own.
"""

import io
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from mmcsal_core.corpus.decode_image import check_pixels, resize_square
from mmcsal_core.corpus.films import import_av
from mmcsal_core.corpus.modality import ModalityConfig
from mmcsal_core.corpus.reject import RejectPair


def decode_video(content: bytes, modality: ModalityConfig) -> npt.NDArray[np.uint8]:
    """Decode `num_frames` evenly spaced frames, each resized to a square; a shorter video repeats frames.

    Returns:
        uint8 (num_frames, image_size, image_size, 3), RGB.

    Raises:
        RejectPair: `unreadable_video`, `no_video_frames` or `too_many_pixels`.
        ConfigError: PyAV is not installed.
    """
    av, only_key = import_av("a video modality"), modality.frame_choice == "key"
    try:
        num_packets = _count_packets(av, content, modality.max_pixels, only_key=only_key)
        wanted = _middle_frames(num_packets, modality.num_frames)
        frames = _pick_frames(av, content, wanted, modality)
    except av.FFmpegError as error:
        raise RejectPair(
            "unreadable_video",
            f"a video must be readable by FFmpeg, got {len(content)} bytes that are not ({error}); mend the file",
        ) from error
    if not frames:
        raise RejectPair("no_video_frames", "a video must have at least one frame, got 0; mend the file")
    last = len(frames) - 1
    return np.stack([frames[min(i, last)] for i in range(modality.num_frames)])


def _middle_frames(num_packets: int, num_frames: int) -> list[int]:
    return [(2 * i + 1) * num_packets // (2 * num_frames) for i in range(num_frames)]


def _count_packets(av: Any, content: bytes, max_pixels: int, *, only_key: bool) -> int:
    with av.open(io.BytesIO(content), metadata_errors="ignore") as container:
        stream = _video_stream(container)
        check_pixels(stream.width or 0, stream.height or 0, max_pixels)
        return sum(1 for packet in container.demux(stream) if packet.size and (packet.is_keyframe or not only_key))


def _pick_frames(av: Any, content: bytes, wanted: list[int], modality: ModalityConfig) -> list[npt.NDArray[np.uint8]]:
    picked: list[npt.NDArray[np.uint8]] = []
    with av.open(io.BytesIO(content), metadata_errors="ignore") as container:
        stream = _video_stream(container)
        stream.codec_context.thread_count = 1
        if modality.frame_choice == "key":
            stream.codec_context.skip_frame = "NONKEY"
        for index, frame in enumerate(container.decode(stream)):
            check_pixels(frame.width, frame.height, modality.max_pixels)  # a stream may change its size in the middle
            if index == wanted[len(picked)]:
                square = resize_square(Image.fromarray(frame.to_ndarray(format="rgb24")), modality.image_size)
                image = np.rot90(square, frame.rotation // 90)
                picked += [image] * wanted.count(index)
            if len(picked) == len(wanted):
                break
    return picked


def _video_stream(container: Any) -> Any:
    if not container.streams.video:
        raise RejectPair("no_video_frames", "a video must have a picture track, got none; use kind audio for sound")
    return container.streams.video[0]
