"""What is said of a wrong configuration quotes no secret, neither in the message nor in what led to it."""

import traceback
from pathlib import Path
from typing import Any

import pytest

from jobs.config import load_config, parse_config
from mmcsal_core.errors import ConfigError
from tests.integration.job_process import call_mmcsal
from tests.jobs.test_config import make_values

SECRET = "planted-secret"
OPTIONS = {"key": "k", "secret": SECRET}


def _explain(changes: dict[str, Any], overrides: list[str]) -> str:
    """Return the message of the error, having looked at the traceback that a caller would log."""
    with pytest.raises(ConfigError) as caught:
        parse_config(make_values(**changes), overrides)
    assert "planted" not in "".join(traceback.format_exception(caught.value))
    return str(caught.value)


@pytest.mark.parametrize("section", ["source_options", "output_options", "ray.runtime_env"])
@pytest.mark.parametrize("value", [SECRET, [SECRET], [OPTIONS], f"secret={SECRET}", 1.5, True])
def test_of_an_option_of_the_wrong_type_the_type_is_told(section: str, value: Any) -> None:
    message = _explain({}, [f"{section}={value}"])
    assert f"{section}: Input should be" in message
    assert f"got a {type(value).__name__}, not shown" in message


@pytest.mark.parametrize("value", [SECRET, [SECRET], [OPTIONS]])
@pytest.mark.parametrize("section", ["source", "ray", "modalities", "modalities.image"])
def test_of_what_is_no_section_the_type_is_told(section: str, value: Any) -> None:
    assert f"got a {type(value).__name__}, not shown" in _explain({}, [f"{section}={value}"])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"source_optoins": OPTIONS}, "unknown key 'source_optoins'; did you mean 'source_options'"),
        ({"source_options": OPTIONS, "sead": 1}, "unknown key 'sead'"),
        ({"source_options": OPTIONS, "output_options": [OPTIONS], "seed": -1}, "seed: Input should be"),
        ({"source": {"kind": "parquet", "url": "a", "options": OPTIONS}}, "unknown key 'source.options'"),
        ({"ray": {"env_vars": OPTIONS}}, "unknown key 'ray.env_vars'"),
        ({"output": {"url": "s3://bucket", **OPTIONS}}, "output: Input should be a valid string, got a dict"),
        ({"output": [f"s3://key:{SECRET}@bucket"]}, "output: Input should be a valid string, got a list"),
        ({"source": f"s3://key:{SECRET}@bucket/a"}, "source: Input should be an object, got a str"),
        ({"seed": f"s3://key:{SECRET}@bucket/a"}, "got 's3://***@bucket/a'"),
    ],
)
def test_an_error_beside_secrets_quotes_none(changes: dict[str, Any], words: str) -> None:
    assert words in _explain(changes, [])


@pytest.mark.parametrize(
    ("override", "words"),
    [
        (f"source_options.secret:{SECRET}", "a text that is not shown"),
        ("source_options.planted", "a text that is not shown"),
        (SECRET, "a text that is not shown"),
        (f"seed:{SECRET}", "a text that is not shown"),
        (f"selection.budget:{SECRET}", "got 'selection.budget'"),
        (f"source_options..secret={SECRET}", "got 'source_options..secret'"),
        (f"run_id.secret={SECRET}", "--set run_id.secret: 'run_id' holds a value"),
        (f"source_options.secret=[{SECRET}", "--set source_options.secret: the value is not YAML"),
        (f"source_options.secret='{SECRET}", "found unexpected end of stream (line 1, column"),
        (f"source_options.secret=*{SECRET}", "found undefined alias a name"),
        (f"source_options.secret=!{SECRET} x", "for the tag a name"),
    ],
)
def test_an_override_that_is_refused_is_named_by_its_key(override: str, words: str) -> None:
    assert words in _explain({}, [override])


@pytest.mark.parametrize(
    "line", ["secret: planted-secret: more", "secret: *planted-secret", "secret: 'planted-secret", "secret: planted\0"]
)
def test_a_file_that_is_no_yaml_is_not_quoted(tmp_path: Path, line: str) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(f"source_options:\n  {line}\n")
    with pytest.raises(ConfigError, match=r"must be YAML.*; correct it") as caught:
        load_config(str(path))
    assert "planted" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("key", ["source.url", "output", "selection.labelled", "selection.exclude", "ray.address"])
@pytest.mark.parametrize("url", ["https://me:planted@host/a", "https://host/a?X-Amz-Signature=planted"])
def test_credentials_in_a_url_are_refused_and_say_where_they_belong(key: str, url: str) -> None:
    message = _explain({}, [f"{key}={url}"])
    assert f"{key}: a URL must hold no credentials" in message
    assert "source_options or output_options" in message


def test_ids_that_are_links_are_data() -> None:
    link = "https://host/a?X-Amz-Signature=s"
    assert parse_config(make_values(), [f"selection.labelled=['{link}']"]).selection.labelled == (link,)


@pytest.mark.parametrize("command", [["status"], ["validate"], ["report"], ["doctor", "--store"]])
def test_a_command_takes_no_url_with_credentials(command: list[str]) -> None:
    result = call_mmcsal(*command, f"s3://key:{SECRET}@bucket/run_id=r", "--json")
    assert (result.exit_code, "s3://***@bucket/run_id=r" in result.stderr) == (2, True)
    assert "planted" not in result.output


@pytest.mark.parametrize("option", [SECRET, f"={SECRET}"])
def test_a_store_option_that_is_none_is_not_quoted(tmp_path: Path, option: str) -> None:
    result = call_mmcsal("status", tmp_path, "--store-option", "anon=true", "--store-option", option)
    assert (result.exit_code, "number 2" in result.stderr, "planted" in result.output) == (2, True, False)


def test_a_configuration_shows_no_options() -> None:
    config = parse_config(make_values(source_options=OPTIONS, output_options=OPTIONS, ray={"runtime_env": OPTIONS}))
    assert "planted" not in repr(config)
