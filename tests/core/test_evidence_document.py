"""The evidence document is written from figures: thresholds at their edges, means, and what did not work."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pytest

from mmcsal_core.errors import ConfigError
from tests.benchmarks.selection_machine import Machine
from tests.core.pair_pools import make_clustered_pool
from tests.evidence.__main__ import ONE_THREAD, ROOT, main, take_over
from tests.evidence.cells import Cell, Findings, Protocol, Score, ViewResult
from tests.evidence.claims import (
    judge_centring,
    judge_classifier,
    judge_coverage,
    judge_gap,
    judge_mispaired,
    judge_per_set,
    judge_random,
    judge_retrieval,
    judge_single,
    list_claims,
    show,
)
from tests.evidence.contestants import DEFAULT, NO_ALIGNMENT, RANDOM, list_baselines, list_contestants
from tests.evidence.document import Occasion, render_document
from tests.evidence.encoder_views import (
    CENTRED,
    INFO_NCE,
    PROTOTYPES,
    UNTRAINED,
    GapMeasures,
    list_encoders,
    name_default_encoder,
)
from tests.evidence.figures import Figures, collect_figures, compare, find_best_per_set, find_best_single
from tests.evidence.frozen_features import LabelledFeatures, find_cached, save_features
from tests.evidence.grid import list_cells, list_profiles
from tests.evidence.published_scores import PublishedScores, read_scores, write_scores
from tests.evidence.results import CellResult, ResultFile, fingerprint_grid

NAMES = ("openmoji", "google", "twitter")
OWN = name_default_encoder()
KMEANS, HERDING = "kmeans (features)", "maxherding (joint)"
ACCURACIES = {DEFAULT: 0.5, RANDOM: 0.3, KMEANS: 0.4, HERDING: 0.45}


def _make_result(
    cell: Cell,
    accuracies: Mapping[str, float],
    *,
    mispaired: float = 0.0,
    coverage: float = 0.9,
    gap: GapMeasures | None = None,
) -> tuple[Cell, CellResult]:
    def score(name: str, per_class: int) -> Score:
        accuracy = accuracies.get(name, 0.2) + 0.01 * per_class
        covered = coverage if name == DEFAULT else 0.9
        return Score(name, per_class, accuracy, accuracy, covered, mispaired if name == DEFAULT else cell.share)

    names = list(list_contestants()) if cell.encoder == OWN else [DEFAULT]
    scores = tuple(score(name, per_class) for name in names for per_class in (1, 2, 3))
    views = [ViewResult(cell.encoder, gap or GapMeasures(0.8, 0.9, 0.30), 0.7 if cell.share else None, scores)]
    if cell.encoder == INFO_NCE:
        views.append(ViewResult(f"{INFO_NCE}{CENTRED}", GapMeasures(0.1, 0.7, 0.29), None, scores))
    return cell, CellResult(cell.key, "same", "2026-01-02T00:00:00", 60.0, Findings(70, 30, 9, tuple(views)))


def _make_figures(accuracies: Mapping[str, Mapping[str, float]], **others: float) -> Figures:
    cells = [Cell(name, share, 0, OWN) for name in accuracies for share in (0.0, 0.2)]
    return collect_figures(
        _make_result(cell, {**ACCURACIES, **accuracies[cell.set_name]}, **others)  # type: ignore[arg-type]
        for cell in cells
    )


def test_a_sets_figure_is_the_mean_over_budgets_and_splits() -> None:
    cells = [Cell("google", 0.0, split, OWN) for split in range(2)]
    found = [_make_result(cell, {DEFAULT: 0.5 + cell.split}) for cell in cells]
    by_set = collect_figures(found).by_set(0.0)
    assert by_set.loc["google", DEFAULT] == pytest.approx((0.51 + 0.52 + 0.53 + 1.51 + 1.52 + 1.53) / 6)
    assert collect_figures(found).by_set(0.0, per_class=3).loc["google", DEFAULT] == pytest.approx(1.03)


def test_views_are_compared_on_the_splits_that_all_of_them_have() -> None:
    found = [_make_result(Cell("google", 0.0, split, OWN), {DEFAULT: 0.5 + split}) for split in range(3)]
    found.append(_make_result(Cell("google", 0.0, 1, INFO_NCE), {DEFAULT: 0.7}))
    figures = collect_figures(found)
    by_view = figures.by_view(0.0, "balanced_accuracy")
    assert by_view.loc["google"].to_dict() == pytest.approx({OWN: 1.52, INFO_NCE: 0.72, f"{INFO_NCE}{CENTRED}": 0.72})
    assert figures.by_set(0.0).loc["google", DEFAULT] == pytest.approx(1.52)  # of all three


def test_the_best_baselines_are_found_among_baselines() -> None:
    by_set = _make_figures({"google": {}, "twitter": {KMEANS: 0.7, HERDING: 0.1}}).by_set(0.0)
    assert find_best_single(by_set) == KMEANS  # .55 on the mean against .275
    assert find_best_per_set(by_set)["name"].to_dict() == {"google": HERDING, "twitter": KMEANS}


def test_a_comparison_is_over_sets_with_students_interval() -> None:
    by_set = _make_figures({"google": {DEFAULT: 0.5}, "twitter": {DEFAULT: 0.6}, "openmoji": {DEFAULT: 0.2}}).by_set(0)
    found = compare(by_set[DEFAULT], by_set[RANDOM])
    assert found.difference == pytest.approx((0.2 + 0.3 - 0.1) / 3)
    assert (found.wins, found.num_sets) == (2, 3)
    deviation = np.std([0.2, 0.3, -0.1], ddof=1)
    assert found.half_width == pytest.approx(4.302653 * deviation / 3**0.5, rel=1e-5)  # t of 2 degrees, 97.5 %


@pytest.mark.parametrize(("losses", "holds"), [(1, True), (2, False)])
def test_two_sets_in_three_must_be_won(losses: int, holds: bool) -> None:
    rivals = {name: {HERDING: 0.51 if name in NAMES[:losses] else 0.5} for name in NAMES}
    verdict = judge_per_set(_make_figures(rivals), 0.0)
    assert verdict.holds == holds
    assert verdict.figures.startswith(f"{3 - losses} of 3 sets")


@pytest.mark.parametrize(("accuracy", "holds"), [(0.44, True), (0.46, False)])
def test_the_default_must_beat_the_best_mean(accuracy: float, holds: bool) -> None:
    figures = _make_figures({"google": {KMEANS: accuracy, HERDING: 0.4, DEFAULT: 0.45}})
    assert judge_single(figures, 0.0).holds == holds


@pytest.mark.parametrize(("accuracy", "holds"), [(0.30, True), (0.29, False)])
def test_no_set_may_be_below_random(accuracy: float, holds: bool) -> None:
    verdict = judge_random(_make_figures({"google": {}, "twitter": {DEFAULT: accuracy}}), 0.0)
    assert verdict.holds == holds
    assert ("below on twitter" in verdict.figures) != holds


@pytest.mark.parametrize(("share", "holds"), [(0.04, True), (0.041, False)])
def test_a_fifth_of_the_mispaired_share_may_be_picked(share: float, holds: bool) -> None:
    assert judge_mispaired(_make_figures({"google": {}}, mispaired=share), 0.2).holds == holds


@pytest.mark.parametrize(("coverage", "holds"), [(0.896, True), (0.894, False)])
def test_alignment_may_not_cost_class_coverage(coverage: float, holds: bool) -> None:
    verdict = judge_coverage(_make_figures({"google": {}}, coverage=coverage), 0.2)
    assert verdict.holds == holds
    assert verdict.figures == f"{show(coverage)} against .900 without alignment"


def _make_encoders(own: GapMeasures) -> Figures:
    encoders = {PROTOTYPES[0], OWN, INFO_NCE}
    return collect_figures(
        _make_result(Cell("google", 0.0, 0, name), ACCURACIES, gap=None if name == INFO_NCE else own)
        for name in sorted(encoders)
    )


@pytest.mark.parametrize(
    ("own", "holds"),
    [(GapMeasures(0.4, 0.89, 0.29), (True, True, True)), (GapMeasures(0.41, 0.9, 0.289), (False, False, False))],
)
def test_prototypes_are_judged_against_info_nce(own: GapMeasures, holds: tuple[bool, ...]) -> None:
    figures = _make_encoders(own)
    found = tuple(judge(figures, 0.0, PROTOTYPES[0]).holds for judge in (judge_gap, judge_classifier, judge_retrieval))
    assert found == holds


@pytest.mark.parametrize(("accuracy", "holds"), [(0.554, True), (0.546, False)])
def test_prototypes_must_select_better_than_centring_alone(accuracy: float, holds: bool) -> None:
    own = {"google": accuracy, "twitter": 0.5}
    cells = [Cell(name, 0.0, 0, encoder) for name in own for encoder in (OWN, INFO_NCE)]
    other = {"google": 0.6, "twitter": 0.45}
    figures = collect_figures(
        _make_result(cell, {DEFAULT: (own if cell.encoder == OWN else other)[cell.set_name]}) for cell in cells
    )
    verdict = judge_centring(figures, 0.0, OWN)
    half = compare(pd.Series(own), pd.Series(other)).half_width
    shown = f"{show((accuracy + 0.5) / 2 + 0.02)} against .545 ({(accuracy - 0.55) / 2:+.3f} ± {half:.3f}, 1/2 sets)"
    assert (verdict.holds, verdict.figures) == (holds, shown)


def test_figures_are_shown_with_three_digits() -> None:
    assert [show(value) for value in (0.5, -0.0214, 0.9996, 1.0, 10.25)] == [
        ".500",
        "-.021",
        "1.000",
        "1.000",
        "10.250",
    ]


def _make_occasion(num_planned: int) -> Occasion:
    machine, dates = Machine("2 cores", 8.0, ("numpy 2",), 90.0), ("2026-01-02", "2026-01-03")
    return Occasion("make evidence", "evidence.parquet", "abc123", dates, machine, 4, num_planned, 2, 1, 0.5)


def _render(figures: Figures, num_planned: int) -> str:
    return render_document(figures, _make_occasion(num_planned), Protocol())


def test_the_document_says_what_holds_and_what_does_not() -> None:
    below = _make_figures({"openmoji": {}, "google": {HERDING: 0.6}}, mispaired=0.1)
    text = _render(below, 4)
    assert "4 cells of the grid, 0.5 CPU hours, 2026-01-02 to 2026-01-03, commit abc123." in text
    assert "Incomplete" not in text
    assert "Splits of a set: 2, and 1 for encoders other than the default; class by class" in text
    claim = "20 % mispaired: the default picks at most a fifth of the pool's share of mispaired pairs"
    row = next(line for line in text.splitlines() if line.startswith(f"| {claim}"))
    assert row.count("**does not hold**: .100 of the picks, .200 of the pool") == 3  # all, chosen on, confirmed on
    did_not_work = text.partition("## What did not work")[2].partition("\n## ")[0]
    assert f"- Does not hold: {claim} (.100 of the picks, .200 of the pool)." in did_not_work
    assert f"- clean: `{HERDING}` did better than the default (+0.025 ± 0.953, 1/2 sets)." in did_not_work
    assert "clean: the step `+ cross-modal` did not raise balanced accuracy (+0.000 ± 0.000" in did_not_work
    assert "on no set is the default below random" not in did_not_work
    clean, mispaired = (text.partition(f"## Selection, {pool}")[2] for pool in ("clean", "20 % mispaired"))
    assert "mispaired picks" not in clean.partition("## Selection")[0]
    assert "mispaired picks" in mispaired


def test_the_document_reports_choosing_and_confirming_sets_apart() -> None:
    text = _render(_make_figures({"openmoji": {DEFAULT: 0.9}, "google": {DEFAULT: 0.1}}), 4)
    row = next(line for line in text.splitlines() if line.startswith("| clean: on no set"))
    everything, chosen, confirmed = row.split(" | ")[1:]
    assert everything.startswith("**does not hold**: below on google")
    assert chosen.startswith("**holds**")
    assert confirmed.startswith("**does not hold**")


def test_an_incomplete_grid_is_called_so() -> None:
    assert "**Incomplete: 4 of 6 cells have results.**" in _render(_make_figures({"google": {}}), 6)


def _list_first_cells(text: str) -> list[str]:
    return [line.split(" | ")[0].replace("**", "") for line in text.splitlines() if line.startswith("| ")]


def test_the_document_has_a_row_for_every_contestant_and_view() -> None:
    text = _render(_make_encoders(GapMeasures(0.4, 0.8, 0.3)), 4)
    first_cells = _list_first_cells(text)
    for name in list_baselines():
        assert first_cells.count(f"| {name}") == 1
    for name in (NO_ALIGNMENT, OWN, INFO_NCE, f"{INFO_NCE}{CENTRED}"):
        assert f"| {name}" in first_cells
    assert "| google | confirmed on | image + text | 9 | 70 | 30 |" in text
    assert "| google | .800 | .400 | .900 | .800 | .300 | .300 |" in text


def test_every_encoder_with_prototypes_is_judged_the_default_first() -> None:
    names = [name for name, config in list_encoders().items() if config.lambda_proto and name != UNTRAINED]
    encoders = dict.fromkeys((INFO_NCE, *names[::-1], OWN))
    claims = list_claims(collect_figures(_make_result(Cell("google", 0.0, 0, name), ACCURACIES) for name in encoders))
    judged = [claim.text.partition(":")[0] for claim in claims if "centroid gap" in claim.text]
    assert {name.removesuffix(", the default") for name in judged} == set(names)
    assert [name.endswith(", the default") for name in judged] == [
        OWN in names and place == 0 for place in range(len(names))
    ]


def test_claims_without_their_cells_are_left_out() -> None:
    texts = [claim.text for claim in list_claims(_make_figures({"google": {}}))]
    assert not any("centroid gap" in text for text in texts)
    assert any(text.startswith("20 % mispaired") for text in texts)
    clean = collect_figures([_make_result(Cell("google", 0.0, 0, OWN), ACCURACIES)])
    assert {claim.text.partition(":")[0] for claim in list_claims(clean)} == {"clean"}


def test_published_scores_are_read_back_as_they_were_and_by_others(tmp_path: Path) -> None:
    cells = [Cell(name, share, 0, encoder) for encoder in (OWN, INFO_NCE) for share in (0.0, 0.2) for name in NAMES]
    found = [_make_result(cell, {DEFAULT: 1 / 3}, mispaired=cell.share / 7) for cell in cells]
    scores, path = PublishedScores(found, _make_occasion(20), Protocol(num_seeds=5)), tmp_path / "scores.parquet"
    write_scores(path, scores)
    assert read_scores(path) == scores
    asked = f"""select set_name, avg(balanced_accuracy), count(distinct per_class) from '{path}'
        where view = '{OWN}' and contestant = '{DEFAULT}' and share = 0.2 group by all order by all"""
    expected = [(name, pytest.approx(1 / 3 + 0.02), 3) for name in sorted(NAMES)]
    assert duckdb.connect().execute(asked).fetchall() == expected


def test_the_published_document_is_what_its_scores_say() -> None:
    scores, text = read_scores(ROOT / "docs" / "evidence.parquet"), (ROOT / "docs" / "evidence.md").read_text("utf-8")
    figures = collect_figures(scores.found)
    assert text == render_document(figures, scores.occasion, scores.protocol)
    assert [cell for cell, _ in scores.found] == list_cells(list_profiles()["full"])
    assert len({result.fingerprint for _, result in scores.found}) == 1
    assert scores.protocol == Protocol()
    assert "Incomplete" not in text
    assert "with changes" not in text
    first_cells = _list_first_cells(text)
    for claim in list_claims(figures):
        assert first_cells.count(f"| {claim.text}") == 1
    for name in list_baselines():
        assert first_cells.count(f"| {name}") == len(figures.shares)
    for name in [*list_contestants(), *list_encoders(), *list_profiles()["full"].sets]:
        assert f"| {name}" in first_cells


def _keep_default_result(cell: Cell, folder: Path) -> None:
    """Keep a made result of the default encoder for the budgets, the code and the packages of a real run."""
    protocol = Protocol()
    _, result = _make_result(cell, ACCURACIES)
    budgets = dict(zip((1, 2, 3), protocol.budgets_per_class, strict=True))
    (view,) = result.findings.views
    view = replace(view, scores=tuple(replace(each, per_class=budgets[each.per_class]) for each in view.scores))
    findings = replace(result.findings, views=(view,))
    fingerprint = fingerprint_grid(protocol)
    kept = replace(result, fingerprint=fingerprint, findings=findings)
    ResultFile(folder / "results.jsonl", fingerprint).add(kept)


def test_the_command_runs_what_lacks_and_renders_the_same_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ONE_THREAD:
        monkeypatch.setenv(name, "1")  # given back at the end: the command sets it for good
    pool = make_clustered_pool(40, 2)
    labels = np.array([f"class {number}" for number in pool.clusters])
    features = {"text": pool.features["text"], "audio": pool.features["image"]}
    save_features(LabelledFeatures(features, labels, np.full(40, "")), find_cached("tux-paint", tmp_path))
    published = (ROOT / "docs" / "evidence.md").read_bytes()
    command = ["--profile", "quick", "--processes", "1", "--folder", str(tmp_path), "--cache", str(tmp_path)]
    with pytest.raises(ConfigError, match="needs a result, got none for 16 cells; run without --render"):
        main([*command, "--render"])
    _keep_default_result(Cell("tux text-audio", 0.0, 0, OWN), tmp_path)
    main([*command, "--only", "tux text-audio | 0 | 0"])
    shown = capsys.readouterr().out
    assert "1 of 2 cells have results" in shown
    assert f"[1/1] tux text-audio | 0 | 0 | {INFO_NCE}: " in shown
    text, kept = (tmp_path / "quick.md").read_text(), (tmp_path / "results.jsonl").read_text()
    assert f"wrote {tmp_path / 'quick.md'} and {tmp_path / 'quick.parquet'}" in shown
    assert "Written by `make evidence PROFILE=quick`; do not edit." in text
    assert "[quick.parquet](quick.parquet)" in text
    assert "**Incomplete: 2 of 16 cells have results.** 2 cells of the grid" in text
    assert "| tux text-audio | confirmed on | text + audio | 2 | 28 | 12 |" in text
    assert f"| {OWN}, the default: selection better than with mean-centring alone | **" in text
    main([*command, "--render"])
    assert (tmp_path / "quick.md").read_text() == text
    assert (tmp_path / "results.jsonl").read_text() == kept
    assert len(kept.splitlines()) == 2
    assert read_scores(tmp_path / "quick.parquet").occasion.num_cells == 2
    with pytest.raises(ConfigError, match="got none for 16 cells"):
        main([*command, "--fresh", "--render"])
    for num_taken in (2, 0):
        main([*command, "--resume", str(tmp_path / "quick.parquet"), "--render"])
        assert f"took over {num_taken} cells from" in capsys.readouterr().out
        assert (tmp_path / "quick.md").read_text() == text
    assert (ROOT / "docs" / "evidence.md").read_bytes() == published


def test_scores_of_other_code_are_not_taken_over(tmp_path: Path) -> None:
    path, results = tmp_path / "scores.parquet", ResultFile(tmp_path / "results.jsonl", "another")
    cell, result = _make_result(Cell("google", 0.0, 0, OWN), ACCURACIES)
    write_scores(path, PublishedScores([(cell, result)], _make_occasion(4), Protocol()))
    assert take_over(path, results) == 0
    assert results.find(cell) is None


def test_a_file_that_holds_no_scores_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "other.parquet"
    with pytest.raises(ConfigError, match=r"wrote, got .*other\.parquet; name its"):
        read_scores(other)
    pd.DataFrame({"a": [1]}).to_parquet(other)
    with pytest.raises(ConfigError, match=r"name its \.parquet"):
        read_scores(other)
