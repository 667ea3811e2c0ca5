"""What is known of a pool that has grown: keys that tell changed content, vectors and cosines that are taken over."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmcsal_core.artifacts import Artifact
from mmcsal_core.corpus.sources import SourceConfig
from mmcsal_core.corpus.sources.content_keys import hash_contents
from mmcsal_core.errors import ArtifactError, ConfigError
from mmcsal_core.schema import CONTENT_KEY, OUT_OF_FOLD_FILE, PAIR_ID, ROW, feature_schema, out_of_fold_schema
from mmcsal_core.storage import Store
from mmcsal_core.vector_columns import list_vectors
from pipelines.growth import EarlierFeatures, EarlierRun, check_content_keys, copy_encoder, find_known_rows
from pipelines.shard_decoder import UNKNOWN
from tests.pipelines.ingested_source import Configs, ingest_source
from tests.pipelines.pair_artifacts import publish
from tests.tar_files import make_members, write_tar

Change = Callable[[Path], object]


def _write_folder(folder: Path) -> tuple[dict[str, Any], Configs]:
    for number in range(3):
        (folder / f"{number}.png").write_bytes(b"image %d" % number)
        (folder / f"{number}.txt").write_text(f"text {number}")
    return {"kind": "folder", "url": str(folder), "pair_id_column": "stem"}, {"image": {}, "text": {}}


def _write_lines(folder: Path, numbers: list[int], text: str = "text") -> None:
    (folder / "m.csv").write_text("id,path,text\n" + "".join(f"{n},{n}.png,{text} {n}\n" for n in numbers))


def _write_manifest(folder: Path) -> tuple[dict[str, Any], Configs]:
    _write_lines(folder, [0, 1, 2])
    configs: Configs = {"image": {"uri_column": "path"}, "text": {"column": "text"}}
    return {"kind": "manifest", "url": str(folder), "pair_id_column": "id"}, configs


def _write_rows(path: Path, numbers: range) -> None:
    texts = [f"text {n}" for n in numbers]
    columns = {"id": [str(n) for n in numbers], "image": [text.encode() for text in texts], "text": texts}
    pq.write_table(pa.table(columns), path)


def _write_parquet(folder: Path) -> tuple[dict[str, Any], Configs]:
    _write_rows(folder / "b.parquet", range(3))
    configs: Configs = {"image": {"column": "image"}, "text": {"column": "text"}}
    return {"kind": "parquet", "url": str(folder), "pair_id_column": "id"}, configs


def _write_archive(folder: Path) -> tuple[dict[str, Any], Configs]:
    write_tar(folder / "b.tar", make_members(3))
    return {"kind": "webdataset", "url": str(folder)}, {"image": {}, "text": {}}


@pytest.mark.parametrize(
    ("write", "change", "num_same", "num_new"),
    [
        pytest.param(_write_folder, lambda x: (x / "1.txt").write_text("another text"), 2, 1, id="a file of a folder"),
        pytest.param(_write_folder, lambda x: (x / "1.png").rename(x / "1.jpg"), 2, 1, id="a file renamed"),
        pytest.param(
            _write_folder,
            lambda x: [(x / f"00.{s}").write_bytes(b"new") for s in ("png", "txt")],
            3,
            1,
            id="a pair more in a folder",
        ),
        pytest.param(_write_manifest, lambda x: _write_lines(x, [5, 0, 1, 2]), 3, 1, id="a line more in front"),
        pytest.param(_write_manifest, lambda x: _write_lines(x, [0, 1, 2], "word"), 0, 3, id="other texts"),
        pytest.param(_write_parquet, lambda x: _write_rows(x / "a.parquet", range(5, 7)), 3, 2, id="a Parquet file"),
        pytest.param(_write_parquet, lambda x: _write_rows(x / "b.parquet", range(2)), 0, 2, id="written anew"),
        pytest.param(_write_archive, lambda x: write_tar(x / "a.tar", make_members(2)), 3, 2, id="an archive"),
        pytest.param(_write_archive, lambda x: write_tar(x / "b.tar", make_members(4)), 0, 4, id="written anew, tar"),
    ],
)
def test_a_key_changes_where_the_content_may_have_changed(
    tmp_path: Path, write: Callable[[Path], tuple[dict[str, Any], Configs]], change: Change, num_same: int, num_new: int
) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    source, configs = write(corpus)

    def ingest(name: str) -> set[tuple[str, str]]:
        made = ingest_source(SourceConfig.model_validate(source), configs, tmp_path / name).pairs.read_table()
        assert made[CONTENT_KEY].null_count == 0
        return set(zip(made[PAIR_ID].to_pylist(), made[CONTENT_KEY].to_pylist(), strict=True))

    before = ingest("one")
    assert ingest("two") == before
    change(corpus)
    after = ingest("three")
    assert (len(before & after), len(after - before)) == (num_same, num_new)


def test_keys_tell_apart_what_only_looks_alike() -> None:
    columns = [pa.array(["a", "ab", "a", None, ""]), pa.array(["bc", "c", "bc", "a", "a"])]
    keys = hash_contents(columns, [None, None, "v", None, None]).to_pylist()
    assert len(set(keys)) == len(keys)
    assert all(len(key) == 32 for key in keys)


NUM_PAIRS, REJECTED = 600, 7
DIMS = {"image": 3, "text": 2}


def _publish_pairs(store: Store, ids: list[str], keys: list[str]) -> Artifact:
    pairs = Artifact(store, "pairs", "ingest")
    publish(pairs, pa.table({PAIR_ID: ids, CONTENT_KEY: keys}))
    return pairs


@pytest.fixture
def earlier(tmp_path: Path) -> EarlierRun:
    """A run of 600 pairs, the eighth of which was rejected by features."""
    store = Store(str(tmp_path / "one"))
    ids = [f"p{number:03d}" for number in range(NUM_PAIRS)]
    pairs = _publish_pairs(store, ids, [f"k{number}" for number in range(NUM_PAIRS)])
    rows = np.delete(np.arange(NUM_PAIRS), REJECTED)
    columns = [pa.array(rows), pa.array([ids[row] for row in rows])]
    columns += [list_vectors(np.repeat(rows[:, None], dim, axis=1).astype(np.float32)) for dim in DIMS.values()]
    features = Artifact(store, "features", "features")
    publish(features, pa.table(columns, schema=feature_schema(DIMS)))
    encoder = Artifact(store, "encoder", "train")
    plan = encoder.begin("f", list)
    cosines = pa.table([pa.array(columns[1]), pa.array(rows / 1000, pa.float32())], schema=out_of_fold_schema())
    files = [encoder.store.write_bytes("weights", b"w"), encoder.store.write_table(OUT_OF_FOLD_FILE, cosines)]
    encoder.finish(plan, files=files, num_pairs=len(rows))
    return EarlierRun("one", store, pairs, features, encoder)


def test_a_pair_is_known_by_id_and_key(earlier: EarlierRun, tmp_path: Path) -> None:
    ids = ["new", "p599", "p000", f"p{REJECTED:03d}", "p008", "p300"]
    pairs = _publish_pairs(Store(str(tmp_path / "two")), ids, ["k1", "k599", "k0", f"k{REJECTED}", "other", "k300"])
    known = find_known_rows(pairs, earlier)
    assert known.tolist() == [UNKNOWN, 598, 0, UNKNOWN, UNKNOWN, 299]
    table = EarlierFeatures(earlier.features).take(known[known != UNKNOWN], np.array([1, 2, 5]))
    assert table.schema.names == feature_schema(DIMS).names
    assert table[ROW].to_pylist() == [1, 2, 5]
    assert table[PAIR_ID].to_pylist() == ["p599", "p000", "p300"]
    assert table["text_feature"].to_pylist() == [[599, 599], [0, 0], [300, 300]]


def test_features_are_found_in_any_order(earlier: EarlierRun) -> None:
    positions = np.random.default_rng(0).permutation(NUM_PAIRS - 1)
    table = EarlierFeatures(earlier.features).take(positions, np.arange(NUM_PAIRS - 1))
    expected = np.delete(np.arange(NUM_PAIRS), REJECTED)[positions]
    assert [vector[0] for vector in table["image_feature"].to_pylist()] == expected.tolist()


def test_out_of_fold_cosines_of_corrected_pairs_stay_behind(earlier: EarlierRun, tmp_path: Path) -> None:
    store = Store(str(tmp_path / "two"))
    pairs = _publish_pairs(store, ["new", "p001", "p002", "p003"], ["k", "k1", "corrected", "k3"])
    out = Artifact(store, "encoder", "train")
    records = copy_encoder(pairs, earlier, out)
    assert [record.name for record in records] == ["weights", OUT_OF_FOLD_FILE]
    assert out.store.read_bytes("weights") == b"w"
    assert out.store.read_table(OUT_OF_FOLD_FILE)[PAIR_ID].to_pylist() == ["p001", "p003"]


def test_an_earlier_run_that_is_damaged_or_too_old_is_named(earlier: EarlierRun, tmp_path: Path) -> None:
    out = Artifact(Store(str(tmp_path / "two")), "encoder", "train")
    earlier.encoder.store.write_bytes("weights", b"v")
    with pytest.raises(ArtifactError, match=r"encoder/weights must be .* run the stage 'train' of run one again"):
        copy_encoder(earlier.pairs, earlier, out)
    old = Artifact(Store(str(tmp_path / "old")), "pairs", "ingest")
    publish(old, pa.table({PAIR_ID: ["a"]}))
    check_content_keys(earlier)
    with pytest.raises(ConfigError, match=r"has a column content_key, but .*/old/pairs was made by a version that"):
        check_content_keys(EarlierRun("old", old.run, old, earlier.features, earlier.encoder))
