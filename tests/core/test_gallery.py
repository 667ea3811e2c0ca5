"""What the gallery of the report shows of a pair, and what it says where it cannot."""

import base64
import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import soundfile
from PIL import Image

from mmcsal_core.corpus.modality import ModalityConfig, resolve_modality
from mmcsal_core.reporting.gallery import MAX_AUDIO_BYTES, MAX_TEXT_CHARS, GalleryView, Panel, make_cards
from tests.finished_run import encode_png


def make_card_panels(tmp_path: Path, name: str, uris: list[str]) -> list[Panel]:
    modality = resolve_modality(name, ModalityConfig())
    ids = [f"p{row}" for row in range(len(uris))]
    pairs = pa.table({"pair_id": ids, f"{name}_uri": uris})
    ones = [1.0] * len(uris)
    selection = pa.table(
        {
            "pair_id": ids,
            "rank": range(len(uris)),
            "gain": ones,
            "alignment": ones,
            "suspicion": ones,
            "cluster_weight": [1] * len(uris),
        }
    )
    view = GalleryView({name: modality}, [], 64)
    return [card.panels[0] for card in make_cards(selection, pairs, view, {})]


def decode_picture(data_uri: str | None) -> Image.Image:
    assert data_uri is not None
    return Image.open(io.BytesIO(base64.b64decode(data_uri.partition(",")[2])))


def test_pictures_keep_their_shape_and_lose_their_metadata(tmp_path: Path) -> None:
    (tmp_path / "wide.png").write_bytes(encode_png((200, 20, 20), (400, 100)))
    turned = Image.new("RGB", (400, 100), "red")
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.jpg", exif=exif)
    wide, upright = make_card_panels(tmp_path, "image", [str(tmp_path / "wide.png"), str(tmp_path / "turned.jpg")])
    assert decode_picture(wide.picture).size == (64, 16)
    assert decode_picture(upright.picture).size == (16, 64)
    assert not decode_picture(upright.picture).getexif()


def test_content_that_cannot_be_shown_is_explained(tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"not a picture")
    uris = [str(tmp_path / "bad.png"), str(tmp_path / "gone.png")]
    for panel, uri in zip(make_card_panels(tmp_path, "image", uris), uris, strict=True):
        assert panel.picture is None
        assert panel.problem
        assert panel.uri == uri


def test_small_sounds_are_embedded_and_large_ones_named(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "small.wav", np.zeros(1000, np.float32), 8000)
    soundfile.write(tmp_path / "large.wav", np.zeros(MAX_AUDIO_BYTES, np.float32), 8000)
    small, large = make_card_panels(tmp_path, "audio", [str(tmp_path / "small.wav"), str(tmp_path / "large.wav")])
    assert small.sound is not None
    assert small.sound.startswith("data:audio/wav;base64,")
    assert large.sound is None
    assert "400 kB" in (large.problem or "")


def test_long_texts_are_cut(tmp_path: Path) -> None:
    (tmp_path / "long.txt").write_text("word " * 1000)
    (panel,) = make_card_panels(tmp_path, "text", [str(tmp_path / "long.txt")])
    assert len(panel.text or "") == MAX_TEXT_CHARS
