"""The configuration: what is refused, and in which words."""

import json
from datetime import date, datetime, timezone
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from jobs.config import JobConfig, describe_config, hash_config, load_config, parse_config, parse_stored_config
from jobs.config_reference import describe_keys
from jobs.steps import fingerprint_ingest, list_steps
from mmcsal_core.errors import ConfigError
from mmcsal_core.selection.constraints.quotas import group_rows


def make_values(**changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "run_id": "r",
        "output": "out",
        "source": {"kind": "parquet", "url": "pairs.parquet"},
        "modalities": {"image": {"column": "image"}, "text": {"column": "caption"}},
        "selection": {"budget": 10},
    }
    return values | changes


@pytest.mark.parametrize(
    ("changes", "overrides", "words"),
    [
        ({"modalties": {}}, [], ["unknown key 'modalties'", "did you mean 'modalities'"]),
        ({"selection": {"budgett": 3}}, [], ["'selection.budgett'", "did you mean 'budget'"]),
        ({}, ["modalities.image.image_siz=3"], ["'modalities.image.image_siz'", "did you mean 'image_size'"]),
        ({}, ["ray.zzzz=3"], ["'ray.zzzz'", "known keys are", "address"]),
        ({"run_id": "a/b"}, [], ["run_id", "'a/b'", "letters"]),
        ({}, ["selection.budget=0"], ["selection.budget", "greater than", "got 0"]),
        ({}, ["selection.budget=ten"], ["selection.budget", "got 'ten'"]),
        ({}, ["selection.budget"], ["--set takes a.b=value", "'selection.budget'"]),
        ({}, ["run_id.x=1"], ["'run_id' holds a value"]),
        ({}, ["seed=-1"], ["seed", "got -1"]),
        ({}, ["grow.from_run=r"], ["grow.from_run", "another run in the same output", "'r'"]),
        ({}, ["grow.from_run=a/b", "selection.labelled=[]"], ["another run in the same output", "'a/b'"]),
        ({}, ["grow.from_run=q"], ["needs selection.labelled", "out/run_id=q/selection/data/*.parquet", "[] for noth"]),
        ({"modalities": {"image": {"column": "image"}}}, [], ["two or more modalities", "['image']"]),
        ({"modalities": {"image": {"column": "i"}, "words": {"column": "c"}}}, [], ["'words' needs a kind"]),
        ({}, ["modalities.image.uri_column=path"], ["one of column and uri_column", "'path'"]),
        ({}, ["source.kind=folder"], ["a folder source has no columns", "'image'"]),
        (
            {"modalities": {"image": {}, "text": {"column": "c"}}},
            [],
            ["modalities.image.column", "needs column or uri_column"],
        ),
        ({}, ["modalities.image.backbone=efficientnet-lite"], ["efficientnet-lite", "efficientnet-lite0"]),
        ({}, ["modalities.text.backbone=efficientnet-lite0"], ["efficientnet-lite0", "text"]),
        (
            {},
            ["modalities.text.finetune_last_block=true"],
            ["finetune_last_block needs", "kind 'image' with efficientnet-lite0", "'wordllama'", "to false"],
        ),
        (
            {"modalities": {"image": {"column": "i", "kind": "video"}, "text": {"column": "c"}}},
            ["modalities.image.finetune_last_block=true"],
            ["finetune_last_block needs", "for kind 'video'"],
        ),
        ({"selection": {}}, [], ["selection", "budget"]),
        ({"output": 3}, [], ["output", "string", "got 3"]),
    ],
)
def test_refuses_with_the_rule_and_the_value(changes: dict[str, Any], overrides: list[str], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(make_values(**changes), overrides)
    for word in words:
        assert word in str(caught.value)


def test_training_a_last_block_redoes_the_features_and_leaves_the_pairs() -> None:
    off, on = (parse_config(make_values(), [f"modalities.image.finetune_last_block={on}"]) for on in ("no", "yes"))
    assert parse_config(make_values()) == off
    assert fingerprint_ingest(off, "source") == fingerprint_ingest(on, "source")
    prints = [{step.name: step.fingerprint for step in list_steps(config, "pairs", {})} for config in (off, on)]
    assert {name for name in prints[0] if prints[0][name] == prints[1][name]} == {"ingest"}
    assert hash_config(off) != hash_config(on)


def test_a_missing_key_is_named() -> None:
    values = make_values()
    del values["output"]
    with pytest.raises(ConfigError, match=r"key 'output' is required"):
        parse_config(values)


@pytest.mark.parametrize(("text", "words"), [("- 1\n", "mapping"), ("a: [", "must be YAML"), (None, "cannot be read")])
def test_refuses_a_file_that_is_no_configuration(tmp_path: Path, text: str | None, words: str) -> None:
    path = tmp_path / "job.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=words):
        load_config(str(path))


def test_overrides_are_yaml_values(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(make_values()))
    config = load_config(str(path), ["selection.budget=7", "source.metadata_columns=[a, b]", "resources.num_actors=2"])
    assert (config.selection.budget, config.source.metadata_columns) == (7, ("a", "b"))
    assert config.resources.num_actors == 2


def test_a_date_is_the_text_that_it_is_written_as(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(make_values(run_id=date(2024, 1, 1))))
    config = load_config(str(path), ["selection.exclude=[2024-01-01]", "source_options.since=2024-01-01 10:00:00"])
    assert (config.run_id, config.selection.exclude) == ("2024-01-01", ("2024-01-01",))
    assert config.source_options == {"since": "2024-01-01 10:00:00"}
    listed = load_config(str(path), ["selection.labelled=2024-01-01"]).selection.labelled
    assert listed == str(Path("2024-01-01").absolute())


MOMENT = datetime(2024, 1, 1, 12, 30, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    ("values", "keys"),
    [
        (pa.array([date(2024, 1, 1), date(2024, 1, 2)]), "{2024-01-01: 5, 2024-01-02: 6}"),
        (pa.array([date(2024, 1, 1), None], pa.date64()), "{2024-01-01: 5, null: 6}"),
        (pa.array([MOMENT.replace(tzinfo=None)], pa.timestamp("ms")), "{2024-01-01 12:30:00.000: 5}"),
        (pa.array([MOMENT.replace(tzinfo=None)], pa.timestamp("ns")), "{2024-01-01 12:30:00.000000000: 5}"),
        (pa.array([MOMENT], pa.timestamp("us", "UTC")), "{'2024-01-01 12:30:00.000000Z': 5}"),
        (pa.array([7, -2]), "{7: 5, -2: 6}"),
        (pa.array([1.0, 0.5]), "{1.0: 5, 0.5: 6}"),
        (pa.array([True, False]), "{True: 5, no: 6}"),
    ],
)
def test_the_groups_of_quotas_are_spelled_as_the_column_is(tmp_path: Path, values: pa.Array, keys: str) -> None:
    pq.write_table(pa.table({"column": values}), tmp_path / "pairs.parquet")
    column = pq.read_table(tmp_path / "pairs.parquet")["column"]
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(make_values()))
    quotas = f"{{column: column, maximum: {keys}}}"
    overridden = load_config(str(path), [f"selection.quotas={quotas}"])
    path.write_text(yaml.safe_dump(make_values()).replace("budget: 10", f"budget: 10\n  quotas: {quotas}"))
    assert set(overridden.selection.quotas.maximum) == set(group_rows("column", column).names)
    assert load_config(str(path)).selection.quotas == overridden.selection.quotas


def test_the_groups_of_quotas_may_be_given_as_python_values() -> None:
    groups = {date(2024, 1, 1): 5, None: 1, 1.0: 2}
    config = parse_config(make_values(selection={"budget": 10, "quotas": {"column": "day", "maximum": groups}}))
    assert config.selection.quotas.maximum == {"2024-01-01": 5, "null": 1, "1": 2}


def test_fills_in_kinds_and_backbones_and_makes_paths_absolute() -> None:
    config = parse_config(make_values(output="s3://bucket/x"))
    assert [modality.resolved_backbone for modality in config.modalities.values()] == [
        "efficientnet-lite0",
        "wordllama",
    ]
    assert Path(config.source.url).is_absolute()
    assert config.run_store.url == "s3://bucket/x/run_id=r"


@pytest.mark.parametrize(
    ("backbone", "absolute"),
    [
        ("hf:models/clip", "hf:{0}/models/clip"),
        ("hf:models/clip@v1", "hf:{0}/models/clip@v1"),
        ("open_clip:RN50/models/rn50.pt", "open_clip:RN50/{0}/models/rn50.pt"),
        ("open_clip:RN50/rn50.pt", "open_clip:RN50/{0}/rn50.pt"),
        ("hf:owner/clip@v1", "hf:owner/clip@v1"),
        ("open_clip:RN50/openai", "open_clip:RN50/openai"),
        ("open_clip:RN50/models/none.pt", "open_clip:RN50/models/none.pt"),
    ],
)
def test_models_on_this_machine_are_named_by_absolute_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backbone: str, absolute: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "clip").mkdir(parents=True)
    for name in ("models/rn50.pt", "rn50.pt", "openai"):
        (tmp_path / name).touch()
    values = make_values()
    values["modalities"]["image"]["backbone"] = backbone
    assert parse_stored_config(values).modalities["image"].backbone == absolute.format(tmp_path)


def test_the_described_configuration_reads_back_and_keeps_no_secret() -> None:
    secret = {"key": "AKIA", "secret": "hunter2"}
    config = parse_config(
        make_values(output_options=secret, source_options=secret, ray={"runtime_env": {"env_vars": secret}})
    )
    described = describe_config(config)
    assert "hunter2" not in json.dumps(described)
    assert parse_config(described).modalities == config.modalities
    assert parse_stored_config(described).modalities == config.modalities


def test_a_stored_configuration_reads_back_where_its_backbone_is_not_installed() -> None:
    values = make_values(
        modalities={"image": {"column": "i"}, "text": {"column": "c", "backbone": "of-another-version"}}
    )
    assert parse_stored_config(values).modalities["text"].resolved_backbone == "of-another-version"
    with pytest.raises(ConfigError, match="of-another-version"):
        parse_config(values)


def test_resources_do_not_enter_the_hash_but_the_budget_does() -> None:
    base = parse_config(make_values())

    def changed(*overrides: str) -> JobConfig:
        return parse_config(make_values(), overrides)

    assert hash_config(changed("resources.num_actors=4", "output=elsewhere", "report.gallery_size=3")) == hash_config(
        base
    )
    assert hash_config(changed("selection.budget=11")) != hash_config(base)


@pytest.mark.parametrize("name", ["demo", "local", "cluster"])
def test_the_shipped_configurations_are_valid(name: str) -> None:
    load_config(str(Path(__file__).parents[2] / "jobs" / "configs" / f"{name}.yaml"))


def test_the_reference_of_keys_is_up_to_date() -> None:
    page = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text()
    assert page == describe_keys(), "run: python -m jobs.config_reference > docs/configuration.md"
