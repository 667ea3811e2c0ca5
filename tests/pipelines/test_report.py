"""The report stage: equal runs publish equal bytes, and nothing that a corpus says is ever executed."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageColor
from pydantic import ValidationError

from mmcsal_core.artifacts import Artifact, Manifest
from mmcsal_core.reporting.plots import CENTRED
from mmcsal_core.storage import Store
from mmcsal_core.validation import validate_run
from pipelines.report import STAGE, write_report
from pipelines.report_config import ReportConfig
from pipelines.stage_run import StageRun
from tests.browser import Browser
from tests.core.test_reporting import TagCollector, open_inputs
from tests.finished_run import BUDGET, MODALITIES, NUM_PAIRS, make_run

ATTACK = """<script>document.title='owned'</script>"><img src=x onerror="document.title='owned'">"""


def report_on(run: Store, config: ReportConfig | None = None) -> Manifest:
    return write_report(
        inputs=open_inputs(run),
        modalities=MODALITIES,
        source_options={},
        seed=0,
        config=config or ReportConfig(),
        run=StageRun(out=Artifact(run, "report", STAGE), fingerprint="f"),
    )


def make_reported(root: Path, captions: Mapping[int, str] | None = None) -> Path:
    report_on(make_run(root, captions))
    return root / "run" / "report" / "index.html"


def test_equal_runs_publish_equal_bytes(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    first = report_on(run)
    files = {record.name: run.read_bytes(f"report/{record.name}") for record in first.files}
    run.remove("report")
    assert report_on(run).files == first.files
    assert files == {name: run.read_bytes(f"report/{name}") for name in files}
    assert set(files) == {"report.json", "index.html"}


def test_a_reported_run_is_valid(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    manifest = report_on(run)
    assert (manifest.pairs_in, manifest.pairs_out) == (BUDGET, BUDGET)
    report = validate_run(run)
    assert report.ok, report.failed


def test_gallery_shows_the_first_picks_and_survives_lost_content(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    for picture in (tmp_path / "source").iterdir():
        picture.unlink()
    report_on(run, ReportConfig(gallery_size=5, title="Our pairs"))
    page = run.read_bytes("report/index.html").decode()
    assert page.count('<article class="card">') == 5
    assert page.count('<div class="problem">') == 5
    assert "there is no file" in page
    assert "<title>Our pairs</title>" in page


def test_no_gallery_is_fine(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    report_on(run, ReportConfig(gallery_size=0))
    assert '<article class="card">' not in run.read_bytes("report/index.html").decode()


def test_times_stay_out(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    manifest = report_on(run)
    year = manifest.created_at[:7]
    assert year not in run.read_bytes("report/report.json").decode()
    assert year not in run.read_bytes("report/index.html").decode()


def test_nothing_planted_in_a_corpus_executes(tmp_path: Path, browser: Browser) -> None:
    page = make_reported(tmp_path, dict.fromkeys(range(NUM_PAIRS), ATTACK))
    dom = browser.dump_dom(page)
    collector = TagCollector()
    collector.feed(dom)
    assert "<title>Selected pairs</title>" in dom
    assert "script" not in {tag for tag, _ in collector.tags}
    images = [attrs for tag, attrs in collector.tags if tag == "img"]
    assert len(images) == BUDGET
    assert all((attrs["src"] or "").startswith("data:image/jpeg") and "onerror" not in attrs for attrs in images)
    assert "&lt;script&gt;document.title" in dom


def test_the_attack_works_on_a_page_that_does_not_escape(tmp_path: Path, browser: Browser) -> None:
    page = tmp_path / "naive.html"
    page.write_text(f"<!DOCTYPE html><title>Selected pairs</title><body>{ATTACK}</body>")
    assert "<title>owned</title>" in browser.dump_dom(page)


def test_the_policy_stops_the_attack_even_unescaped(tmp_path: Path, browser: Browser) -> None:
    page = make_reported(tmp_path)
    page.write_text(page.read_text().replace("</header>", f"{ATTACK}</header>"))
    assert "<title>Selected pairs</title>" in browser.dump_dom(page)


def test_page_renders(tmp_path: Path, browser: Browser) -> None:
    picture = tmp_path / "page.png"
    browser.render_png(make_reported(tmp_path), picture, (1280, 3200))
    with Image.open(picture) as image:
        assert image.size == (1280, 3200)
        assert len(np.unique(np.asarray(image.convert("L")))) > 50
        shown = np.asarray(image.convert("RGB"))
    is_mark = (shown == ImageColor.getrgb(CENTRED)).all(axis=2)
    assert is_mark.sum() > 200  # the diamonds of seven measures, of some thirty pixels each
    assert np.ptp(np.flatnonzero(is_mark.any(axis=1))) > 200


def test_report_json_has_stable_keys(tmp_path: Path) -> None:
    make_reported(tmp_path)
    numbers = json.loads((tmp_path / "run" / "report" / "report.json").read_text())
    keys = [
        "alignment",
        "coverage",
        "encoder",
        "metadata",
        "projection",
        "run",
        "schema_version",
        "selection",
        "stages",
    ]
    assert list(numbers) == keys


def test_config_refuses_what_cannot_be() -> None:
    with pytest.raises(ValidationError):
        ReportConfig(gallery_size=-1)
