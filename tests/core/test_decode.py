"""Decoding turns good content into one shape a modality, and names the reason where it cannot."""

import io
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image

from mmcsal_core.corpus.decode import decode_content, decode_text, decode_vector, decoded_shape
from mmcsal_core.corpus.decode_audio import decode_audio
from mmcsal_core.corpus.decode_image import FORMATS, decode_image
from mmcsal_core.corpus.modality import ModalityConfig, resolve_modality
from mmcsal_core.corpus.reject import RejectPair
from tests.encoded_media import encode_film, encode_image, encode_turned_video, encode_video, encode_wav

SIZE = 32
PIXELS = 1_000_000


def reason_of(content: Any, modality: ModalityConfig) -> str:
    with pytest.raises(RejectPair) as caught:
        decode_content(content, modality)
    assert caught.value.message.count(";") >= 1, "a message says what to do after a semicolon"
    assert " at 0x" not in caught.value.message, "equal runs give equal messages, so no memory address is in one"
    return caught.value.reason


IMAGE = resolve_modality("image", ModalityConfig(image_size=SIZE, max_pixels=PIXELS))
TEXT = resolve_modality("text", ModalityConfig(max_chars=5))
AUDIO = resolve_modality("audio", ModalityConfig(sample_rate=8_000, window_s=0.5))
VIDEO = resolve_modality("video", ModalityConfig(image_size=SIZE, num_frames=4))
VECTOR = resolve_modality("vector", ModalityConfig(column="v"))


@pytest.mark.parametrize(
    ("mode", "form", "color", "expected"),
    [
        ("RGB", "PNG", (10, 20, 30), (10, 20, 30)),
        ("L", "PNG", 77, (77, 77, 77)),
        ("1", "PNG", 1, (255, 255, 255)),
        ("RGBA", "PNG", (255, 0, 0, 0), (255, 255, 255)),
        ("LA", "PNG", (0, 0), (255, 255, 255)),
        ("I;16", "PNG", 257 * 200, (200, 200, 200)),
        ("CMYK", "TIFF", (0, 0, 0, 255), (0, 0, 0)),
        ("CMYK", "JPEG", (0, 255, 255, 0), (255, 0, 0)),
        ("RGB", "WEBP", (128, 128, 128), (128, 128, 128)),
        ("RGBA", "WEBP", (255, 0, 0, 0), (255, 255, 255)),
    ],
)
def test_every_mode_becomes_rgb_on_white(mode: str, form: str, color: Any, expected: tuple[int, ...]) -> None:
    decoded = decode_image(encode_image(Image.new(mode, (40, 20), color), form), SIZE, PIXELS)
    assert decoded.shape == (SIZE, SIZE, 3)
    assert decoded.dtype == np.uint8
    assert tuple(decoded[5, 5]) == expected


@pytest.mark.parametrize("form", [*FORMATS, "MPO"])  # MPO: a JPEG of many pictures, as cameras write it
def test_every_format_of_picture_is_read(form: str) -> None:
    decoded = decode_image(encode_image(Image.new("RGB", (40, 20), (200, 100, 50)), form), SIZE, PIXELS)
    assert np.abs(decoded.astype(int) - [200, 100, 50]).max() <= 6


def test_a_palette_image_with_transparency_is_composited_on_white() -> None:
    image = Image.new("P", (8, 8), 0)
    image.putpalette([0, 0, 0, 255, 0, 0])
    assert tuple(decode_image(encode_image(image, transparency=0), SIZE, PIXELS)[0, 0]) == (255, 255, 255)


@pytest.mark.parametrize(("form", "options"), [("GIF", {}), ("WEBP", {"lossless": True}), ("PNG", {})])
def test_the_first_frame_of_an_animation_is_taken(form: str, options: dict[str, Any]) -> None:
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    content = encode_image(frames[0], form, save_all=True, append_images=frames[1:], **options)
    with Image.open(io.BytesIO(content)) as image:
        assert getattr(image, "n_frames", 1) == 2
    assert tuple(decode_image(content, SIZE, PIXELS)[0, 0]) == (255, 0, 0)


def test_exif_rotation_is_applied() -> None:
    image = Image.new("RGB", (SIZE, SIZE), "black")
    image.paste("white", (0, 0, SIZE, SIZE // 2))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn right by a quarter
    decoded = decode_image(encode_image(image, "JPEG", exif=exif, quality=95), SIZE, PIXELS)
    assert decoded[:, -4:].mean() > 240
    assert decoded[:, :4].mean() < 15


def test_a_large_jpeg_is_decoded_as_a_full_decode_would() -> None:
    ramp = np.linspace(0, 255, 640).astype(np.uint8)
    image = Image.fromarray(np.stack([np.tile(ramp, (480, 1))] * 3, axis=-1))
    content = encode_image(image, "JPEG", quality=95)
    full = np.asarray(Image.open(io.BytesIO(content)).resize((SIZE, SIZE), Image.Resampling.BICUBIC))
    assert np.abs(decode_image(content, SIZE, PIXELS).astype(int) - full).max() <= 4


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 0.6])
def test_a_truncated_image_is_unreadable_never_a_crash(form: str, share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    content = encode_image(Image.fromarray(noise), form)
    assert reason_of(content[: int(share * len(content))], IMAGE) == "unreadable_image"


def test_mutilated_images_are_decoded_or_rejected() -> None:
    rng = np.random.default_rng(1)
    good = np.frombuffer(encode_image(Image.fromarray(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8))), np.uint8)
    for _ in range(300):
        broken = good.copy()
        broken[rng.integers(0, len(broken), 3)] = rng.integers(0, 255, 3)
        try:
            assert decode_image(broken.tobytes(), SIZE, PIXELS).shape == (SIZE, SIZE, 3)
        except RejectPair as reject:
            assert reject.reason in ("unreadable_image", "too_many_pixels")  # noqa: PT017


def test_too_many_pixels_are_refused_before_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    content = encode_image(Image.new("1", (1_001, 1_000)))
    assert reason_of(content, IMAGE) == "too_many_pixels"
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1_000)  # Pillow's own limit raises
    assert reason_of(content, IMAGE) == "too_many_pixels"


def test_a_path_is_not_taken_for_content() -> None:
    assert reason_of("picture.png", IMAGE) == "unreadable_image"


def test_text_is_stripped_and_cut() -> None:
    assert decode_text("  a\x00b c d e ", 5) == "ab c "
    assert decode_text("\ufeffgrün".encode(), 10) == "grün"


@pytest.mark.parametrize(
    ("content", "reason"),
    [("", "empty_text"), (" \n\t\x00", "empty_text"), (b"\xff\xfea", "not_utf8"), ([1.0], "not_text")],
)
def test_text_that_cannot_be_used_is_named(content: Any, reason: str) -> None:
    assert reason_of(content, TEXT) == reason


def test_audio_is_mono_resampled_and_padded() -> None:
    time_s = np.arange(4_000) / 16_000
    tone = np.stack([np.sin(2 * np.pi * 440 * time_s), np.zeros_like(time_s)], axis=1)
    decoded = decode_audio(encode_wav(tone, 16_000), 8_000, 0.5)
    assert decoded.shape == decoded_shape(AUDIO) == (4_000,)
    assert decoded.dtype == np.float32
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(2_000) / 8_000)
    assert np.abs(decoded[100:1_900] - expected[100:1_900]).max() < 0.01
    assert not decoded[2_000:].any()


def test_audio_is_cut_at_the_window() -> None:
    ramp = np.linspace(0, 1, 16_000)[:, None]
    assert np.allclose(decode_audio(encode_wav(ramp, 8_000), 8_000, 0.5), ramp[:4_000, 0], atol=1e-4)


def test_audio_that_cannot_be_used_is_named() -> None:
    assert reason_of(b"no sound", AUDIO) == "unreadable_audio"
    assert reason_of(b"", AUDIO) == "unreadable_audio"
    assert reason_of(encode_wav(np.zeros((0, 1)), 8_000), AUDIO) == "empty_audio"


@pytest.mark.parametrize(("rate", "is_read"), [(99, False), (100, True), (10_000_000, True), (10_000_001, False)])
def test_a_sample_rate_that_no_sound_has_is_named(rate: int, is_read: bool) -> None:
    content = encode_wav(np.full((100_000, 1), 0.5), rate)
    if is_read:
        assert np.abs(decode_audio(content, 8_000, 0.01)).max() > 0.4
    else:
        assert reason_of(content, AUDIO) == "unreadable_audio"


@pytest.mark.parametrize(
    ("form", "subtype"),
    [
        ("WAV", "PCM_24"),
        ("WAV", "FLOAT"),
        ("FLAC", None),
        ("OGG", "VORBIS"),
        ("OGG", "OPUS"),
        ("MP3", None),
        ("AIFF", None),
    ],
)
def test_every_format_of_sound_is_read(form: str, subtype: str | None) -> None:
    sink, time_s = io.BytesIO(), np.arange(48_000) / 48_000
    stereo = np.stack([np.sin(2 * np.pi * 440 * time_s), np.zeros_like(time_s)], axis=1)
    soundfile.write(sink, stereo, 48_000, format=form, subtype=subtype)
    decoded = decode_audio(sink.getvalue(), 8_000, 0.5)
    spectrum = np.abs(np.fft.rfft(decoded))
    assert np.fft.rfftfreq(4_000, 1 / 8_000)[spectrum.argmax()] == 440
    assert np.abs(decoded).mean() == pytest.approx(0.5 * 2 / np.pi, rel=0.05)


def test_silence_is_named() -> None:
    assert reason_of(encode_wav(np.zeros((8_000, 1)), 8_000), AUDIO) == "silent_audio"
    late = np.concatenate([np.zeros((8_000, 1)), np.full((8_000, 1), 0.5)])
    assert reason_of(encode_wav(late, 8_000), AUDIO) == "silent_audio"
    assert isinstance(
        decode_content(encode_wav(late, 8_000), AUDIO.model_copy(update={"window": "middle"})), np.ndarray
    )


def test_a_window_lies_where_it_is_asked_for() -> None:
    ramp = np.linspace(0.1, 1, 16_000)[:, None]
    content = encode_wav(ramp, 8_000)
    assert np.allclose(decode_audio(content, 8_000, 0.5, "middle"), ramp[6_000:10_000, 0], atol=1e-4)
    sampled = decode_audio(content, 8_000, 0.5, "sampled")
    start = int(np.abs(ramp[:, 0] - sampled[0]).argmin())
    assert np.allclose(sampled, ramp[start : start + 4_000, 0], atol=1e-3)
    assert np.array_equal(sampled, decode_audio(content, 8_000, 0.5, "sampled"))
    others = [decode_audio(encode_wav(ramp * share, 8_000), 8_000, 0.5, "sampled") / share for share in (0.9, 0.8, 0.7)]
    assert len({round(float(other[0]), 2) for other in [sampled, *others]}) > 1
    short = encode_wav(ramp[:100], 8_000)
    assert all(decode_audio(short, 8_000, 0.5, window)[:100].all() for window in ("start", "middle", "sampled"))


@pytest.mark.parametrize("suffix", ["mp4", "webm"])
def test_the_sound_of_a_film_is_read(suffix: str) -> None:
    content = encode_film(suffix)
    start, middle = (decode_audio(content, 8_000, 0.25, window) for window in ("start", "middle"))
    assert start.shape == middle.shape == (2_000,)
    for part, loudness in ((start, 0.9 * 0.125), (middle, 0.9 * 0.5)):
        assert np.abs(part).mean() == pytest.approx(loudness * 2 / np.pi, rel=0.15)
        spectrum = np.abs(np.fft.rfft(part))
        assert abs(np.fft.rfftfreq(len(part), 1 / 8_000)[spectrum.argmax()] - 440) < 8
    assert isinstance(decode_content(content, VIDEO), np.ndarray)


@pytest.mark.parametrize("suffix", ["mp4", "webm"])
def test_a_film_without_sound_or_pictures_is_named(suffix: str) -> None:
    assert reason_of(encode_film(suffix, sound=False), AUDIO) == "no_sound"
    assert reason_of(encode_film(suffix, pictures=False), VIDEO) == "no_video_frames"
    assert reason_of(encode_film(suffix)[:40], AUDIO) == "unreadable_audio"


def test_key_frames_are_chosen_where_they_are_asked_for() -> None:
    key = VIDEO.model_copy(update={"frame_choice": "key", "num_frames": 2})
    content = encode_film("mp4", sound=False)
    decoded = decode_content(content, key)
    assert isinstance(decoded, np.ndarray)
    darkest = 15.5 + 23.5
    assert np.allclose(
        decoded.mean(axis=(1, 2, 3)), [darkest, darkest + 50], atol=3
    )  # of ten frames the first and sixth
    even = decode_content(content, VIDEO.model_copy(update={"num_frames": 2}))
    assert isinstance(even, np.ndarray)
    assert np.allclose(even.mean(axis=(1, 2, 3)), [darkest + 20, darkest + 70], atol=3)


def test_video_frames_are_evenly_spaced() -> None:
    decoded = decode_content(encode_video(20), VIDEO)
    assert isinstance(decoded, np.ndarray)
    assert decoded.shape == decoded_shape(VIDEO) == (4, SIZE, SIZE, 3)
    expected = [255 * i / 19 for i in (2, 7, 12, 17)]
    assert np.allclose(decoded.mean(axis=(1, 2, 3)), expected, atol=6)


@pytest.mark.parametrize(
    ("degrees", "white"), [(0, np.s_[:4]), (90, np.s_[:, :4]), (180, np.s_[-4:]), (-90, np.s_[:, -4:])]
)
def test_frames_are_turned_upright(degrees: int, white: Any) -> None:
    frame = np.asarray(decode_content(encode_turned_video(degrees), VIDEO))[0]
    assert (frame[white] > 200).all()
    assert frame.mean() < 140


def test_a_short_video_repeats_frames() -> None:
    decoded = decode_content(encode_video(2), VIDEO)
    assert isinstance(decoded, np.ndarray)
    means = decoded.mean(axis=(1, 2, 3))
    assert np.allclose(means, [0, 0, 255, 255], atol=6)


def test_video_that_cannot_be_used_is_named() -> None:
    content = encode_video(4)
    assert reason_of(content[: len(content) // 4], VIDEO) in ("unreadable_video", "no_video_frames")
    assert reason_of(b"no video", VIDEO) == "unreadable_video"
    assert reason_of(encode_wav(np.zeros((800, 1)), 8_000), VIDEO) == "no_video_frames"
    assert reason_of(content, VIDEO.model_copy(update={"max_pixels": 100})) == "too_many_pixels"


@pytest.mark.parametrize("large", [2, 3], ids=["a frame that is passed over", "a frame that is picked"])
def test_a_film_of_one_large_frame_is_refused(large: int) -> None:
    sizes = [(480, 320) if i == large else (48, 32) for i in range(8)]
    content = b"".join(encode_image(Image.new("RGB", size), "JPEG") for size in sizes)  # MJPEG without a container
    assert isinstance(decode_content(content, VIDEO), np.ndarray)
    with pytest.raises(RejectPair, match="may have 153599 pixels, got 480 x 320") as caught:
        decode_content(content, VIDEO.model_copy(update={"max_pixels": 480 * 320 - 1}))
    assert caught.value.reason == "too_many_pixels"


@pytest.mark.parametrize(
    "content", [[], [1.0, None], ["a"], [[1.0], [2.0]], [0.0, 0.0], [float("nan")], [1e300], "1,2", b"12", 3.0]
)
def test_a_bad_vector_is_refused(content: Any) -> None:
    assert reason_of(content, VECTOR) == "bad_vector"


def test_a_vector_of_another_length_names_both_lengths() -> None:
    assert decode_vector([1, 2], 2).dtype == np.float32
    with pytest.raises(RejectPair, match=r"2, got 3"):
        decode_vector([1.0, 2.0, 3.0], 2)
