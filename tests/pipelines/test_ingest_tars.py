"""A source of tar archives through the ingest stage: indexed by workers, read by range, nothing lost silently."""

import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from mmcsal_core.artifacts import Artifact
from mmcsal_core.corpus.pair_id import hash_pair_id
from mmcsal_core.corpus.references import read_contents
from mmcsal_core.corpus.sources import SourceConfig, list_source
from mmcsal_core.corpus.sources.tars import BLOCK
from mmcsal_core.errors import ConfigError, DataError
from mmcsal_core.storage import Store
from pipelines.ingest import STAGE, ingest_pairs
from pipelines.ingest_config import INDEX, IngestConfig
from pipelines.stage_run import Resources, StageProgress, StageRun
from tests.fault_proxy import open_fault_proxy
from tests.pipelines.ingested_source import Configs, ingest_source, resolve_modalities
from tests.s3_server import REGION
from tests.tar_files import make_members, pack, write_tar

MODALITIES: Configs = {"image": {}, "text": {}}


def _source(url: Path | str, **more: Any) -> SourceConfig:
    return SourceConfig.model_validate({"kind": "webdataset", "url": str(url), **more})


def _publish(source: SourceConfig, folder: Path, configs: Configs = MODALITIES, **more: Any) -> Artifact:
    return ingest_source(source, configs, folder, **more).pairs


def _write_corpus(folder: Path) -> None:
    folder.mkdir()
    write_tar(folder / "a.tar", make_members(6))
    pack(write_tar(folder / "b.tar", make_members(4)), ".tar.gz")
    (folder / "b.tar").rename(folder / "c.tar")
    (folder / "a.parquet").write_bytes(b"of img2dataset, not looked at")
    (folder / "a_stats.json").write_text("{}")


def _check_corpus(pairs: pa.Table) -> None:
    names = ["a.tar"] * 6 + ["b.tar.gz"] * 4 + ["c.tar"] * 4
    stems = [f"d/{i:03d}" for count in (6, 4, 4) for i in range(count)]
    assert pairs["source"].to_pylist() == names
    assert pairs["stem"].to_pylist() == stems
    assert pairs["pair_id"].to_pylist() == [hash_pair_id(*each) for each in zip(names, stems, strict=True)]
    assert pairs["width"].to_pylist() == [*range(6), *range(4), *range(4)]
    for name, suffix in (("image", ".jpg"), ("text", ".txt")):
        expected = [data for count in (6, 4, 4) for member, data in make_members(count) if member.endswith(suffix)]
        assert read_contents(pairs, name, resolve_modalities(MODALITIES)[name], {}) == expected


@pytest.mark.parametrize("with_bytes", [False, True])
def test_every_sample_is_a_pair(tmp_path: Path, with_bytes: bool) -> None:
    _write_corpus(tmp_path / "source")
    source = _source(tmp_path / "source", metadata_columns=("stem", "width"))
    pairs = _publish(source, tmp_path / "run", with_bytes=with_bytes).read_table()
    assert ("image_bytes" in pairs.column_names) == with_bytes
    _check_corpus(pairs)


@pytest.mark.parametrize("num_actors", [1, 2])
def test_the_stage_indexes_every_archive_once(ray_session: None, tmp_path: Path, num_actors: int) -> None:
    _write_corpus(tmp_path / "source")
    source, modalities = (
        _source(tmp_path / "source", metadata_columns=("stem", "width")),
        resolve_modalities(MODALITIES),
    )
    out, told = Artifact(Store(str(tmp_path / "run")), "pairs", STAGE), list[StageProgress]()

    def ingest(fingerprint: str, out: Artifact = out, earlier: Store | None = None) -> pa.Table:
        run = StageRun(out, fingerprint, Resources(rows_per_shard=256, num_actors=num_actors), on_progress=told.append)
        ingest_pairs(
            source=source,
            source_options={},
            modalities=modalities,
            config=IngestConfig(),
            run=run,
            earlier_index=earlier,
        )
        return out.read_table()

    _check_corpus(ingest("f"))
    assert {(each.unit, each.total) for each in told} == {("archives", 3), ("shards", 1)}
    write_tar(tmp_path / "source" / "d.tar", make_members(2))
    told.clear()
    assert ingest("g").num_rows == 16
    assert {(each.unit, each.total) for each in told} == {("archives", 1), ("shards", 1)}
    write_tar(tmp_path / "source" / "e.tar", make_members(3))
    told.clear()
    later = Artifact(Store(str(tmp_path / "later")), "pairs", STAGE)
    assert ingest("f", later, out.run.child(INDEX)).num_rows == 19
    assert {(each.unit, each.total) for each in told} == {("archives", 1), ("shards", 1)}
    (tmp_path / "source" / "d.tar").write_bytes(b"no archive" * 200)
    with pytest.raises(Exception, match=r"d\.tar is not readable as a tar archive"):
        ingest("h")
    assert out.is_complete("g")


def test_a_text_may_stand_in_the_json_member_as_img2dataset_writes_it(tmp_path: Path) -> None:
    samples = [("1.jpg", b"one"), ("1.json", b'{"caption": "first", "url": "http://x"}'), ("2.jpg", b"two")]
    samples += [("2.json", b'{"caption": null}'), ("3.jpg", b"three"), ("3.json", b'{"caption": " "}'), ("4.jpg", b"4")]
    write_tar(tmp_path / "a.tar", samples)
    configs: Configs = {"image": {}, "text": {"column": "caption"}}
    out = _publish(_source(tmp_path / "a.tar", pair_id_column="stem", metadata_columns=("url",)), tmp_path, configs)
    assert out.read_table().select(["pair_id", "text", "url"]).to_pylist() == [
        {"pair_id": "1", "text": "first", "url": "http://x"}
    ]
    rejects = pq.read_table(tmp_path / "rejects" / "data" / "ingest.parquet")
    found = dict(zip(rejects["pair_id"].to_pylist(), rejects["reason"].to_pylist(), strict=True))
    assert found == {"2": "missing_modality", "3": "empty_text", "4": "missing_modality"}


def test_what_is_wrong_in_an_archive_is_rejected_by_name_and_the_rest_goes_on(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    whole = write_tar(tmp_path / "source" / "a.tar", make_members(8)).read_bytes()
    (tmp_path / "source" / "a.tar").write_bytes(whole[: len(whole) // 2])
    members = [
        ("1.jpg", b"x"),
        ("2.jpg", b"x"),
        ("2.txt", b"y"),
        ("2.png", b"z"),
        ("../3.jpg", b"x"),
        ("../3.txt", b"y"),
    ]
    write_tar(tmp_path / "source" / "b.tar", members)
    out = _publish(_source(tmp_path / "source"), tmp_path / "run")
    manifest = out.read_manifest()
    assert manifest.pairs_in == manifest.pairs_out + manifest.pairs_rejected
    reasons = dict(manifest.rejects_by_reason)
    assert reasons.pop("truncated_tar") == reasons.pop("unsafe_member") == reasons.pop("ambiguous_file") == 1
    assert reasons.pop("missing_modality") >= 1
    assert set(reasons) <= {"truncated_member"}
    rejects = pq.read_table(tmp_path / "run" / "rejects" / "data" / "ingest.parquet").to_pylist()
    assert all(";" in row["message"] and row["source"] in ("a.tar", "b.tar") for row in rejects)


def test_what_two_cut_archives_have_lost_is_told_of_both(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    whole = write_tar(tmp_path / "source" / "a.tar", make_members(8)).read_bytes()
    for name in ("a.tar", "b.tar"):
        (tmp_path / "source" / name).write_bytes(whole[: len(whole) // 2])
    out = _publish(_source(tmp_path / "source", pair_id_column="stem"), tmp_path / "run")
    assert out.read_manifest().rejects_by_reason["truncated_tar"] == 2


def test_keys_that_the_table_has_anyway_are_refused(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", make_members(1))
    for key in ("problem_reason", "image_files"):
        with pytest.raises(ConfigError, match=f"may not be called '{key}'"):
            list_source(_source(tmp_path, metadata_columns=(key,)), resolve_modalities(MODALITIES), {})


def test_before_they_are_indexed_pairs_are_estimated_from_the_first_archive(tmp_path: Path) -> None:
    _write_corpus(tmp_path / "source")
    listing = list_source(_source(tmp_path / "source"), resolve_modalities(MODALITIES), {})
    assert listing.files[0].num_rows == 6
    assert listing.is_estimated
    assert listing.num_pairs > 6


@pytest.mark.parametrize(
    ("configs", "words"),
    [
        ({"image": {"column": "picture"}, "text": {}}, "only a text stands in the .json member"),
        ({"image": {"uri_column": "url"}, "text": {}}, "holds no URIs"),
        ({"vector": {}, "text": {}}, "needs suffixes"),
        ({"image": {}, "other": {"kind": "image"}}, "a suffix belongs to one image modality"),
    ],
)
def test_modalities_that_cannot_stand_in_archives_are_refused(tmp_path: Path, configs: Configs, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        list_source(_source(tmp_path), resolve_modalities(configs), {})


def test_a_source_without_archives_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"")
    with pytest.raises(DataError, match=r"holds no file that ends in \.tar"):
        list_source(_source(tmp_path), resolve_modalities(MODALITIES), {})


def test_archives_in_an_object_store_are_read_by_range(tmp_path: Path, s3_endpoint: str) -> None:
    import s3fs

    options = {"endpoint_url": s3_endpoint}
    store = s3fs.S3FileSystem(**options)
    store.mkdir("tars", region_name=REGION)
    picture = io.BytesIO()
    Image.new("RGB", (40, 30), "red").save(picture, "JPEG")
    _write_corpus(tmp_path / "source")
    members = [("p.mp4", bytes(2**20)), ("p.jpg", picture.getvalue()), ("p.txt", b"red"), ("q.mp4", bytes(2**20))]
    write_tar(tmp_path / "source" / "c.tar", members)
    store.put(str(tmp_path / "source"), "tars/corpus", recursive=True)
    out = _publish(_source("s3://tars/corpus"), tmp_path / "run", options=options)
    pairs = out.read_table()
    with open_fault_proxy(s3_endpoint) as proxy:
        image = resolve_modalities(MODALITIES)["image"]
        contents = read_contents(pairs, "image", image, {"endpoint_url": proxy.endpoint})
    assert contents[-1] == picture.getvalue()
    assert contents[:6] == [data for name, data in make_members(6) if name.endswith(".jpg")]
    (read,) = [request.byte_range for request in proxy.seen if request.method == "GET" and "c.tar" in request.path]
    start, stop = map(int, (read or "").removeprefix("bytes=").split("-"))
    assert stop + 1 - start == BLOCK + len(picture.getvalue())
