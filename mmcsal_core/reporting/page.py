"""The numbers of a report and the cards of its gallery in, one self-contained HTML page out.

The page holds no script and asks nobody for anything; its content security policy says so to the browser. All text is
escaped by the template engine and loses the credentials of URLs in it, only the plots go in as they are.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from mmcsal_core.credentials import mask_credentials
from mmcsal_core.reporting.gallery import Card
from mmcsal_core.reporting.plots import (
    plot_alignment,
    plot_coverage,
    plot_diagnostics,
    plot_losses,
    plot_projection,
    plot_retrieval,
)

STAGE_NAMES = {
    "ingest": "Read the source",
    "features": "Decode and extract features",
    "train": "Train the encoder",
    "embed": "Embed",
    "neighbors": "Find neighbours",
    "coreset": "Rank and select",
}

NOT_MEASURED, MINUS = "\N{EN DASH}", "\N{MINUS SIGN}"

MEASURES = {
    "modality_gap": ("Modality gap", "Distance between the modalities' centres. 0 means that they share one space."),
    "modality_accuracy": (
        "Modality told apart",
        "How often a simple classifier guesses the modality of a vector. 0.5 means that it cannot.",
    ),
    "retrieval": (
        "Pair retrieval",
        "How often the other part of a held-back pair is among the nearest that are found for it. Higher is better.",
    ),
    "alignment": ("Alignment", "Mean cosine between the parts of a pair. Higher means that they agree more."),
    "cluster_agreement": (
        "Cluster agreement",
        "How alike the two modalities group the pairs, from 0 (unrelated) to 1 (the same groups).",
    ),
    "uniformity": ("Uniformity", "How evenly the vectors fill the space. 0 is collapsed, lower is more even."),
    "effective_rank": ("Effective rank", "Dimensions that the vectors really use. 1 is collapsed."),
}
"""Diagnostics in the order of the page: key -> name and meaning."""


@dataclass(frozen=True)
class Measure:
    """One diagnostic as the page shows it: `rows` are where it was taken, its value before, centred, and after."""

    name: str
    meaning: str
    rows: tuple[tuple[str, float | None, float | None, float | None], ...]


def render_page(numbers: Mapping[str, Any], cards: Sequence[Card], *, title: str, thumbnail_px: int) -> str:
    """Render the report; equal numbers and cards give equal text.

    Args:
        numbers: the content of `report.json`.
        cards: the gallery, in pick order.
        title: heading of the page.
        thumbnail_px: longer side of a picture, in CSS pixels.
    """
    environment = Environment(
        loader=PackageLoader("mmcsal_core.reporting"),
        autoescape=True,
        finalize=_mask,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"count": format_count, "number": format_number, "percent": format_percent}
    coverage, alignment, encoder = numbers["coverage"], numbers["alignment"], numbers["encoder"]
    measures = list_measures(encoder["before"], encoder["after"])
    page: str = environment.get_template("index.html.j2").render(
        title=title,
        thumbnail_px=thumbnail_px,
        numbers=numbers,
        cards=cards,
        stage_names=STAGE_NAMES,
        measures=measures,
        diagnostics_plot=_draw_diagnostics(measures),
        coverage_plot=_draw(plot_coverage, coverage) if coverage["budgets"] else None,
        alignment_plot=_draw(plot_alignment, alignment),
        loss_plot=_draw(plot_losses, encoder["losses"]) if encoder["losses"] else None,
        retrieval_plot=_draw_retrieval(encoder),
        projection_plot=_draw(plot_projection, numbers["projection"]),
    )
    return page


def _mask(value: Any) -> Any:
    return mask_credentials(value) if type(value) is str else value


def _draw(plot: Callable[..., str], *values: Any) -> Markup:
    return Markup(plot(*values))  # noqa: S704  our own drawing


def _draw_diagnostics(measures: Sequence[Measure]) -> Markup | None:
    taken = {each.name: [row for row in each.rows if any(value is not None for value in row[1:])] for each in measures}
    panels = {name: rows for name, rows in taken.items() if rows}
    return _draw(plot_diagnostics, panels) if panels else None


def _draw_retrieval(encoder: Mapping[str, Any]) -> Markup | None:
    values = encoder["held_back_retrieval"] or []
    if all(value is None for value in values):
        return None
    return _draw(plot_retrieval, values, encoder["best_epoch"])


def list_measures(before: Mapping[str, Any] | None, after: Mapping[str, Any] | None) -> list[Measure]:
    """Return the diagnostics that were taken, in the order of the page; one that was not taken is None."""
    old, new = _flatten(before or {}), _flatten(after or {})
    centred = _flatten((before or {}).get("centred", {}))
    measures = []
    for key, (name, meaning) in MEASURES.items():
        places = sorted({place for place in [*old, *new] if place[0] == key}, key=_natural_order)
        rows = tuple((_name_place(place[1:]), old.get(place), centred.get(place), new.get(place)) for place in places)
        if rows:
            measures.append(Measure(name, meaning, rows))
    return measures


def format_count(value: int) -> str:
    """Write a count with thousands separators."""
    return f"{value:,}"


def format_number(value: float | None) -> str:
    """Write a measured value with three decimals, or three digits where it is tiny; a dash where there is none."""
    if value is None:
        return NOT_MEASURED
    is_tiny = 0 < abs(value) < 0.001
    return f"{value:.2e}" if is_tiny else f"{value:,.3f}".replace("-", MINUS)


def format_percent(value: float) -> str:
    """Write a share as a percentage with one decimal."""
    return f"{value:.1%}"


def _natural_order(place: tuple[str, ...]) -> list[tuple[int, str]]:
    parts = re.findall(r"\d+|\D+", " ".join(place))
    return [(int(part), "") if part.isdigit() else (0, part) for part in parts]


def _name_place(place: Sequence[str]) -> str:
    return ", ".join(place).replace("->", " → ").replace("r@", "among the nearest ")


def _flatten(values: Mapping[str, Any], path: tuple[str, ...] = ()) -> dict[tuple[str, ...], float | None]:
    flat: dict[tuple[str, ...], float | None] = {}
    for key, value in values.items():
        flat |= _flatten(value, (*path, key)) if isinstance(value, Mapping) else {(*path, key): value}
    return flat
