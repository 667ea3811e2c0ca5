"""Bad input at the command line: one line that names it and an exit code, never a traceback; and a run that goes on."""

import json
import re
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from mmcsal_core.errors import ConfigError, MmcsalError
from tests.corpora import make_image_text_table
from tests.encoded_media import encode_image
from tests.integration.job_process import QUICK_ENCODER, call_json, call_mmcsal, write_config
from tests.pipelines.bad_corpora import GOOD_IMAGE, INLINE, WriteSource, make_row, without_override, write_rows
from tests.pipelines.ingested_source import Configs
from tests.pipelines.test_bad_sources import ERRORS


def _configure(folder: Path, source: dict[str, Any], modalities: Configs, **changes: Any) -> Path:
    values = {"run_id": "t", "output": str(folder / "out"), "source": source, "encoder": QUICK_ENCODER}
    values |= {"modalities": json.loads(json.dumps(modalities)), "selection": {"budget": 1}}
    return write_config(folder / "job.yaml", values | changes)


@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("command", ["run", "plan"])
@pytest.mark.parametrize("case", ERRORS, ids=[row[0] for row in ERRORS])
def test_a_bad_source_ends_the_command_in_one_line(
    tmp_path: Path, command: str, case: tuple[str, Configs, WriteSource, type[MmcsalError], str]
) -> None:
    name, modalities, write, kind, words = case
    config = _configure(tmp_path, write(tmp_path / "source"), modalities)
    with without_override():
        result = call_mmcsal(command, config)
    if command == "plan" and name == "a dictionary of text that is not UTF-8":
        assert result.exit_code == 0  # a plan reads headers alone
        return
    assert re.search(words, result.stderr)
    assert result.exit_code == (2 if issubclass(kind, ConfigError) else 3)
    lines = [line for line in result.stderr.splitlines() if line.startswith("mmcsal: ")]
    assert len(lines) == 1
    assert "Traceback" not in result.output
    assert not (tmp_path / "out" / "run_id=t" / "pairs" / "_SUCCESS").exists()


@pytest.mark.parametrize("at", ["the output itself", "the folder of the run"])
def test_an_output_that_may_not_be_written_ends_the_command_in_one_line(tmp_path: Path, at: str) -> None:
    rows = [make_row(f"p{number}") for number in range(5)]
    config = _configure(tmp_path, write_rows(tmp_path / "source", rows), INLINE)
    forbidden = tmp_path / "out" / ("run_id=t" if at == "the folder of the run" else "")
    forbidden.mkdir(parents=True)
    forbidden.chmod(0o555)
    with without_override():
        result = call_mmcsal("run", config, "--until", "ingest")
    lines = [line for line in result.stderr.splitlines() if line.startswith("mmcsal: ")]
    assert (result.exit_code, len(lines), "Traceback" in result.output) == (6, 1, False), result.output
    assert re.search(rf"PermissionError: .*Permission denied: '{forbidden}.*'; .* mend it", lines[0])
    assert list(forbidden.iterdir()) == []


def _make_bad_rows() -> tuple[dict[str, list[Any]], dict[str, str]]:
    """Return rows that are no pairs or strange ones, and the reasons of those that are rejected."""
    images = {
        "truncated": encode_image(Image.effect_noise((64, 64), 50), "JPEG")[:300],
        "no bytes": b"",
        "no picture": b"GIF89a but nothing more",
        "pickle": b"\x80\x04\x95.",
        "bomb": encode_image(Image.new("1", (3000, 3000))),
        "absent": None,
    }
    reasons = {"bomb": "too_many_pixels", "absent": "missing_modality"}
    reasons |= {name: "unreadable_image" for name in images if name not in reasons}
    texts = {
        "no text": None,
        "blank": " \n\t",
        "nul": "\x00",
        "a megabyte": "word " * 200_000,
        "script": "<script>alert(1)</script>",
        "right to left": "مربع أحمر \u202e",
    }
    reasons |= {"no text": "missing_modality", "blank": "empty_text", "nul": "empty_text"}
    columns: dict[str, list[Any]] = {"id": [*images, *texts], "image": [*images.values()] + [GOOD_IMAGE] * len(texts)}
    columns["caption"] = ["a caption"] * len(images) + list(texts.values())
    columns["id"] += ["../../etc/passwd", "a\nb\tc", "truncated"]
    columns["image"] += [GOOD_IMAGE] * 3
    columns["caption"] += ["a red square"] * 3
    return columns, reasons


def test_a_run_goes_on_over_bad_rows_and_names_each(ray_session: None, tmp_path: Path) -> None:
    good = make_image_text_table(60)
    columns, reasons = _make_bad_rows()
    bad = pa.table(columns, schema=pa.schema([good.schema.field(name) for name in columns]))
    table = pa.concat_tables([bad, good.select(list(columns))])
    pq.write_table(table, tmp_path / "pairs.parquet")
    modalities: Configs = {"image": {"column": "image", "image_size": 32, "max_pixels": 10**6}}
    modalities = {**modalities, "text": {"column": "caption"}}
    source = {"kind": "parquet", "url": str(tmp_path / "pairs.parquet"), "pair_id_column": "id"}
    config = _configure(tmp_path, source, modalities, selection={"budget": 20}, max_reject_fraction=0.5)
    result = call_mmcsal("run", config)
    assert (result.exit_code, "Traceback" in result.output) == (0, False), result.output
    run = tmp_path / "out" / "run_id=t"
    assert call_json("validate", run)["ok"] is True
    found = duckdb.execute(f"SELECT pair_id, reason FROM '{run}/rejects/data/*.parquet'").fetchall()
    assert sorted(found) == sorted([*reasons.items(), ("truncated", "duplicate_id")])
    kept = {row[0] for row in duckdb.execute(f"SELECT pair_id FROM '{run}/embeddings/data/*.parquet'").fetchall()}
    assert {"a megabyte", "script", "right to left", "../../etc/passwd", "a\nb\tc"} <= kept
    assert len(kept) + len(found) == table.num_rows
    assert "<script>alert(1)" not in (run / "report" / "index.html").read_text()
    refused = call_mmcsal("run", config, "--set", "run_id=strict", "--set", "max_reject_fraction=0.01")
    assert (refused.exit_code, "Traceback" in refused.output) == (4, False)
    assert "may reject at most 1.0%" in refused.stderr


@pytest.mark.parametrize("num_pairs", [1, 2, 4, 5])
def test_a_handful_of_pairs_is_a_run_or_a_clear_no(ray_session: None, tmp_path: Path, num_pairs: int) -> None:
    table = make_image_text_table(num_pairs)
    pq.write_table(table, tmp_path / "pairs.parquet")
    source = {"kind": "parquet", "url": str(tmp_path / "pairs.parquet"), "pair_id_column": "id"}
    modalities: Configs = {"image": {"column": "image", "image_size": 32}, "text": {"column": "caption"}}
    result = call_mmcsal("run", _configure(tmp_path, source, modalities))
    assert "Traceback" not in result.output
    if num_pairs < 4:
        assert (result.exit_code, f"got {num_pairs}" in result.stderr) == (3, True), result.stderr
    else:
        assert result.exit_code == 0, result.stderr
        assert call_json("validate", tmp_path / "out" / "run_id=t")["ok"] is True
