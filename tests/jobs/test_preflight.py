"""What a configuration asks of its source: refused from headers alone, in the words of the stage that refuses it."""

from datetime import date
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.config import JobConfig, parse_config
from jobs.estimate import estimate_run
from jobs.preflight import check_selection, read_lists
from mmcsal_core.corpus.sources import list_source
from mmcsal_core.errors import ConfigError, DataError
from pipelines.coreset_demands import PairLists
from tests.corpora import make_image_text_table

NUM_PAIRS = 8


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    table = make_image_text_table(NUM_PAIRS)
    table = table.append_column("tags", pa.array([["a", "b"]] * NUM_PAIRS))
    table = table.append_column("day", pa.array([date(2024, 1, 1), date(2024, 1, 2)] * (NUM_PAIRS // 2)))
    table = table.append_column("price", pa.array([0.5] * NUM_PAIRS))
    path = tmp_path_factory.mktemp("corpus") / "pairs.parquet"
    pq.write_table(table, path)
    return path


def configure(corpus: Path, output: Path | str, selection: dict[str, Any], **changes: Any) -> JobConfig:
    values = {
        "run_id": "t",
        "output": str(output),
        "source": {"kind": "parquet", "url": str(corpus), "pair_id_column": "id"},
        "modalities": {"image": {"column": "image"}, "text": {"column": "caption"}},
        "selection": {"budget": 3, **selection},
    }
    return parse_config(values | changes)


def check(config: JobConfig, lists: PairLists | None = None) -> None:
    listing = list_source(config.source, config.modalities, config.source_options)
    check_selection(config, listing, read_lists(config) if lists is None else lists)


@pytest.mark.parametrize(
    ("selection", "words"),
    [
        ({"stratum_column": "tags"}, r"stratum_column must hold .*'tags' holds list"),
        ({"cost_column": "shape"}, r"cost_column must hold numbers, 'shape' holds string"),
        ({"quotas": {"column": "tags", "balance": "equal"}}, r"quotas.column must hold .*'tags' holds list"),
        ({"quotas": {"column": "text_uri", "balance": "equal"}}, r"quotas.column must be a column .*'text_uri'"),
        ({"strategy": "kmeans", "labelled": ("p00001", "p00002")}, "kmeans cannot continue from labelled pairs, got 2"),
        ({"strategy": "alignment", "space": "image"}, r"alignment compares the modalities .* got one \(image\)"),
        ({"strategy": "alignment", "space": "features"}, r"alignment compares the modalities .* got one \(features\)"),
        ({"strategy": "alignment", "modality_weights": {"text": 0}}, r"alignment compares .* got one \(image\)"),
        ({"modality_weights": {"image": -1}}, r"modality_weights are 0 or more .*-1"),
        ({"modality_weights": {"image": 0, "text": 0}}, r"modality_weights .* one is above 0"),
    ],
)
def test_a_selection_that_does_not_fit_is_refused(
    corpus: Path, tmp_path: Path, selection: dict[str, Any], words: str
) -> None:
    config = configure(corpus, tmp_path / "out", selection)
    with pytest.raises(ConfigError, match=words):
        check(config)
    with pytest.raises(ConfigError, match=words):
        estimate_run(config)
    assert not (tmp_path / "out").exists()


def test_backbone_features_that_no_stage_keeps_are_refused(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="keep backbone_dims above 0"):
        check(configure(corpus, tmp_path, {"space": "features"}, neighbors={"backbone_dims": 0}))


@pytest.mark.parametrize(
    "selection",
    [
        {"stratum_column": "day", "cost_column": "price"},
        {"stratum_column": "source", "quotas": {"column": "source", "maximum": {"pairs.parquet": 2}}},
        {"quotas": {"column": "day", "maximum": {date(2024, 1, 1): 2}}},
        {"strategy": "kmeans"},
        {"strategy": "kmeans", "labelled": ()},
        {"strategy": "k_center", "labelled": ("p00001",)},
        {"strategy": "alignment"},
        {"strategy": "alignment", "labelled": ("p00001",)},
        {"modality_weights": {"image": 2, "text": 0}},
        {"space": "features"},
        {"space": "text", "strategy": "kmeans"},
    ],
)
def test_a_selection_that_fits_passes(corpus: Path, tmp_path: Path, selection: dict[str, Any]) -> None:
    check(configure(corpus, tmp_path, selection))


def test_plan_misses_a_list_that_is_gone(corpus: Path, tmp_path: Path) -> None:
    gone = tmp_path / "gone.txt"
    with pytest.raises(DataError, match=r"gone\.txt"):
        estimate_run(configure(corpus, tmp_path, {"exclude": str(gone)}))


def write_list(folder: Path, name: str) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("p00001\n")
    return str(folder / name)


@pytest.mark.parametrize("key", ["labelled", "exclude"])
def test_a_list_in_the_folder_of_the_run_is_refused(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    own = write_list(tmp_path / "out" / "run_id=t" / "selection" / "data", "part.txt")
    linked, around = tmp_path / "linked.txt", tmp_path / "out" / "run_id=other" / ".." / "run_id=t"
    linked.symlink_to(own)
    (tmp_path / "here").symlink_to(tmp_path / "out")
    write_list(tmp_path / "out" / "run_id=other", "part.txt")
    monkeypatch.chdir(tmp_path)
    spelled = [own, "out/run_id=t/selection/data/part.txt", f"file://{own}", "out/run_id=*/**/part.txt", str(linked)]
    spelled += [f"{around}/selection/data/part.txt", "here/run_id=t/selection/data/*.txt"]
    for listed in spelled:
        with pytest.raises(ConfigError, match=rf"selection\.{key} .*run_id=t.*copy it"):
            read_lists(configure(corpus, tmp_path / "out", {key: listed}))
    with pytest.raises(ConfigError, match=rf"selection\.{key} .*copy it"):
        read_lists(configure(corpus, "here", {key: own}))


def test_a_list_beside_the_folder_of_the_run_is_read(corpus: Path, tmp_path: Path) -> None:
    beside = write_list(tmp_path / "out" / "run_id=t2", "part.txt")
    config = configure(corpus, tmp_path / "out", {"labelled": beside, "exclude": ("p00003",)})
    assert {key: ids.to_pylist() for key, ids in read_lists(config).items()} == {
        "labelled": ["p00001"],
        "exclude": ["p00003"],
    }


def test_in_a_store_that_is_no_disk_the_folder_of_the_run_is_known_too(corpus: Path) -> None:
    store = fsspec.filesystem("memory")
    try:
        for name in ("run_id=t/selection/data/part.txt", "run_id=t.txt"):
            store.pipe_file(f"/preflight/{name}", b"p00001\n")
        for listed in ("memory://preflight/run_id=t/selection/data/part.txt", "memory://preflight/run_id=t/**/*.txt"):
            with pytest.raises(ConfigError, match=r"run_id=t/selection/data/part\.txt"):
                read_lists(configure(corpus, "memory://preflight", {"labelled": listed}))
        beside = configure(corpus, "memory://preflight", {"labelled": "memory://preflight/run_id=t.txt"})
        assert read_lists(beside)["labelled"].to_pylist() == ["p00001"]
        elsewhere = configure(corpus, "/preflight", {"labelled": "memory://preflight/run_id=t/selection/data/part.txt"})
        assert read_lists(elsewhere)["labelled"].to_pylist() == ["p00001"]
    finally:
        store.rm("/preflight", recursive=True)
