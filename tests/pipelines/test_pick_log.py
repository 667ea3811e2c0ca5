import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from s3fs import S3FileSystem

from mmcsal_core.artifacts import Artifact
from mmcsal_core.errors import ArtifactError
from mmcsal_core.selection.engine.lazy_blocks import Round, Terms
from mmcsal_core.storage import Store
from pipelines.pick_log import FOLDER, ReportedPickLog, StoredPickLog
from pipelines.stage_run import StageProgress, StageRun
from tests.s3_server import REGION

NUM_ROWS = 5000


def open_log(run: Path | str, fingerprint: str = "f", **options: Any) -> StoredPickLog:
    return StoredPickLog(Artifact(Store(str(run), options), "selection", "coreset"), fingerprint, NUM_ROWS)


def make_rounds(num_rounds: int, seed: int = 0) -> list[Round]:
    """Make rounds whose terms are of all magnitudes, down to the least float64."""
    rng = np.random.default_rng(seed)
    rows = rng.permutation(NUM_ROWS)[: 7 * num_rounds].reshape(num_rounds, 7).tolist()
    terms = rng.normal(size=(num_rounds, 7, 3)) * 10.0 ** rng.integers(-300, 300, size=(num_rounds, 7, 3))
    terms[0, 0] = [5e-324, -0.0, 0.1 + 0.2]

    def make_terms(values: list[list[float]]) -> tuple[Terms, ...]:
        return tuple((a, b, c) for a, b, c in values)

    return [Round(tuple(own), make_terms(values)) for own, values in zip(rows, terms.tolist(), strict=True)]


def write(log: StoredPickLog, part: str, rounds: list[Round]) -> None:
    assert log.read(part) == []
    for done in rounds:
        log.append(part, done)


def test_rounds_come_back_bit_for_bit_and_in_order(tmp_path: Path) -> None:
    rounds = make_rounds(12)
    write(open_log(tmp_path), "coverage", rounds)
    again = open_log(tmp_path).read("coverage")
    assert list(again) == rounds
    assert repr(again) == repr(rounds)  # -0.0 equals 0.0


def test_a_log_is_continued_where_it_ends(tmp_path: Path) -> None:
    rounds = make_rounds(5)
    write(open_log(tmp_path), "k_center", rounds[:3])
    resumed = open_log(tmp_path)
    assert list(resumed.read("k_center")) == rounds[:3]
    for done in rounds[3:]:
        resumed.append("k_center", done)
    assert list(open_log(tmp_path).read("k_center")) == rounds


def test_parts_and_fingerprints_are_kept_apart(tmp_path: Path) -> None:
    log, other = open_log(tmp_path), open_log(tmp_path, "another configuration")
    write(log, "coverage", make_rounds(2))
    write(log, "coverage-2", make_rounds(3, seed=1))
    assert other.read("coverage") == []
    again = open_log(tmp_path)
    assert [len(again.read("coverage")), len(again.read("coverage-2"))] == [2, 3]


def test_an_object_store_keeps_a_log_as_a_folder_does(s3_endpoint: str) -> None:
    S3FileSystem(endpoint_url=s3_endpoint).mkdir("pick-log", region_name=REGION)
    run, options = "s3://pick-log/run_id=t", {"endpoint_url": s3_endpoint}
    rounds = make_rounds(3)
    write(open_log(run, **options), "coverage", rounds)
    log = open_log(run, **options)
    assert list(log.read("coverage")) == rounds
    log.remove()
    assert Store(run, options).list_files() == []


def test_removing_a_log_removes_what_others_left_and_nothing_else(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    write(log, "coverage", make_rounds(1))
    write(open_log(tmp_path, "abandoned"), "coverage", make_rounds(1))
    (tmp_path / "selection").mkdir()
    log.remove()
    assert [path.name for path in tmp_path.iterdir()] == ["selection"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not a round of picks"),
        (b'{"rows": [1, 2], "ter', "is not a round of picks"),
        (b'{"rows": [1.5], "terms": [[0, 0, 0]]}', "is not a round of picks"),
        (b'{"rows": [1], "terms": [[0, 0, 0]], "strategy": "x"}', "is not a round of picks"),
        (b'{"rows": [1, 2], "terms": [[0, 0, 0]]}', "as many terms as rows, got 1 and 2"),
        (b'{"rows": [5000], "terms": [[0, 0, 0]]}', r"distinct rows of the 5000 of the pool, got .*5000"),
        (b'{"rows": [-1], "terms": [[0, 0, 0]]}', "distinct rows of the 5000 of the pool"),
    ],
)
def test_a_damaged_log_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    write(open_log(tmp_path), "coverage", make_rounds(3))
    (tmp_path / FOLDER / "f" / "coverage" / "000001.json").write_bytes(content)
    with pytest.raises(ArtifactError, match=f"(?s){message}.*delete {tmp_path}/{FOLDER}/f and run again"):
        open_log(tmp_path).read("coverage")


def test_a_log_of_two_runs_or_with_a_gap_is_refused(tmp_path: Path) -> None:
    rounds = make_rounds(3)
    write(open_log(tmp_path), "twice", [rounds[0], rounds[0]])
    with pytest.raises(ArtifactError, match="must name distinct rows"):
        open_log(tmp_path).read("twice")
    write(open_log(tmp_path), "gap", rounds)
    (tmp_path / FOLDER / "f" / "gap" / "000001.json").unlink()
    with pytest.raises(ArtifactError, match="must hold 2 rounds without a gap"):
        open_log(tmp_path).read("gap")


def test_a_part_is_read_once(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    log.read("coverage")
    with pytest.raises(ValueError, match="'coverage' is read twice"):
        log.read("coverage")


def test_rounds_are_reported_in_picks(tmp_path: Path) -> None:
    rounds, told = make_rounds(4), list[StageProgress]()
    write(open_log(tmp_path), "coverage", rounds[:2])
    run = StageRun(Artifact(Store(str(tmp_path)), "selection", "coreset"), "f", on_progress=told.append)
    log = ReportedPickLog(open_log(tmp_path), 100, run)
    assert list(log.read("coverage")) == rounds[:2]
    log.append("coverage", rounds[2])
    assert log.read("diversity") == []
    log.append("diversity", rounds[3])
    assert [(progress.done, progress.detail) for progress in told] == [(14, "from the pick log"), (21, ""), (28, "")]
    assert {(progress.stage, progress.total, progress.unit) for progress in told} == {("coreset", 100, "picks")}
    assert json.loads((tmp_path / FOLDER / "f" / "diversity" / "000000.json").read_bytes())["rows"] == [*rounds[3].rows]
