"""The command line: exit codes, messages, and that nothing is started on a bad configuration."""

import json
from pathlib import Path

import pytest
import ray
from botocore.exceptions import EndpointConnectionError

from jobs.run_status import RUN_STATUS, RunStatus
from jobs.store_health import probe_store
from mmcsal_core.storage import Store
from tests.corpora import write_image_text_parquet
from tests.integration.job_process import call_mmcsal, make_config, run_mmcsal, write_config


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_image_text_parquet(tmp_path_factory.mktemp("corpus") / "pairs.parquet", 40)


@pytest.fixture
def config(corpus: Path, tmp_path: Path) -> Path:
    return write_config(tmp_path / "job.yaml", make_config(corpus, tmp_path / "out"))


def read_status(folder: Path) -> tuple[str, int, str]:
    status = json.loads((folder / "out" / "run_id=t" / "run_status.json").read_text())
    return status["state"], status["exit_code"], status["error"]["kind"]


def test_the_process_ends_with_the_code_and_one_line(tmp_path: Path) -> None:
    missing = tmp_path / "absent.yaml"
    assert run_mmcsal("run", missing, expect=2) == (
        f"mmcsal: the configuration cannot be read: {missing} (No such file or directory); check the path\n"
    )


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("selection.stratgy=random", ["unknown key 'selection.stratgy'; did you mean 'strategy'?"]),
        ("modalities.text.column=captoin", ["'captoin'", "'caption'"]),
        ("source.pair_id_column=idd", ["'idd'", "'id'"]),
        ("selection.stratum_column=shapee", ["'shapee'", "shape"]),
        ("selection.where=shapee = 'circle'", ["shapee = 'circle'", "image_uri, text, shape"]),
        ("selection.where=shape =", ["'shape ='", "syntax error"]),
        ("selection.quotas={column: shapee, balance: equal}", ["quotas.column", "'shapee'", "source, image_uri, text"]),
        ("selection.cost_column=shape", ["cost_column must hold numbers, 'shape' holds string"]),
        ("selection.quotas={column: shape, maximum: {2024-01-01: -5}}", ["a quota is 0 or more", "2024-01-01"]),
        ("selection.space=txt", ["selection.space", "'txt'", "image, text"]),
        ("selection.modality_weights={txt: 2}", ["selection.modality_weights", "got txt", "image, text"]),
        ("selection={budget: 9, strategy: typiclust, min_gain: 0.1}", ["min_gain", "got typiclust"]),
        ("selection={cost_budget: 9, cost_column: shape, cost_rule: gain, strategy: kmeans}", ["strategy kmeans"]),
    ],
)
@pytest.mark.parametrize("command", ["run", "plan"])
def test_a_bad_configuration_stops_before_ray_and_before_anything_is_written(
    config: Path, tmp_path: Path, command: str, override: str, words: list[str]
) -> None:
    was_running = ray.is_initialized()
    result = call_mmcsal(command, config, "--set", override)
    assert result.exit_code == 2
    assert [word for word in words if word not in result.stderr] == []
    assert ray.is_initialized() == was_running
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["run", "plan"])
@pytest.mark.parametrize("content", [None, b"this is no Parquet", b""])
def test_an_unreadable_source_exits_3_and_is_named(tmp_path: Path, command: str, content: bytes | None) -> None:
    source = tmp_path / "pairs.parquet"
    if content is not None:
        source.write_bytes(content)
    config = write_config(tmp_path / "job.yaml", make_config(source, tmp_path / "out"))
    result = call_mmcsal(command, config)
    assert (result.exit_code, str(source) in result.stderr) == (3, True)
    if command == "run":
        assert read_status(tmp_path) == ("failed", 3, "DataError")


def test_a_failure_that_cannot_be_recorded_is_told_all_the_same(config: Path) -> None:
    once = {"connect_timeout": 1, "retries": {"max_attempts": 0}}
    options = {"endpoint_url": "http://127.0.0.1:9", "key": "k", "secret": "s", "config_kwargs": once}
    store = ["--set", "output=s3://bucket/out", "--set", f"output_options={options}"]
    result = call_mmcsal("run", config, *store, "--set", "selection.stratum_column=shapee")
    assert (result.exit_code, "'shapee'" in result.stderr) == (2, True)
    result = call_mmcsal("run", config, *store, "--set", "selection.budget=41")
    assert (result.exit_code, "41 pairs are asked for" in result.stderr) == (4, True)


def test_an_unknown_stage_is_refused_with_the_known_ones(config: Path) -> None:
    result = call_mmcsal("run", config, "--until", "trian")
    assert result.exit_code == 2
    assert "the stages are ingest, features" in result.stderr


def test_errors_are_json_too(tmp_path: Path) -> None:
    result = call_mmcsal("run", tmp_path / "absent.yaml", "--json")
    answer = json.loads(result.stdout)
    assert (result.exit_code, answer["exit_code"], answer["error"]["kind"]) == (2, 2, "ConfigError")


def test_plan_reads_headers_only_and_writes_nothing(config: Path, tmp_path: Path) -> None:
    prices = ["--set", "pricing.cost_per_hour=3.6", "--set", "pricing.pairs_per_second=1"]
    plan = json.loads(call_mmcsal("plan", config, *prices, "--json").stdout)
    assert (plan["num_pairs"], plan["num_files"], plan["num_shards"], plan["budget"]) == (40, 1, 1, 20)
    assert plan["cost"] == pytest.approx(0.04)
    assert not (tmp_path / "out").exists()
    assert "40, of which 20 are to be picked" in call_mmcsal("plan", config).stdout


def test_plan_says_so_where_no_number_of_picks_is_given(config: Path) -> None:
    override = ["--set", "selection={min_distance: 0.3, strategy: k_center}"]
    assert json.loads(call_mmcsal("plan", config, *override, "--json").stdout)["budget"] is None
    assert "as many as the other limits allow" in call_mmcsal("plan", config, *override).stdout


def test_plan_says_so_where_a_throughput_is_unknown(config: Path) -> None:
    plan = json.loads(call_mmcsal("plan", config, "--set", "modalities.text.backbone=hf:some/model", "--json").stdout)
    assert (plan["pairs_per_second"], plan["hours"], plan["cost"]) == (None, None, None)
    shown = call_mmcsal("plan", config, "--set", "modalities.text.backbone=hf:some/model").stdout
    assert "pricing.pairs_per_second" in shown


def test_select_of_a_run_that_is_not_there_says_so(config: Path, tmp_path: Path) -> None:
    result = call_mmcsal("select", config)
    assert (result.exit_code, "has no finished pairs; use `mmcsal run` first" in result.stderr) == (3, True)
    assert read_status(tmp_path) == ("failed", 3, "DataError")


@pytest.mark.parametrize("command", ["status", "report"])
def test_a_run_that_is_not_there_is_named(tmp_path: Path, command: str) -> None:
    result = call_mmcsal(command, tmp_path / "none")
    assert (result.exit_code, str(tmp_path / "none") in result.stderr) == (3, True)


def test_validate_fails_a_run_that_is_not_there(tmp_path: Path) -> None:
    result = call_mmcsal("validate", tmp_path / "none", "--json")
    answer = json.loads(result.stdout)
    assert (result.exit_code, answer["ok"]) == (4, False)
    assert str(tmp_path / "none") in answer["checks"][0]["detail"]


def test_doctor_probes_a_store(tmp_path: Path) -> None:
    url = str(tmp_path / "store")
    found = json.loads(call_mmcsal("doctor", "--store", url, "--json").stdout)
    assert found["is_healthy"] is True
    assert found["store"] == {"url": url, "writable": True, "conditional_writes": True, "problem": None}
    assert list((tmp_path / "store").iterdir()) == []


def test_doctor_names_a_store_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    result = call_mmcsal("doctor", "--store", tmp_path / "file" / "below", "--json")
    assert result.exit_code == 6
    assert json.loads(result.stdout)["store"]["writable"] is False


def test_a_store_option_without_a_value_is_refused(tmp_path: Path) -> None:
    result = call_mmcsal("status", tmp_path, "--store-option", "endpoint_url")
    assert (result.exit_code, "KEY=VALUE" in result.stderr) == (2, True)


def test_the_budget_may_not_exceed_the_pool(config: Path, tmp_path: Path) -> None:
    result = call_mmcsal("run", config, "--set", "selection.budget=41")
    assert result.exit_code == 4
    assert "41 pairs are asked for and 40 are usable" in result.stderr
    assert read_status(tmp_path) == ("failed", 4, "GateError")


def test_an_unreachable_store_is_infrastructure_and_named(config: Path) -> None:
    once = {"connect_timeout": 1, "retries": {"max_attempts": 0}}
    options = {"endpoint_url": "http://127.0.0.1:9", "key": "k", "secret": "s", "config_kwargs": once}
    result = call_mmcsal("run", config, "--set", "output=s3://bucket/out", "--set", f"output_options={options}")
    assert (result.exit_code, "127.0.0.1:9" in result.stderr, "credentials" in result.stderr) == (6, True, True)
    assert not probe_store(Store("s3://bucket/out", options)).writable


def test_what_is_said_of_an_endpoint_leaves_its_credentials_out(config: Path, tmp_path: Path) -> None:
    once = {"connect_timeout": 1, "retries": {"max_attempts": 0}}
    options = {"endpoint_url": "http://me:planted@127.0.0.1:9", "anon": True, "config_kwargs": once}
    sets = [f"source_options={options}", f"output_options={options}"]
    stores = ["output=s3://bucket/out", "source.url=s3://bucket/a"]
    results = [call_mmcsal("run", config, "--json", *(f"--set={each}" for each in [store, *sets])) for store in stores]
    assert [result.exit_code for result in results] == [6, 6]
    store = Store("s3://bucket/out", options)
    with pytest.raises(EndpointConnectionError, match="planted") as caught:
        store.write_bytes("a", b"")
    RunStatus(Store(str(tmp_path)), "t", "0").record_failure(caught.value)
    texts = [text for result in results for text in (result.stdout, result.stderr)]
    for text in (*texts, str(probe_store(store).problem), (tmp_path / RUN_STATUS).read_text()):
        assert ("planted" in text, "http://***@127.0.0.1:9" in text) == (False, True)


def test_an_unknown_protocol_is_a_bad_configuration(config: Path) -> None:
    result = call_mmcsal("run", config, "--set", "output=foo://bucket")
    assert (result.exit_code, "foo://bucket" in result.stderr) == (2, True)
