"""The command line: exit codes, messages, and that nothing is started on a bad configuration."""

import json
from pathlib import Path

import pytest

from tests.corpora import write_image_text_parquet
from tests.integration.job_process import make_config, run_json, run_mmcsal, start_mmcsal, write_config


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_image_text_parquet(tmp_path_factory.mktemp("corpus") / "pairs.parquet", 40)


def test_a_bad_configuration_stops_before_anything_is_written(corpus: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path / "job.yaml", make_config(corpus, tmp_path / "out"))
    message = run_mmcsal("run", config, "--set", "selection.stratgy=random", expect=2)
    assert "unknown key 'selection.stratgy'; did you mean 'strategy'?" in message
    message = run_mmcsal("run", config, "--set", "modalities.text.column=captoin", expect=2)
    assert "captoin" in message
    assert "caption" in message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["run", "plan"])
def test_an_unreadable_source_exits_3_and_is_named(tmp_path: Path, command: str) -> None:
    missing = tmp_path / "nowhere.parquet"
    config = write_config(tmp_path / "job.yaml", make_config(missing, tmp_path / "out"))
    assert str(missing) in run_mmcsal(command, config, expect=3)
    missing.write_bytes(b"this is no Parquet")
    assert str(missing) in run_mmcsal(command, config, expect=3)


def test_an_unknown_stage_is_refused_with_the_known_ones(corpus: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path / "job.yaml", make_config(corpus, tmp_path / "out"))
    assert "the stages are ingest, features" in run_mmcsal("run", config, "--until", "trian", expect=2)


def test_errors_are_json_too(tmp_path: Path) -> None:
    with start_mmcsal("run", tmp_path / "absent.yaml", "--json") as process:
        out, _ = process.communicate(timeout=60)
    answer = json.loads(out)
    assert (process.returncode, answer["exit_code"], answer["error"]["kind"]) == (2, 2, "ConfigError")


def test_plan_reads_headers_only_and_writes_nothing(corpus: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path / "job.yaml", make_config(corpus, tmp_path / "out"))
    plan = run_json("plan", config, "--set", "pricing.cost_per_hour=3.6", "--set", "pricing.pairs_per_second=1")
    assert (plan["num_pairs"], plan["num_files"], plan["num_shards"], plan["budget"]) == (40, 1, 1, 20)
    assert plan["cost"] == pytest.approx(0.04)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["status", "report"])
def test_a_run_that_is_not_there_is_named(tmp_path: Path, command: str) -> None:
    assert str(tmp_path / "none") in run_mmcsal(command, tmp_path / "none", expect=6)


def test_validate_fails_a_run_that_is_not_there(tmp_path: Path) -> None:
    with start_mmcsal("validate", tmp_path / "none", "--json") as process:
        out, _ = process.communicate(timeout=60)
    answer = json.loads(out)
    assert (process.returncode, answer["ok"]) == (4, False)
    assert str(tmp_path / "none") in answer["checks"][0]["detail"]


def test_doctor_probes_a_store(tmp_path: Path) -> None:
    found = run_json("doctor", "--store", tmp_path / "store")
    assert found["is_healthy"] is True
    assert found["store"] == {
        "url": str(tmp_path / "store"),
        "writable": True,
        "conditional_writes": True,
        "problem": None,
    }
    assert list((tmp_path / "store").iterdir()) == []


def test_the_budget_may_not_exceed_the_pool(corpus: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path / "job.yaml", make_config(corpus, tmp_path / "out", selection={"budget": 41}))
    message = run_mmcsal("run", config, expect=4)
    assert "41" in message
    assert "40" in message
    assert not (tmp_path / "out").exists()
