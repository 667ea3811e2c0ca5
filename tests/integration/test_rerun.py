"""What a second run does: nothing, or only what the change asks for; and how many shards there are changes no byte."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from jobs.check import check_run
from jobs.config import parse_config
from jobs.progress import JsonReporter
from jobs.run import run_job, select_again
from jobs.steps import lay_out
from mmcsal_core.errors import ConfigError, GateError
from mmcsal_core.storage import Store
from mmcsal_core.validation import validate_run
from pipelines.stage_names import STAGES
from tests.corpora import break_pictures, make_image_text_table, write_image_text_parquet, write_video_folder
from tests.encoded_media import encode_film
from tests.integration.conftest import NUM_PAIRS
from tests.integration.job_process import make_config, read_files


def run_folder(values: dict[str, Any]) -> Path:
    return Path(values["output"]) / f"run_id={values['run_id']}"


def test_the_finished_run_keeps_the_contract(finished: dict[str, Any]) -> None:
    report = validate_run(Store(str(run_folder(finished))))
    assert [check for check in report.checks if not check.ok] == []
    assert report.ok


@pytest.mark.parametrize(("num_shards", "num_actors"), [(1, 1), (2, 2)])
def test_the_same_selection_whatever_the_number_of_shards_and_actors(
    ray_session: None,
    finished: dict[str, Any],
    dirty_corpus: Path,
    tmp_path: Path,
    num_shards: int,
    num_actors: int,
) -> None:
    resources = {
        "rows_per_shard": -(-NUM_PAIRS // num_shards),
        "num_actors": num_actors,
        "cpus_per_actor": 0.5,
        "max_driver_pairs": 0 if num_actors > 1 else NUM_PAIRS,
    }
    values = make_config(dirty_corpus, tmp_path, resources=resources)
    run_job(parse_config(values), JsonReporter())
    assert len(list((run_folder(values) / "features" / "data").iterdir())) == num_shards
    for name in ("selection/data", "encoder/encoder.safetensors", "report/report.json"):
        mine, theirs = run_folder(values) / name, run_folder(finished) / name
        assert (read_files(mine) or mine.read_bytes()) == (read_files(theirs) or theirs.read_bytes()), name


def test_a_second_run_does_nothing(copied: dict[str, Any]) -> None:
    before = read_files(run_folder(copied))
    result = run_job(parse_config(copied), JsonReporter())
    assert (result.executed, result.up_to_date) == ((), STAGES)
    assert read_files(run_folder(copied)) == before


@pytest.mark.parametrize(
    ("override", "redone"),
    [
        ("report.gallery_size=5", ("report",)),
        ("selection.budget=30", ("coreset", "report")),
        ("neighbors.num_neighbors=12", ("neighbors", "coreset", "report")),
        ("resources.rows_per_shard=4096", ()),
        ("resources.num_actors=2", ()),
        ("resources.selection_actors=2", ()),
        ("resources.selection_screening=auto", ()),
        ("max_reject_fraction=0.5", ()),
    ],
)
def test_a_change_redoes_only_what_depends_on_it(
    copied: dict[str, Any], override: str, redone: tuple[str, ...]
) -> None:
    untouched = {name: read_files(run_folder(copied) / name) for name in ("features", "encoder", "embeddings")}
    assert run_job(parse_config(copied, [override]), JsonReporter()).executed == redone
    assert {name: read_files(run_folder(copied) / name) for name in untouched} == untouched


def test_an_early_change_redoes_all_that_follows(finished: dict[str, Any], tmp_path: Path) -> None:
    config = parse_config(finished, [f"output={tmp_path}"])
    assert run_job(config, JsonReporter(), until="features").executed == ("ingest", "features")
    assert validate_run(config.run_store).ok
    changed = parse_config(finished, [f"output={tmp_path}", "modalities.image.image_size=48"])
    result = run_job(changed, JsonReporter(), until="features")
    assert (result.executed, result.up_to_date) == (("features",), ("ingest",))


def test_select_again_needs_embeddings_of_the_same_configuration(copied: dict[str, Any]) -> None:
    assert select_again(parse_config(copied, ["selection.strategy=random"]), JsonReporter()).executed == (
        "coreset",
        "report",
    )
    with pytest.raises(ConfigError, match=r"another one: train, embed, neighbors"):
        select_again(parse_config(copied, ["encoder.epochs=5"]), JsonReporter())
    with pytest.raises(ConfigError, match=r"another one: ingest, features"):
        select_again(parse_config(copied, ["ingest.store=bytes"]), JsonReporter())


def test_a_failed_selection_leaves_the_published_one(copied: dict[str, Any]) -> None:
    before = read_files(run_folder(copied) / "selection")
    with pytest.raises(ConfigError, match=r"stratum_column.*'shapee'"):
        select_again(parse_config(copied, ["selection.stratum_column=shapee"]), JsonReporter())
    assert read_files(run_folder(copied) / "selection") == before
    assert select_again(parse_config(copied, ["selection.stratum_column=shape"]), JsonReporter()).executed


def test_validate_notices_results_of_another_configuration(copied: dict[str, Any]) -> None:
    config = parse_config(copied)
    assert check_run(config.run_store).ok
    run_job(parse_config(copied, ["neighbors.num_neighbors=20"]), JsonReporter(), until="neighbors")
    checked = check_run(config.run_store)
    assert [check.name for check in checked.checks if not check.ok] == [
        "selection: made under the stored configuration",
        "report: made under the stored configuration",
    ]


def test_a_changed_source_is_noticed(ray_session: None, tmp_path: Path) -> None:
    corpus = write_image_text_parquet(tmp_path / "pairs.parquet", 300)
    config = parse_config(make_config(corpus, tmp_path / "out"))
    assert run_job(config, JsonReporter(), until="ingest").executed == ("ingest",)
    write_image_text_parquet(corpus, 310)
    assert run_job(config, JsonReporter(), until="ingest").executed == ("ingest",)


def test_too_many_rejects_stop_the_run_before_it_publishes(ray_session: None, tmp_path: Path) -> None:
    corpus = tmp_path / "pairs.parquet"
    pq.write_table(break_pictures(make_image_text_table(300), every=4), corpus)
    config = parse_config(make_config(corpus, tmp_path / "out"))
    with pytest.raises(GateError, match=r"'features' may reject at most 5.0%.*75 of 300: unreadable_image 75"):
        run_job(config, JsonReporter())
    assert not config.run_store.exists("features/_SUCCESS")
    relaxed = parse_config(make_config(corpus, tmp_path / "out"), ["max_reject_fraction=0.3"])
    assert run_job(relaxed, JsonReporter(), until="features").executed == ("features",)
    assert validate_run(relaxed.run_store).ok


def test_a_folder_of_sounds_and_films(ray_session: None, tmp_path: Path) -> None:
    folder = write_video_folder(tmp_path / "clips", 40)
    (folder / "circle" / "000.wav").unlink()
    values = make_config(folder, tmp_path / "out", modalities={"audio": {"window_s": 1.0}, "video": {"image_size": 32}})
    values["source"] = {"kind": "folder", "url": str(folder)}
    config = parse_config(values)
    assert run_job(config, JsonReporter(), until="features").executed == ("ingest", "features")
    assert validate_run(config.run_store).ok
    manifest = lay_out(config).features.read_manifest()
    assert (manifest.pairs_out, manifest.properties["dims"]) == (39, {"audio": 192, "video": 1280})
    assert lay_out(config).pairs.read_manifest().rejects_by_reason == {"missing_modality": 1}


def test_films_alone_are_pairs_from_ingest_to_report(tmp_path: Path) -> None:
    folder, num_films, budget = tmp_path / "films", 24, 6
    folder.mkdir()
    for number in range(num_films):
        (folder / f"{number:02d}.mp4").write_bytes(encode_film("mp4", 0.5 + number / 12))
    modalities = {"video": {"image_size": 32}, "audio": {"suffixes": [".mp4"], "window_s": 1.0}}
    selection = {"budget": budget, "kernel": {"bandwidth_neighbor": 4}}
    values = make_config(folder, tmp_path / "out", modalities=modalities, selection=selection)
    values |= {"source": {"kind": "folder", "url": str(folder)}, "neighbors": {"num_neighbors": 8}}
    config = parse_config(values)
    assert run_job(config, JsonReporter()).executed == STAGES
    assert validate_run(config.run_store).ok
    picks = lay_out(config).selection.read_table()
    assert picks.num_rows == budget
    assert picks["video_uri"].equals(picks["audio_uri"])
