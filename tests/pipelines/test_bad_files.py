"""Bad files, in a folder and in an archive: each is a reject with a reason, and the good pair beside it goes on."""

import io
import os
import pickle
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import EpsImagePlugin, Image

from tests.encoded_media import encode_film, encode_image, encode_wav
from tests.pipelines.bad_corpora import (
    FILMS,
    FOLDER,
    GOOD,
    GOOD_IMAGE,
    GOOD_JPEG,
    GOOD_SOUND,
    SOUNDS,
    read_corpus,
    write_files,
)
from tests.pipelines.ingested_source import Configs
from tests.tar_files import write_tar


def _cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def _make_bomb() -> bytes:
    """Return a small PNG that claims to be 50 000 x 50 000."""
    content = bytearray(GOOD_IMAGE)
    content[16:24] = struct.pack(">II", 50_000, 50_000)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    return bytes(content)


def _with_rate(rate: int) -> bytes:
    content = bytearray(GOOD_SOUND)
    content[24:28] = struct.pack("<I", rate)
    return bytes(content)


def _float_wav(value: float) -> bytes:
    sink = io.BytesIO()
    soundfile.write(sink, np.full(4_000, value), 8_000, format="WAV", subtype="FLOAT")
    return sink.getvalue()


FILES: list[tuple[str, Configs, dict[str, bytes | None], str]] = [
    ("a PNG cut in half", FOLDER, {"image": _cut(encode_image(Image.effect_noise((99, 99), 9)))}, "unreadable_image"),
    ("a JPEG cut in half", FOLDER, {"image": _cut(GOOD_JPEG)}, "unreadable_image"),
    ("a picture of 0 bytes", FOLDER, {"image": b""}, "unreadable_image"),
    ("a text that is called .png", FOLDER, {"image": b"I am a text"}, "unreadable_image"),
    ("a sound that is called .png", FOLDER, {"image": GOOD_SOUND}, "unreadable_image"),
    ("HTML that is called .png", FOLDER, {"image": b"<html><script>alert(1)</script></html>"}, "unreadable_image"),
    ("an SVG that is called .png", FOLDER, {"image": b"<svg xmlns='http://www.w3.org/2000/svg'/>"}, "unreadable_image"),
    (
        "an EPS that is called .png",
        FOLDER,
        {"image": encode_image(Image.new("RGB", (20, 20)), "EPS")},
        "unreadable_image",
    ),
    ("a decompression bomb", FOLDER, {"image": _make_bomb()}, "too_many_pixels"),
    (
        "a picture of too many pixels",
        FOLDER,
        {"image": encode_image(Image.new("1", (1_001, 1_000)))},
        "too_many_pixels",
    ),
    ("a pickle that is called .png", FOLDER, {"image": pickle.dumps({"a": 1})}, "unreadable_image"),
    ("a pair without its picture", FOLDER, {"image": None}, "missing_modality"),
    ("a pair without its text", FOLDER, {"text": None}, "missing_modality"),
    ("a text of 0 bytes", FOLDER, {"text": b""}, "empty_text"),
    ("a text of white space", FOLDER, {"text": " \n\t\u00a0".encode()}, "empty_text"),
    ("a text of NUL", FOLDER, {"text": b"\0\0\0"}, "empty_text"),
    ("a text in Latin-1", FOLDER, {"text": "Größe".encode("latin-1")}, "not_utf8"),
    ("a text in UTF-16", FOLDER, {"text": "text".encode("utf-16")}, "not_utf8"),
    ("a picture that is called .txt", FOLDER, {"text": GOOD_IMAGE}, "not_utf8"),
    ("a sound of 0 bytes", SOUNDS, {"audio": b""}, "unreadable_audio"),
    ("a sound of 0 samples", SOUNDS, {"audio": encode_wav(np.zeros((0, 1)), 8_000)}, "empty_audio"),
    ("a silent sound", SOUNDS, {"audio": encode_wav(np.zeros((4_000, 1)), 8_000)}, "silent_audio"),
    ("a sound of NaN", SOUNDS, {"audio": _float_wav(np.nan)}, "unreadable_audio"),
    ("a sound of infinity", SOUNDS, {"audio": _float_wav(np.inf)}, "unreadable_audio"),
    ("a sound of 0 samples a second", SOUNDS, {"audio": _with_rate(0)}, "unreadable_audio"),
    ("a sound of 1 sample a second", SOUNDS, {"audio": _with_rate(1)}, "unreadable_audio"),
    ("a sound of 2**31 - 1 samples a second", SOUNDS, {"audio": _with_rate(2**31 - 1)}, "unreadable_audio"),
    ("a sound of 2**32 - 1 samples a second", SOUNDS, {"audio": _with_rate(2**32 - 1)}, "unreadable_audio"),
    ("a sound that is cut in its header", SOUNDS, {"audio": GOOD_SOUND[:20]}, "unreadable_audio"),
    ("a text that is called .wav", SOUNDS, {"audio": b"I am a text"}, "unreadable_audio"),
    ("a film without pictures", FILMS, {"video": encode_film("mp4", pictures=False)}, "no_video_frames"),
    ("a film without sound", FILMS, {"video": encode_film("mp4", sound=False)}, "no_sound"),
    ("a film cut in half", FILMS, {"video": _cut(encode_film("mp4"))}, "unreadable_video"),
    ("a film of 0 bytes", FILMS, {"video": b""}, "unreadable_video"),
]


@pytest.mark.parametrize(
    ("modalities", "contents", "reason"), [row[1:] for row in FILES], ids=[row[0] for row in FILES]
)
@pytest.mark.parametrize("kind", ["folder", "webdataset"])
def test_a_bad_file_is_rejected(
    tmp_path: Path, kind: str, modalities: Configs, contents: dict[str, bytes | None], reason: str
) -> None:
    good = {"video": encode_film("mp4")} if modalities is FILMS else {name: GOOD[name] for name in modalities}
    folder = tmp_path / "source"
    write_files(folder, "bad", **{**good, **contents})
    write_files(folder, "good", **good)
    if kind == "webdataset":
        members = [(path.name, path.read_bytes()) for path in sorted(folder.iterdir())]
        folder = write_tar(tmp_path / "source.tar", members)
    source = {"kind": kind, "url": str(folder), "pair_id_column": "stem"}
    assert read_corpus(source, modalities, tmp_path / "work") == (["good"], {"bad": reason})


class _Canary:
    """Unpickling it creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self.path, "w")


def test_a_pickle_is_never_opened(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    poison = pickle.dumps(_Canary(canary))
    write_files(tmp_path / "source", "bad", image=poison, text=b"t")
    write_files(tmp_path / "source", "good", image=GOOD_IMAGE, text=b"t")
    (tmp_path / "source" / "good.pkl").write_bytes(poison)
    source = {"kind": "folder", "url": str(tmp_path / "source"), "pair_id_column": "stem"}
    assert read_corpus(source, FOLDER, tmp_path / "work") == (["good"], {"bad": "unreadable_image"})
    members = [(path.name, path.read_bytes()) for path in sorted((tmp_path / "source").iterdir())]
    archive = write_tar(tmp_path / "a.tar", members)
    source = {"kind": "webdataset", "url": str(archive), "pair_id_column": "stem"}
    assert read_corpus(source, FOLDER, tmp_path / "tar") == (["good"], {"bad": "unreadable_image"})
    assert not canary.exists()


def test_no_program_is_run_for_a_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trace, gs = tmp_path / "trace", tmp_path / "bin" / "gs"
    gs.parent.mkdir()
    gs.write_text(f"#!/bin/sh\ntouch {trace}\n")
    gs.chmod(0o755)
    monkeypatch.setenv("PATH", f"{gs.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)  # where Pillow remembers whether there is a Ghostscript
    write_files(tmp_path / "source", "bad", image=encode_image(Image.new("RGB", (20, 20)), "EPS"), text=b"t")
    write_files(tmp_path / "source", "good", image=GOOD_IMAGE, text=b"t")
    source = {"kind": "folder", "url": str(tmp_path / "source"), "pair_id_column": "stem"}
    assert read_corpus(source, FOLDER, tmp_path / "work") == (["good"], {"bad": "unreadable_image"})
    assert not trace.exists()
