import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmcsal_core.artifacts import Artifact, Plan, plan_ranges
from mmcsal_core.corpus.decode_audio import decode_audio
from mmcsal_core.corpus.decode_chunk import ChunkDecoder
from mmcsal_core.corpus.decode_image import decode_image
from mmcsal_core.corpus.modality import ModalityConfig, resolve_modality
from mmcsal_core.corpus.pair_id import find_duplicate_rows, hash_pair_id, hash_pair_ids
from mmcsal_core.corpus.references import read_contents
from mmcsal_core.corpus.sources import SourceConfig, list_source, stage_tables
from mmcsal_core.corpus.sources.pairs import PairReader
from mmcsal_core.errors import GateError
from mmcsal_core.schema import ROW
from mmcsal_core.storage import Store
from pipelines import ingest
from pipelines.ingest import STAGE, IdWorker, PairWorker, ingest_pairs
from pipelines.ingest_config import IngestConfig
from pipelines.stage_run import Resources, StageProgress, StageRun
from tests.encoded_media import encode_wav
from tests.finished_run import encode_png
from tests.pipelines.ingested_source import ingest_source
from tests.s3_server import REGION

Configs = dict[str, dict[str, Any]]

CONTENT: Configs = {"image": {"column": "image"}, "text": {"column": "text"}}
URIS: Configs = {"image": {"uri_column": "path"}, "text": {"column": "text"}}
FOLDER: Configs = {"image": {}, "text": {}}


def _modalities(configs: Configs) -> dict[str, ModalityConfig]:
    return {name: resolve_modality(name, ModalityConfig(**config)) for name, config in configs.items()}


def _source(kind: str, url: Path | str, **more: Any) -> SourceConfig:
    return SourceConfig.model_validate({"kind": kind, "url": str(url), **more})


def _reader(source: SourceConfig, configs: Configs, staging: Path, **more: Any) -> PairReader:
    modalities, options = _modalities(configs), more.pop("options", {})
    listing = stage_tables(list_source(source, modalities, options), Store(str(staging)))
    return PairReader(listing, modalities, options, **more)


def _publish(reader: PairReader, run: Path, rows_per_shard: int = 256) -> tuple[pa.Table, pa.Table]:
    """Run every shard of the stage in this process; return pairs and rejects."""
    out = Artifact(Store(str(run)), "pairs", STAGE)
    num_pairs = reader.listing.num_pairs
    plan = out.begin("f", lambda: plan_ranges(num_pairs, rows_per_shard))
    worker = PairWorker(reader, find_duplicate_rows(hash_pair_ids(reader.read_ids(0, num_pairs))), out, plan)
    for shard in plan.shards:
        worker.run_shard(shard)
    manifest = out.finish(plan)
    assert manifest.pairs_in == num_pairs == manifest.pairs_out + manifest.pairs_rejected
    return out.read_table(), Store(str(run)).read_table("rejects/data/ingest.parquet")


def _write_content(folder: Path) -> tuple[SourceConfig, Configs]:
    table = pa.table(
        {
            "id": [f"p{i}" for i in range(6)],
            "image": [f"image {i}".encode() for i in range(6)],
            "text": [f"text {i}" for i in range(6)],
        }
    )
    (folder / "data").mkdir(parents=True)
    pq.write_table(table.slice(0, 4), folder / "data" / "a.parquet")
    pq.write_table(table.slice(4), folder / "data" / "b.parquet")
    return _source("parquet", folder / "data", pair_id_column="id"), CONTENT


def _write_images(folder: Path) -> None:
    folder.mkdir(parents=True)
    for i in range(6):
        (folder / f"p{i}.png").write_bytes(f"image {i}".encode())


def _write_uris(folder: Path) -> tuple[SourceConfig, Configs]:
    _write_images(folder / "images")
    columns = {"path": [f"images/p{i}.png" for i in range(6)], "text": [f"text {i}" for i in range(6)]}
    pq.write_table(pa.table({"id": [f"p{i}" for i in range(6)], **columns}), folder / "a.parquet")
    return _source("parquet", folder / "a.parquet", pair_id_column="id"), URIS


def _write_parquet_manifest(folder: Path) -> tuple[SourceConfig, Configs]:
    source, configs = _write_uris(folder)
    return source.model_copy(update={"kind": "manifest"}), configs


def _write_csv(folder: Path) -> tuple[SourceConfig, Configs]:
    _write_images(folder / "images")
    lines = [f"p{i},../lists/../images/p{i}.png,text {i}\n" for i in range(6)]
    (folder / "lists").mkdir()
    (folder / "lists" / "m.csv").write_text("id,path,text\n" + "".join(lines))
    return _source("manifest", folder / "lists" / "m.csv", pair_id_column="id"), URIS


def _write_jsonl(folder: Path) -> tuple[SourceConfig, Configs]:
    _write_images(folder / "images")
    rows = [{"id": f"p{i}", "path": str(folder / "images" / f"p{i}.png"), "text": f"text {i}"} for i in range(6)]
    (folder / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return _source("manifest", folder, pair_id_column="id"), URIS


def _write_folder(folder: Path) -> tuple[SourceConfig, Configs]:
    _write_images(folder)
    for i in range(6):
        (folder / f"p{i}.txt").write_text(f"text {i}")
    return _source("folder", folder, pair_id_column="stem"), FOLDER


@pytest.mark.parametrize(
    "write", [_write_content, _write_uris, _write_parquet_manifest, _write_csv, _write_jsonl, _write_folder]
)
@pytest.mark.parametrize("with_bytes", [False, True])
def test_every_layout_gives_the_same_pairs(
    tmp_path: Path, write: Callable[[Path], tuple[SourceConfig, Configs]], with_bytes: bool
) -> None:
    source, configs = write(tmp_path / "source")
    reader = _reader(source, configs, tmp_path / "staging", with_bytes=with_bytes)
    pairs, rejects = _publish(reader, tmp_path / "run")
    assert pairs["pair_id"].to_pylist() == [f"p{i}" for i in range(6)]
    assert rejects.num_rows == 0
    assert ("image_bytes" in pairs.column_names) == with_bytes
    images = read_contents(pairs, "image", reader.modalities["image"], {})
    assert images == [f"image {i}".encode() for i in range(6)]
    texts = read_contents(pairs, "text", reader.modalities["text"], {})
    in_files = source.kind == "folder"
    assert texts == [f"text {i}".encode() if in_files else f"text {i}" for i in range(6)]


def test_columns_stand_in_the_order_of_the_contract(tmp_path: Path) -> None:
    source, configs = _write_content(tmp_path / "source")
    pairs, _ = _publish(_reader(source, configs, tmp_path / "s", with_bytes=True), tmp_path / "run")
    assert pairs.column_names == ["pair_id", "source", "source_row", "content_key", "image_uri", "image_bytes", "text"]
    assert pairs["source"].to_pylist() == ["a.parquet"] * 4 + ["b.parquet"] * 2
    assert pairs["source_row"].to_pylist() == [0, 1, 2, 3, 0, 1]
    assert pairs["image_uri"][4].as_py() == f"{tmp_path}/source/data/b.parquet#column=image&row=0"
    assert pairs.schema.field("image_bytes").type == pa.large_binary()


@pytest.mark.parametrize("with_bytes", [False, True])
@pytest.mark.parametrize(
    ("name", "contents", "config", "decode"),
    [
        (
            "audio",
            [encode_wav(np.full((4_000, 1), level), 8_000) for level in (0.25, 0.5)],
            {"sample_rate": 8_000, "window_s": 0.5},
            lambda data: decode_audio(data, 8_000, 0.5),
        ),
        (
            "image",
            [encode_png(color, (32, 32)) for color in ((200, 20, 20), (20, 20, 200))],
            {"image_size": 32},
            lambda data: decode_image(data, 32, 10_000),
        ),
    ],
    ids=["audio", "image"],
)
def test_contents_are_read_as_hugging_face_stores_them(
    tmp_path: Path,
    name: str,
    contents: list[bytes],
    config: dict[str, Any],
    decode: Callable[[bytes], Any],
    with_bytes: bool,
) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "b").write_bytes(contents[1])
    schema = pa.schema(
        [("text", pa.string()), (name, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))],
        {"huggingface": json.dumps({"info": {"features": {name: {"_type": name.capitalize()}}}})},
    )
    cells = [{"bytes": contents[0], "path": "a"}, {"bytes": None, "path": "files/b"}]
    rows = [{"text": f"row {i}", name: cell} for i, cell in enumerate(cells)]
    pq.write_table(pa.Table.from_pylist(rows, schema), tmp_path / "a.parquet")
    configs: Configs = {name: {"column": name, **config}, "text": {"column": "text"}}
    source = _source("parquet", tmp_path / "a.parquet")
    ingested = ingest_source(source, configs, tmp_path / "run", with_bytes=with_bytes)
    pairs = ingested.pairs.read_table()
    decoder = ChunkDecoder(ingested.modalities)
    chunk, rejects = decoder.decode_chunk(pairs.add_column(0, ROW, pa.array([0, 1], pa.int64())), "features")
    assert rejects.num_rows == 0
    np.testing.assert_array_equal(decoder.unpack(name, chunk), [decode(content) for content in contents])


def _reject_content(folder: Path) -> None:
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    image = [{"bytes": b"x", "path": None}] * 6 + [None, {"bytes": None, "path": None}, {"bytes": None, "path": "b"}]
    table = pa.table(
        {
            "id": ["a", "b", "a", None, " ", "c", "d", "e", "f"],
            "image": pa.array(image, struct),
            "text": ["t", " \t\n", "", "t", "t", None, "t", "t", "t"],
        }
    )
    pq.write_table(table, folder / "a.parquet", row_group_size=4)


def _reject_uris(folder: Path) -> None:
    (folder / "there.png").write_bytes(b"x")
    (folder / "folder.png").mkdir()
    rows = ["path,text", "there.png,t", ",t", '"  ",t', "absent.png,t", "folder.png,t", "nosuch://a/b,t"]
    (folder / "m.csv").write_text("\n".join(rows) + "\n")


def _reject_files(folder: Path) -> None:
    for name in ["a.png", "a.txt", "b.png", "c.txt", "d.png", "d.jpg", "d.txt"]:
        (folder / name).write_bytes(b"x")


@pytest.mark.parametrize(
    ("write", "source", "configs", "with_bytes", "kept", "expected"),
    [
        (
            _reject_content,
            {"kind": "parquet", "pair_id_column": "id"},
            CONTENT,
            False,
            ["a", "f"],
            [
                (1, "text", "empty_text"),
                (2, None, "duplicate_id"),
                (3, None, "missing_id"),
                (4, None, "missing_id"),
                (5, "text", "missing_modality"),
                (6, "image", "missing_modality"),
                (7, "image", "missing_modality"),
            ],
        ),
        (
            _reject_uris,
            {"kind": "manifest"},
            URIS,
            False,
            [hash_pair_id("m.csv", str(row)) for row in (0, 3, 4, 5)],
            [(1, "image", "missing_modality"), (2, "image", "missing_modality")],
        ),
        (
            _reject_uris,
            {"kind": "manifest"},
            URIS,
            True,
            [hash_pair_id("m.csv", "0")],
            [
                (1, "image", "missing_modality"),
                (2, "image", "missing_modality"),
                (3, "image", "missing_file"),
                (4, "image", "unreadable_file"),
                (5, "image", "unreadable_file"),
            ],
        ),
        (
            _reject_files,
            {"kind": "folder"},
            FOLDER,
            False,
            [hash_pair_id(".", "a")],
            [(1, "text", "missing_modality"), (2, "image", "missing_modality"), (3, "image", "ambiguous_file")],
        ),
    ],
)
def test_unusable_rows_are_rejected_with_their_reason(
    tmp_path: Path,
    write: Callable[[Path], None],
    source: dict[str, Any],
    configs: Configs,
    with_bytes: bool,
    kept: list[str],
    expected: list[tuple[int, str | None, str]],
) -> None:
    folder = tmp_path / "source"
    folder.mkdir()
    write(folder)
    url = folder / "m.csv" if source["kind"] == "manifest" else folder
    reader = _reader(_source(**source, url=url), configs, tmp_path / "staging", with_bytes=with_bytes)
    pairs, rejects = _publish(reader, tmp_path / "run")
    assert pairs["pair_id"].to_pylist() == kept
    rows = rejects.to_pylist()
    assert [(row["source_row"], row["modality"], row["reason"]) for row in rows] == expected
    assert all(row["stage"] == STAGE and row["message"] and row["source"] for row in rows)
    assert all((row["pair_id"] is None) == (row["reason"] == "missing_id") for row in rows)


def test_metadata_passes_through_unchanged(tmp_path: Path) -> None:
    kinds = {
        "label": pa.array(["b", None, "b"]).dictionary_encode(),
        "score": pa.array([0.1, None, float("inf")], pa.float32()),
        "when": pa.array([1, 2, None], pa.timestamp("us", tz="UTC")),
        "tags": pa.array([["x"], [], None], pa.large_list(pa.string())),
        "box": pa.array([{"x": 1}, None, {"x": None}], pa.struct([("x", pa.int16())])),
        "blob": pa.array([b"\0", b"", None]),
    }
    fields = [pa.field(name, array.type, metadata={"comment": f"the {name}"}) for name, array in kinds.items()]
    schema = pa.schema([pa.field("image", pa.binary()), pa.field("text", pa.string()), *fields])
    table = pa.table({"image": [b"1", b"2", b"3"], "text": ["a", "b", "c"], **kinds}, schema=schema)
    pq.write_table(table, tmp_path / "a.parquet")
    source = _source("parquet", tmp_path / "a.parquet")
    pairs, _ = _publish(_reader(source, CONTENT, tmp_path / "s"), tmp_path / "run")
    expected = pq.read_table(tmp_path / "a.parquet").select(list(kinds))
    assert pairs.select(list(kinds)).equals(expected)
    for name in kinds:
        assert pairs.schema.field(name).equals(expected.schema.field(name), check_metadata=True)
    chosen = _source("parquet", tmp_path / "a.parquet", metadata_columns=("score",))
    pairs, _ = _publish(_reader(chosen, CONTENT, tmp_path / "s"), tmp_path / "other")
    assert pairs.column_names == ["pair_id", "source", "source_row", "content_key", "image_uri", "text", "score"]


def _write_many(folder: Path, num_pairs: int) -> SourceConfig:
    ids = [f"p{i % (num_pairs - 50)}" for i in range(num_pairs)]
    texts = ["" if i % 97 == 3 else f"text {i}" for i in range(num_pairs)]
    table = pa.table({"id": ids, "image": [str(i).encode() for i in range(num_pairs)], "text": texts})
    folder.mkdir()
    pq.write_table(table.slice(0, 333), folder / "a.parquet", row_group_size=100)
    pq.write_table(table.slice(333), folder / "b.parquet", row_group_size=300)
    return _source("parquet", folder, pair_id_column="id")


def test_the_size_of_shards_changes_nothing(tmp_path: Path) -> None:
    reader = _reader(_write_many(tmp_path / "source", 1100), CONTENT, tmp_path / "staging")
    first, first_rejects = _publish(reader, tmp_path / "1", 2000)
    for rows_per_shard in (256, 512):
        pairs, rejects = _publish(reader, tmp_path / str(rows_per_shard), rows_per_shard)
        assert pairs.equals(first)
        assert rejects.equals(first_rejects)
    assert first_rejects["reason"].to_pylist().count("duplicate_id") == 50


def test_ids_from_places_survive_a_move(tmp_path: Path) -> None:
    source, configs = _write_content(tmp_path / "here")
    (tmp_path / "there").mkdir()
    positional = source.model_copy(update={"pair_id_column": None, "metadata_columns": ()})
    before = _reader(positional, configs, tmp_path / "s").read_ids(0, 6)
    (tmp_path / "here" / "data").rename(tmp_path / "there" / "moved")
    moved = positional.model_copy(update={"url": str(tmp_path / "there" / "moved")})
    assert _reader(moved, configs, tmp_path / "s").read_ids(0, 6).equals(before)
    assert before[4].as_py() == hash_pair_id("b.parquet", "0")


def test_content_columns_are_not_read_for_references(tmp_path: Path) -> None:
    table = pa.table({"image": [bytes([i]) * 4000 for i in range(200)], "text": [f"text {i}" for i in range(200)]})
    path = tmp_path / "a.parquet"
    pq.write_table(table, path, compression="none", use_dictionary=False)
    chunk = pq.read_metadata(path).row_group(0).column(0)
    data = bytearray(path.read_bytes())
    end = chunk.data_page_offset + chunk.total_compressed_size
    data[chunk.data_page_offset : end] = b"\xff" * (end - chunk.data_page_offset)
    path.write_bytes(data)
    pairs, _ = _publish(_reader(_source("parquet", path), CONTENT, tmp_path / "s"), tmp_path / "run")
    assert pairs.num_rows == 200


def test_hashed_ids_of_shards_are_those_of_the_whole(tmp_path: Path) -> None:
    reader = _reader(_write_many(tmp_path / "source", 600), CONTENT, tmp_path / "staging")
    plan = Plan(stage=STAGE, fingerprint="f", shards=tuple(plan_ranges(600, 256)))
    ids = Store(str(tmp_path / "ids"))
    worker = IdWorker(reader, ids, plan)
    for shard in plan.shards:
        worker.run_shard(shard)
    whole = hash_pair_ids(reader.read_ids(0, 600))
    assert pa.concat_tables(ids.read_table(name) for name in ids.list_files())["hash"].combine_chunks().equals(whole)


def _stage_run(folder: Path, **more: Any) -> StageRun:
    out = Artifact(Store(str(folder)), "pairs", STAGE)
    return StageRun(out, "f", **{"resources": Resources(rows_per_shard=256), **more})


def test_stage_publishes_and_resumes_through_ray(
    ray_session: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, modalities = _write_many(tmp_path / "source", 1100), _modalities(CONTENT)
    expected, rejects = _publish(_reader(source, CONTENT, tmp_path / "s"), tmp_path / "bare")
    monkeypatch.setattr(ingest, "MAX_DRIVER_PAIRS", 0)
    told: list[StageProgress] = []
    resources = Resources(rows_per_shard=256, num_actors=2, cpus_per_actor=0.5, max_driver_pairs=0)
    opened = list[str]()
    more = {"resources": resources, "on_progress": told.append, "open_ray": lambda: opened.append("Ray")}
    run = _stage_run(tmp_path / "run", **more)

    def publish() -> None:
        manifest = ingest_pairs(source=source, source_options={}, modalities=modalities, config=IngestConfig(), run=run)
        assert (manifest.pairs_in, manifest.pairs_rejected) == (1100, rejects.num_rows)
        assert run.out.read_table().equals(expected)
        assert not [name for name in run.out.store.list_files() if name.startswith(("_ids", "_listing"))]

    publish()
    assert {progress.unit for progress in told} == {"shards of ids", "shards"}
    assert opened == ["Ray", "Ray"]
    run.out.store.remove("_SUCCESS")
    monkeypatch.setattr(ingest, "MAX_DRIVER_PAIRS", 1_000_000)
    markers = [name for name in run.out.store.list_files() if name.startswith("_shards/")]
    run.out.store.remove(markers[2])
    told.clear()
    publish()
    assert [progress.total for progress in told] == [1]


@pytest.mark.parametrize(("store", "is_asked_for"), [("references", False), ("bytes", True)])
def test_few_tables_are_read_by_the_driver_and_contents_by_actors(
    tmp_path: Path, store: Literal["references", "bytes"], is_asked_for: bool
) -> None:
    class RayAskedForError(Exception):
        pass

    def ask_for_ray() -> None:
        raise RayAskedForError

    source, configs = _write_content(tmp_path / "source")
    run = _stage_run(tmp_path / "run", resources=Resources(num_actors=2), open_ray=ask_for_ray)
    with pytest.raises(RayAskedForError) if is_asked_for else nullcontext():
        ingest_pairs(
            source=source,
            source_options={},
            modalities=_modalities(configs),
            config=IngestConfig(store=store),
            run=run,
        )
    assert run.out.is_complete("f") != is_asked_for


def test_nothing_left_is_a_gate(ray_session: None, tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("path,text\na.png,\nb.png,\n")
    with pytest.raises(GateError, match="missing_modality 2"):
        ingest_pairs(
            source=_source("manifest", tmp_path / "m.csv"),
            source_options={},
            modalities=_modalities(URIS),
            config=IngestConfig(),
            run=_stage_run(tmp_path / "run"),
        )
    assert not (tmp_path / "run" / "pairs" / "_SUCCESS").exists()


def test_parquet_and_manifest_in_an_object_store(tmp_path: Path, s3_endpoint: str) -> None:
    import s3fs

    options = {"endpoint_url": s3_endpoint}
    store = s3fs.S3FileSystem(**options)
    store.mkdir("ingest", region_name=REGION)
    source, configs = _write_content(tmp_path / "source")
    store.put(str(tmp_path / "source" / "data"), "ingest/corpus", recursive=True)
    remote = source.model_copy(update={"url": "s3://ingest/corpus"})
    pairs, _ = _publish(_reader(remote, configs, tmp_path / "s", options=options), tmp_path / "1")
    assert pairs["source"].to_pylist() == ["a.parquet"] * 4 + ["b.parquet"] * 2
    contents = read_contents(pairs, "image", _modalities(configs)["image"], options)
    assert contents == [f"image {i}".encode() for i in range(6)]
    store.pipe_file("ingest/list/images/1.png", b"one")
    store.pipe_file("ingest/list/m.csv", b"path,text\nimages/1.png,one\n")
    manifest = _source("manifest", "s3://ingest/list/m.csv")
    reader = _reader(manifest, URIS, tmp_path / "s", options=options, with_bytes=True)
    pairs, _ = _publish(reader, tmp_path / "2")
    assert pairs["image_uri"].to_pylist() == ["s3://ingest/list/images/1.png"]
    assert pairs["image_bytes"].to_pylist() == [b"one"]
    first = list_source(manifest, _modalities(URIS), options).fingerprint
    store.pipe_file("ingest/list/m.csv", b"path,text\nimages/1.png,two\n")
    assert list_source(manifest, _modalities(URIS), options).fingerprint != first


def test_how_a_reader_is_shown_leaves_its_options_out(tmp_path: Path) -> None:
    options = {"s3": {"secret": "planted"}}
    reader = _reader(*_write_content(tmp_path), tmp_path / "staging", options=options)
    assert reader.options == options
    assert "planted" not in repr(reader)
