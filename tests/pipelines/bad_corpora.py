"""Corpora with one bad pair beside a good one, and what becomes of them: ingested, and decoded as for the features."""

import ctypes
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from mmcsal_core.corpus.decode_chunk import ChunkDecoder, find_vector_dim
from mmcsal_core.corpus.sources import SourceConfig
from mmcsal_core.schema import ROW
from tests.encoded_media import encode_image, encode_wav
from tests.pipelines.ingested_source import Configs, ingest_source

Source: TypeAlias = dict[str, Any]
"""The section `source` of a configuration."""

WriteSource: TypeAlias = Callable[[Path], Source]
"""Writes a corpus into a folder that is not there yet."""

Found: TypeAlias = dict[str | None, str]
"""Reasons of rejected pairs by id."""

_DAC_OVERRIDE = 1 << 1 | 1 << 2
"""Capabilities of Linux: reading and writing in spite of permissions, and searching folders in spite of them."""

GOOD_IMAGE = encode_image(Image.new("RGB", (20, 20), "red"))
GOOD_JPEG = encode_image(Image.effect_noise((200, 200), 50), "JPEG")
GOOD_SOUND = encode_wav(np.full((4_000, 1), 0.5), 8_000)
GOOD: dict[str, bytes] = {"image": GOOD_IMAGE, "text": b"a red square", "audio": GOOD_SOUND}
SUFFIX = {"image": ".png", "text": ".txt", "audio": ".wav", "video": ".mp4"}

FOLDER: Configs = {"image": {"image_size": 32, "max_pixels": 1_000_000}, "text": {}}
SOUNDS: Configs = {"audio": {"sample_rate": 8_000, "window_s": 0.5}, "text": {}}
FILMS: Configs = {"video": {"image_size": 32}, "audio": {"suffixes": (".mp4",)}}
VECTORS: Configs = {"image": {"column": "image", "image_size": 32}, "vector": {"column": "vector"}}
INLINE: Configs = {"image": {"column": "image", "image_size": 32}, "text": {"column": "text"}}
URIS: Configs = {"image": {"uri_column": "path", "image_size": 32}, "text": {"column": "text"}}


def read_corpus(
    source: Source, configs: Configs, work: Path, options: Mapping[str, Any] | None = None
) -> tuple[list[str], Found]:
    """Ingest and decode a corpus; return the ids that go on, and the reasons of the others by id."""
    ingested = ingest_source(SourceConfig.model_validate(source), configs, work, options=options)
    pairs, modalities = ingested.pairs.read_table(), ingested.modalities
    rejects, kept = [pq.read_table(work / "rejects" / "data" / "ingest.parquet")], []
    if pairs.num_rows:
        vectors = {name: each for name, each in modalities.items() if each.kind == "vector"}
        dims = {name: find_vector_dim(iter([pairs]), name, each, options or {}) for name, each in vectors.items()}
        numbered = pairs.add_column(0, ROW, pa.array(range(pairs.num_rows), pa.int64()))
        chunk, undecoded = ChunkDecoder(modalities, options or {}, dims).decode_chunk(numbered, "features")
        kept, rejects = chunk["pair_id"].to_pylist(), [*rejects, undecoded.drop_columns([ROW])]
    refused = pa.concat_tables(rejects)
    assert len(kept) + refused.num_rows == ingested.num_rows
    for message in refused["message"].to_pylist():
        assert ";" in message, "a message says what to do after a semicolon"
        assert " at 0x" not in message
    return kept, dict(zip(refused["pair_id"].to_pylist(), refused["reason"].to_pylist(), strict=True))


@contextmanager
def without_override() -> Iterator[None]:
    """Let what is forbidden to the owner of a file be forbidden to root too, in this thread, while the block runs."""
    libc = ctypes.CDLL(None)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # the layout of what follows, and this thread
    held = (ctypes.c_uint32 * 6)()  # effective, permitted and inheritable capabilities, then those above the 32nd
    assert libc.capget(header, held) == 0
    given_up = (ctypes.c_uint32 * 6)(held[0] & ~_DAC_OVERRIDE, *held[1:])
    assert libc.capset(header, given_up) == 0
    try:
        yield
    finally:
        assert libc.capset(header, held) == 0


def write_files(folder: Path, stem: str, **contents: bytes | None) -> None:
    """Write the files of one pair; a content of None is left out."""
    for name, content in contents.items():
        if content is not None:
            path = folder / f"{stem}{SUFFIX[name]}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


def write_rows(folder: Path, rows: list[dict[str, Any]], schema: pa.Schema | None = None) -> Source:
    """Write rows as one Parquet file."""
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema), folder / "a.parquet")
    return {"kind": "parquet", "url": str(folder / "a.parquet"), "pair_id_column": "id"}


def make_row(number: Any, **changes: Any) -> dict[str, Any]:
    """Make a good row of an inline source, but for `changes`."""
    return {"id": number, "image": GOOD_IMAGE, "text": "a red square", **changes}


def latin_column(column: str, by_dictionary: bool = False) -> WriteSource:
    """Write a column of text whose second value is in Latin-1."""

    def write(folder: Path) -> Source:
        folder.mkdir()
        latin = pa.array([b"good", "Größe".encode("latin-1")]).view(pa.string())
        columns = {"id": ["good", "bad"], "image": [GOOD_IMAGE] * 2, "text": ["a", "b"], "note": ["c", "d"]}
        values = pa.DictionaryArray.from_arrays(pa.array([0, 1]), latin) if by_dictionary else latin
        pq.write_table(pa.table({**columns, column: values}), folder / "a.parquet")
        return {"kind": "parquet", "url": str(folder), "pair_id_column": "id"}

    return write
