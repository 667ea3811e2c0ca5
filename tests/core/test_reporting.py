"""Reporting: the comparisons against brute force, cards that never break, a page that escapes everything."""

import importlib.util
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from math import comb
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from mmcsal_core.artifacts import Artifact
from mmcsal_core.errors import ArtifactError, ConfigError
from mmcsal_core.metrics import measure_coverage_curve
from mmcsal_core.reporting.gallery import Card, Panel
from mmcsal_core.reporting.measures import (
    MAX_VALUES,
    choose_budgets,
    compare_coverage,
    compare_metadata,
    count_values,
    expect_values_covered,
    sample_pool,
)
from mmcsal_core.reporting.numbers import (
    MeasureSettings,
    ReportInputs,
    collect_numbers,
    list_metadata_columns,
    locate_ids,
)
from mmcsal_core.reporting.page import MINUS, NOT_MEASURED, format_number, list_measures, render_page
from mmcsal_core.reporting.plots import (
    CENTRED,
    INK,
    SELECTED,
    DiagnosticRow,
    plot_coverage,
    plot_diagnostics,
    plot_losses,
    plot_projection,
    plot_retrieval,
)
from mmcsal_core.reporting.projection import project_embeddings
from mmcsal_core.schema import (
    embedding_schema,
    feature_schema,
    neighbor_schema,
    out_of_fold_schema,
    reject_schema,
    selection_schema,
    suspicion_schema,
)
from mmcsal_core.storage import Store
from tests.finished_run import BUDGET, MODALITIES, NUM_PAIRS, make_metrics, make_run, make_vectors

SETTINGS = MeasureSettings(max_pool_rows=1000, max_budget=1000, num_random_draws=5, seed=3)


def open_inputs(run: Store) -> ReportInputs:
    stages = ("ingest", "features", "train", "embed", "neighbors", "coreset")
    names = ("pairs", "features", "encoder", "embeddings", "neighbors", "selection")
    return ReportInputs(*(Artifact(run, name, stage) for name, stage in zip(names, stages, strict=True)))


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> ReportInputs:
    return open_inputs(make_run(tmp_path_factory.mktemp("reporting")))


def test_small_pool_is_measured_whole() -> None:
    rows = sample_pool(10, np.array([3, 1]), 10, np.random.default_rng(0))
    assert rows.tolist() == list(range(10))


def test_sample_of_a_large_pool_holds_the_picks_and_is_seeded() -> None:
    picks = np.array([999, 0, 500])
    first, second = (sample_pool(1000, picks, 50, np.random.default_rng(7)) for _ in range(2))
    assert np.array_equal(first, second)
    assert len(np.unique(first)) == 50
    assert set(picks) <= set(first)
    assert np.array_equal(first, np.sort(first))


def test_budgets_rise_from_one_to_the_last() -> None:
    assert choose_budgets(0) == []
    assert choose_budgets(1) == [1]
    for budget in (2, 7, 200, 5000):
        budgets = choose_budgets(budget)
        assert (budgets[0], budgets[-1]) == (1, budget)
        assert budgets == sorted(set(budgets))
        assert len(budgets) <= 10


def test_coverage_is_compared_at_equal_budgets() -> None:
    vectors, picks = make_vectors(), np.arange(0, 60, 5)
    found = compare_coverage(vectors, picks, 4, seed=1)
    assert found["budgets"][-1] == len(picks)
    assert np.allclose(found["selection"], measure_coverage_curve(vectors, picks, found["budgets"]))
    curves = [found[name] for name in ("random_min", "random_mean", "random_max")]
    assert (np.diff(np.array(curves), axis=0) >= 0).all()
    assert found["kmeans"][-1] > found["random_mean"][-1]
    assert found == compare_coverage(vectors, picks, 4, seed=1)


def test_all_pairs_picked_cover_everything() -> None:
    vectors = make_vectors()
    found = compare_coverage(vectors, np.arange(NUM_PAIRS), 1, seed=1)
    assert found["selection"][-1] == pytest.approx(1, abs=1e-6)
    assert found["covering_radius"]["selection"] == pytest.approx(0, abs=1e-3)


def test_expected_values_agree_with_the_closed_form_and_with_draws() -> None:
    counts, budget = [1, 4, 15], 6
    exact = sum(1 - comb(20 - size, budget) / comb(20, budget) for size in counts)
    assert expect_values_covered(counts, 20, budget) == pytest.approx(exact)
    labels, rng = np.repeat([0, 1, 2], counts), np.random.default_rng(0)
    drawn = [len(set(rng.choice(labels, budget, replace=False))) for _ in range(4000)]
    assert np.mean(drawn) == pytest.approx(exact, abs=0.03)


@pytest.mark.parametrize(("budget", "expected"), [(0, 0.0), (20, 3.0)])
def test_expected_values_at_the_ends(budget: int, expected: float) -> None:
    assert expect_values_covered([1, 4, 15], 20, budget) == pytest.approx(expected)


def test_values_are_counted_over_shards_and_columns_of_many_values_left_out() -> None:
    size = MAX_VALUES + 1
    table = pa.table({"few": ["a", None, "b"] * size, "many": range(3 * size), "number": [1, 1, 2] * size})
    counts = count_values([table.slice(0, 5), table.slice(5)], ["few", "many", "number"])
    assert counts == {"few": {"a": size, None: size, "b": size}, "number": {"1": 2 * size, "2": size}}


def test_metadata_leaves_nulls_and_constant_columns_out() -> None:
    pool: dict[str, dict[str | None, int]] = {"kind": {"a": 5, "b": 4, None: 1}, "same": {"x": 10}}
    selection = pa.table({"kind": ["a", None, "b"], "same": ["x"] * 3})
    (found,) = compare_metadata(pool, selection, [1, 3])
    assert (found["column"], found["num_values"], found["covered"]) == ("kind", 2, [1, 2])
    assert found["expected_random"][0] == pytest.approx(0.9)


def test_numbers_are_json_and_rounded(inputs: ReportInputs) -> None:
    numbers = collect_numbers(inputs, list(MODALITIES), SETTINGS)
    assert json.loads(json.dumps(numbers, allow_nan=False)) == numbers
    assert numbers["selection"]["num_selected"] == BUDGET
    assert numbers["selection"]["num_pool"] == NUM_PAIRS
    suspicion = inputs.selection.read_table(["suspicion"])["suspicion"].to_numpy()
    assert numbers["selection"]["share_in_suspicious_fifth"] == pytest.approx((suspicion > 0.8).mean(), abs=1e-5)
    assert numbers["stages"][0]["rejects_by_reason"] == {"unreadable_image": 3}
    assert [entry["column"] for entry in numbers["metadata"]] == ["group"]
    assert numbers["metadata"][0]["budgets"] == [10, 20, BUDGET]
    assert numbers["coverage"]["selection"][-1] > numbers["coverage"]["random_mean"][-1]
    assert sum(numbers["alignment"]["shares"]["pool"]) == pytest.approx(1, abs=1e-4)
    assert not numbers["coverage"]["is_sampled"]


def test_a_large_pool_is_sampled_and_the_report_says_so(inputs: ReportInputs) -> None:
    settings = MeasureSettings(max_pool_rows=100, max_budget=1000, num_random_draws=2, seed=3)
    coverage = collect_numbers(inputs, list(MODALITIES), settings)["coverage"]
    assert (coverage["num_measured"], coverage["is_sampled"], coverage["budgets"][-1]) == (100, True, BUDGET)
    settings = MeasureSettings(max_pool_rows=1000, max_budget=7, num_random_draws=2, seed=3)
    assert collect_numbers(inputs, list(MODALITIES), settings)["coverage"]["budgets"][-1] == 7


def test_metadata_columns_are_neither_content_nor_provenance(inputs: ReportInputs) -> None:
    assert list_metadata_columns(inputs.pairs, list(MODALITIES)) == ["group", "mood"]


def test_ids_are_located_across_shards(inputs: ReportInputs) -> None:
    ids = pa.chunked_array([["pair-0299", "pair-0000", "pair-0256"]])
    assert locate_ids(inputs.embeddings, ids).tolist() == [299, 0, 256]
    with pytest.raises(ArtifactError, match="'nobody' is not"):
        locate_ids(inputs.embeddings, pa.chunked_array([["pair-0000", "nobody"]]))


def test_plots_are_inline_drawings_in_the_colour_of_the_page() -> None:
    coverage = compare_coverage(make_vectors(), np.arange(10), 2, seed=1)
    drawing = plot_coverage(coverage)
    assert drawing.startswith("<svg")
    assert "currentColor" in drawing
    assert INK not in drawing
    assert "<metadata" not in drawing
    assert drawing == plot_coverage(coverage)
    assert plot_losses({"a": [3.0, 2.0], "b": [None, 1.0]}).count("<text") > 4


def test_a_plane_shows_most_of_the_variance_and_has_one_orientation() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(80, 6)) * [5.0, 3.0, 0.2, 0.1, 0.1, 0.1]
    vectors = {"image": rows[:40].astype(np.float32), "text": rows[40:].astype(np.float32)}
    picks = np.arange(40) < 7
    found = project_embeddings(vectors, picks, "pca", seed=0)
    assert found == project_embeddings(vectors, picks, "pca", seed=9)
    plane = np.concatenate([np.transpose([p["x"], p["y"]]) for p in found["points"].values()])
    centred = rows - rows.mean(axis=0)
    singular, axes = np.linalg.svd(centred)[1:]
    assert found["explained"] == pytest.approx((singular[:2] ** 2).sum() / (singular**2).sum(), abs=1e-5)
    np.testing.assert_allclose(np.abs(plane), np.abs(centred @ axes[:2].T), atol=1e-3)
    assert np.corrcoef(plane[:, 0], rows[:, 0])[0, 1] > 0.99
    assert np.corrcoef(plane[:, 1], rows[:, 1])[0, 1] > 0.99
    assert found["is_selected"] == [True] * 7 + [False] * 33
    flat = {name: np.ones((3, 4), dtype=np.float32) for name in vectors}
    assert project_embeddings(flat, picks[:3], "pca", seed=0)["points"]["image"]["x"] == [0.0] * 3


def test_umap_is_laid_out_alike_twice_or_asked_for_by_name() -> None:
    vectors, picks = {name: x[:60] for name, x in make_vectors().items()}, np.arange(60) < 5
    if importlib.util.find_spec("umap") is None:
        with pytest.raises(ConfigError, match=r"needs the package umap-learn, got none; pip install 'mmcsal\[umap\]'"):
            project_embeddings(vectors, picks, "umap", seed=1)
    else:
        first, second = (project_embeddings(vectors, picks, "umap", seed=1) for _ in range(2))
        assert first == second
        assert np.unique(first["points"]["text"]["x"]).size > 30


def test_the_plane_is_a_sample_that_holds_the_first_picks(inputs: ReportInputs) -> None:
    settings = replace(SETTINGS, max_projected=50)
    projection = collect_numbers(inputs, list(MODALITIES), settings)["projection"]
    assert (projection["num_pairs"], len(projection["points"]["text"]["y"])) == (50, 50)
    assert sum(projection["is_selected"]) >= BUDGET
    whole = collect_numbers(inputs, list(MODALITIES), SETTINGS)["projection"]
    assert (whole["num_pairs"], sum(whole["is_selected"])) == (NUM_PAIRS, BUDGET)


def test_the_plane_and_the_retrieval_are_drawn_alike_every_time(inputs: ReportInputs) -> None:
    projection = collect_numbers(inputs, list(MODALITIES), SETTINGS)["projection"]
    drawing = plot_projection(projection)
    assert drawing == plot_projection(projection)
    assert "text, selected" in drawing
    assert drawing.count("<use") >= 2 * 2 * NUM_PAIRS
    assert "kept: epoch 2" in plot_retrieval([None, 0.5, 0.4], 2)
    assert "kept" not in plot_retrieval([0.3, 0.5, 0.4], None)


def test_a_page_without_watched_retrieval_or_centred_measures_is_whole(inputs: ReportInputs) -> None:
    numbers = collect_numbers(inputs, list(MODALITIES), SETTINGS)
    page = render_page(numbers, [], title="t", thumbnail_px=96)
    assert "Retrieval of held-back pairs" in page
    numbers["encoder"] |= {"held_back_retrieval": None, "best_epoch": None}
    del numbers["encoder"]["before"]["centred"]
    page = render_page(numbers, [], title="t", thumbnail_px=96)
    assert "Retrieval of held-back pairs" not in page
    assert "Before, centred" in page


def test_modalities_that_do_not_find_each_other_are_named_on_the_page(inputs: ReportInputs) -> None:
    numbers = collect_numbers(inputs, list(MODALITIES), SETTINGS)
    assert numbers["encoder"]["unrelated"] == []
    assert "do not find each other" not in render_page(numbers, [], title="t", thumbnail_px=96)
    store, metrics = inputs.encoder.store, make_metrics()
    metrics["after"] |= {
        "num_pairs": 200,
        "retrieval": {name: {"r@10": 0.05} for name in metrics["after"]["retrieval"]},
    }
    store.write_json("metrics.json", metrics)
    numbers = collect_numbers(inputs, list(MODALITIES), SETTINGS)
    assert numbers["encoder"]["unrelated"] == [{"modalities": ("image", "text"), "found": 10, "num_pairs": 200}]
    page = render_page(numbers, [], title="t", thumbnail_px=96)
    assert "<b>image and text do not find each other.</b> Of 200 pairs" in page


def test_measures_stand_in_the_order_of_the_page_with_what_is_missing() -> None:
    metrics = make_metrics()
    measures = list_measures(metrics["before"], metrics["after"])
    assert [measure.name for measure in measures[:2]] == ["Modality gap", "Modality told apart"]
    assert measures[0].rows == (("image → text", 0.81, 0.081, 0.12),)
    retrieval = next(measure for measure in measures if measure.name == "Pair retrieval")
    assert [row[0].rpartition(" ")[2] for row in retrieval.rows] == ["1", "5", "10"] * 2
    assert list_measures(None, {"modality_gap": {"a->b": 1.0}})[0].rows == (("a → b", None, None, 1.0),)
    assert list_measures(None, None) == []


def read_marks(drawing: str, color: str) -> list[list[float]]:
    """Return how far right the marks of a colour stand, by column of panels from the top down."""
    columns = re.split(r'<g id="(?:axes|legend)_\d+">', drawing)[1:3]
    return [[float(x) for x in re.findall(rf'<use [^>]*x="([\d.]+)"[^>]*fill: {color}', part)] for part in columns]


def test_diagnostics_are_drawn_by_measure_on_scales_of_their_own() -> None:
    panels: dict[str, list[DiagnosticRow]] = {
        "Modality gap": [("a → b", 0.8, 0.1, 0.2), ("a → c", 0.4, 0.1, 0.9)],
        "Effective rank": [("a", 3.0, None, 30.0), ("b", 20.0, None, 10.0), ("c", None, 20.0, 20.0)],
        "Alignment": [("a → b", 0.0, -0.01, 0.01)],
    }
    drawing = plot_diagnostics(panels)
    assert drawing == plot_diagnostics(panels)
    assert INK not in drawing
    texts = ("Modality gap", "Alignment", "Effective rank", "after training", "a → c", f"{MINUS}0.01")
    assert [drawing.count(f">{text}</text>") for text in texts] == [1] * 6
    (least, most, alignment), ranks = read_marks(drawing, SELECTED)
    (one, other, lowest), (rank,) = read_marks(drawing, CENTRED)
    assert lowest == one == other < least < most == alignment  # by panel the lowest and the highest of all
    assert (least - one) / (most - one) == pytest.approx(0.1 / 0.8, abs=1e-4)
    assert ranks[2] == rank == pytest.approx((ranks[0] + ranks[1]) / 2, abs=1e-4)


def test_a_page_draws_what_was_measured_and_names_it_for_those_who_do_not_see(inputs: ReportInputs) -> None:
    numbers = collect_numbers(inputs, list(MODALITIES), SETTINGS)
    page = render_page(numbers, [], title="t", thumbnail_px=96)
    assert page.count(">Cluster agreement</text>") == 1
    assert 'role="img" aria-label="Modality gap, Modality told apart, Pair retrieval, Alignment, Cluster' in page
    numbers["encoder"] |= {"before": {"num_pairs": 9, "modality_gap": {"a->b": None}}, "after": {}}
    page = render_page(numbers, [], title="t", thumbnail_px=96)
    assert ("after training</text>" in page, "<b>Modality gap</b>" in page) == (False, True)


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, NOT_MEASURED), (0.0, "0.000"), (1.0, "1.000"), (-2.5, f"{MINUS}2.500"), (1e-5, "1.00e-05")],
)
def test_numbers_are_written_alike(value: float | None, shown: str) -> None:
    assert format_number(value) == shown


class TagCollector(HTMLParser):
    """Lists the tags of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def test_page_asks_for_nothing_and_holds_no_script(inputs: ReportInputs) -> None:
    numbers = collect_numbers(inputs, list(MODALITIES), SETTINGS)
    page = render_page(numbers, [], title="<b>bold</b>", thumbnail_px=96)
    assert page == render_page(numbers, [], title="<b>bold</b>", thumbnail_px=96)
    assert "<title>&lt;b&gt;bold&lt;/b&gt;</title>" in page
    collector = TagCollector()
    collector.feed(page)
    policies = [attrs["content"] for _, attrs in collector.tags if attrs.get("http-equiv") == "Content-Security-Policy"]
    assert len(policies) == 1
    assert (policies[0] or "").startswith(
        "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'"
    )
    names = {tag for tag, _ in collector.tags}
    assert not names & {"script", "link", "iframe", "object", "embed", "form", "base"}
    addresses = [attrs.get("src") or attrs.get("href") or attrs.get("xlink:href") for _, attrs in collector.tags]
    assert all(address.startswith(("data:", "#")) for address in addresses if address)


def test_signatures_of_links_stay_out_of_the_page(inputs: ReportInputs) -> None:
    link = "https://h/a.png?X-Amz-Date=1&X-Amz-Signature=planted&sig=planted"
    panels = (
        Panel("image", "image", problem=f"no answer from {link}", uri=link),
        Panel("text", "text", text=f"see {link}"),
    )
    card = Card(link, 1, 1.0, 1.0, 0.0, 1, panels, (("page", link),))
    page = render_page(collect_numbers(inputs, list(MODALITIES), SETTINGS), [card], title="t", thumbnail_px=96)
    assert page.count("https://h/a.png?X-Amz-Date=1&amp;X-Amz-Signature=***&amp;sig=***") == 6
    assert "planted" not in page


def test_the_data_dictionary_names_every_column_and_key(inputs: ReportInputs) -> None:
    page = (Path(__file__).parents[2] / "docs" / "outputs.md").read_text()
    schemas = [reject_schema(), neighbor_schema(), selection_schema(["<m>"], []), embedding_schema(["<m>"], 2)]
    schemas += [out_of_fold_schema(), suspicion_schema()]
    numbers = collect_numbers(inputs, list(MODALITIES), SETTINGS)
    names = [name for schema in [*schemas, feature_schema({"<m>": 2})] for name in schema.names]
    names += [*numbers, *numbers["selection"], *numbers["coverage"], *numbers["metadata"][0], *numbers["stages"][0]]
    names += [*numbers["encoder"], *numbers["projection"]]
    assert [name for name in names if f"`{name}`" not in page and f"`{name}[]`" not in page] == []
