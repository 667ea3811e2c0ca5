"""The plots of a report, as inline SVG that takes the page's own font and text colour.

Drawn by matplotlib on its own figures, never through pyplot, so no global state is touched. The same numbers give the
same bytes: no date, fixed ids.
"""

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

INK = "#010203"
"""Drawn in the text colour of the page."""

SELECTED, CLUSTERED, RANDOM = "#2f6fed", "#e08600", "#8a94a6"

MODALITY_COLORS = ("#2f6fed", "#e08600", "#18a173", "#c2459c", "#7a5af0", "#b0413e")

CENTRED = "#c87400"
"""At three to one at least on the light page and the dark one, and told from blue by those who see no red or green."""

MOMENTS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("before training", {"marker": "o", "color": INK, "markerfacecolor": "none", "markersize": 9.0, "zorder": 4}),
    ("before, centred", {"marker": "D", "color": CENTRED, "markersize": 4.5, "zorder": 5}),
    ("after training", {"marker": "o", "color": SELECTED, "markersize": 7.0, "zorder": 3}),
)
"""When a diagnostic was taken, and its mark: another shape too, and one that those on the same spot do not hide."""

ROW_INCHES, TITLE_ROWS, SCALE_ROWS = 0.22, 1.1, 2.3
"""Height of a row of diagnostics, and the rows that each panel gives to its title and to its scale."""

DiagnosticRow: TypeAlias = tuple[str, float | None, float | None, float | None]

LINE_COLORS = (SELECTED, CLUSTERED, "#18a173", "#c2459c", "#7a5af0", RANDOM)

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": INK,
    "grid.alpha": 0.12,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "axes.formatter.useoffset": False,
}


def plot_coverage(coverage: Mapping[str, Any]) -> str:
    """Draw the coverage of the selection, of k-means and of random draws against the number of picks."""
    with mpl.rc_context({**STYLE, "svg.hashsalt": "coverage"}):
        figure, axes = _open_figure(6.4, 3.3)
        budgets = coverage["budgets"]
        axes.fill_between(
            budgets, coverage["random_min"], coverage["random_max"], color=RANDOM, alpha=0.28, linewidth=0
        )
        axes.plot(budgets, coverage["random_mean"], color=RANDOM, label="random draws: mean, range", linewidth=1.4)
        axes.plot(budgets, coverage["kmeans"], color=CLUSTERED, label="k-means", linewidth=1.4, dashes=(5, 2))
        axes.plot(budgets, coverage["selection"], color=SELECTED, label="this selection", linewidth=2.2)
        axes.set_xlabel("pairs selected")
        axes.set_ylabel("coverage of the pool")
        axes.set_xlim(0, budgets[-1])
        axes.legend(loc="lower right")
        return _render(figure)


def plot_losses(losses: Mapping[str, Sequence[float | None]]) -> str:
    """Draw each part of the training loss, before weighting, one value an epoch; None is left out."""
    with mpl.rc_context({**STYLE, "svg.hashsalt": "losses"}):
        figure, axes = _open_figure(6.4, 2.8)
        for (name, values), color in zip(losses.items(), LINE_COLORS, strict=False):
            points = [(epoch, value) for epoch, value in enumerate(values, start=1) if value is not None]
            axes.plot([x for x, _ in points], [y for _, y in points], color=color, label=name, linewidth=1.8)
        axes.set_xlabel("epoch")
        axes.set_ylabel("loss")
        axes.legend(loc="upper right")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        return _render(figure)


def plot_retrieval(values: Sequence[float | None], best_epoch: int | None) -> str:
    """Draw the retrieval of held-back pairs, one value an epoch, and mark the epoch whose encoder was kept."""
    with mpl.rc_context({**STYLE, "svg.hashsalt": "retrieval"}):
        figure, axes = _open_figure(6.4, 2.4)
        points = [(epoch, value) for epoch, value in enumerate(values, start=1) if value is not None]
        axes.plot([x for x, _ in points], [y for _, y in points], color=SELECTED, linewidth=1.8)
        kept = [point for point in points if point[0] == best_epoch]
        for epoch, value in kept:
            axes.plot([epoch], [value], "o", color=SELECTED, label=f"kept: epoch {epoch}", linestyle="none")
        if kept:
            axes.legend(loc="lower right")
        axes.set_xlabel("epoch")
        axes.set_ylabel("mean reciprocal rank")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        return _render(figure)


def plot_diagnostics(panels: Mapping[str, Sequence[DiagnosticRow]]) -> str:
    """Draw what was measured of the encoder, a panel a measure, each on a scale of its own; None is left out.

    The longest panel stands to the right, each other one where there is more room. A column of panels shares its axes:
    axes a panel take twice as long.

    Args:
        panels: by the measure's name, where it was taken, and its value before, centred, and after; not empty, and a
            number at least in each panel.
    """
    heights = {name: len(rows) + TITLE_ROWS + SCALE_ROWS for name, rows in panels.items()}
    longest = max(heights, key=heights.__getitem__)
    columns = {"left": dict[str, float](), "right": {longest: heights.pop(longest)}}
    for name, height in heights.items():
        min(columns.values(), key=lambda column: sum(column.values()))[name] = height
    height = max(sum(column.values()) for column in columns.values())
    with mpl.rc_context({**STYLE, "svg.hashsalt": "diagnostics", "axes.grid": False}):
        figure = Figure(figsize=(9.6, ROW_INCHES * height + 0.4), layout="constrained")
        FigureCanvasSVG(figure)
        for axes, column in zip(figure.subplots(1, 2), columns.values(), strict=True):
            _draw_column(axes, {name: panels[name] for name in column})
            axes.set_ylim(height - 1, -1)
        figure.legend(handles=figure.axes[1].get_lines()[: len(MOMENTS)], loc="outside upper left", ncols=len(MOMENTS))
        return _render(figure)


def _draw_column(axes: Axes, panels: Mapping[str, Sequence[DiagnosticRow]]) -> None:
    """Draw panels from the top down; x is 0 to 1 whatever their scales, y counts rows."""
    top, labels = 0.0, dict[float, str]()
    for name, rows in panels.items():
        labels |= {top + TITLE_ROWS + number: place for number, (place, *_) in enumerate(rows)}
        _draw_panel(axes, name, np.array([row[1:] for row in rows], dtype=np.float64), top)
        top += TITLE_ROWS + len(rows) + SCALE_ROWS
    axes.set_yticks(list(labels), list(labels.values()))
    axes.tick_params(axis="y", length=0)
    axes.set_xticks([])
    axes.set_xlim(-0.04, 1.08)  # room for the numbers at the ends
    axes.spines[:].set_visible(False)


def _draw_panel(axes: Axes, name: str, values: npt.NDArray[np.float64], top: float) -> None:
    """Draw the marks of a panel, (rows, moments), NaN where there is none, its title above and its scale below."""
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    margin = 0.08 * (high - low) or 0.05 * max(abs(high), 1.0)
    low, high = low - margin, high + margin
    places, heights = (values - low) / (high - low), top + TITLE_ROWS + np.arange(len(values))
    for moment, (label, style) in enumerate(MOMENTS):
        axes.plot(places[:, moment], heights, linestyle="none", label=label, **style)
    axes.hlines(heights, 0, 1, color=INK, alpha=0.12, linewidth=0.6)
    axes.plot(places[:, [0, 2]].T, [heights, heights], color=INK, alpha=0.35, linewidth=1.2)
    axes.text(0, top, name, va="center").set_in_layout(False)
    base = float(heights[-1]) + 0.8
    axes.hlines(base, 0, 1, color=INK, linewidth=0.6)
    ticks = [tick for tick in MaxNLocator(5).tick_values(low, high) if low <= tick <= high]
    spots = [(tick - low) / (high - low) for tick in ticks]
    axes.vlines(spots, base, base + 0.2, color=INK, linewidth=0.6)
    for tick, spot in zip(ticks, spots, strict=True):
        shown = f"{round(tick, 9) + 0.0:g}".replace("-", "\N{MINUS SIGN}")
        axes.text(spot, base + 0.7, shown, ha="center", va="center").set_in_layout(False)


def plot_projection(projection: Mapping[str, Any]) -> str:
    """Draw the plane twice: every modality in its colour, and the picks among the rest."""
    with mpl.rc_context({**STYLE, "svg.hashsalt": "projection", "axes.grid": False}):
        figure = Figure(figsize=(9.6, 4.4), layout="constrained")
        FigureCanvasSVG(figure)
        all_pairs, picks = figure.subplots(1, 2)
        is_selected = projection["is_selected"]
        for (name, points), color in zip(projection["points"].items(), MODALITY_COLORS, strict=False):
            _mark(all_pairs, points, [True] * len(is_selected), color, 3.0, name)
            _mark(picks, points, [not chosen for chosen in is_selected], RANDOM, 2.0, None)
        for (name, points), color in zip(projection["points"].items(), MODALITY_COLORS, strict=False):
            _mark(picks, points, is_selected, color, 5.0, f"{name}, selected")
        for axes, title in ((all_pairs, "all pairs"), (picks, "selected pairs")):
            axes.set_title(title, loc="left", fontsize=9)
            axes.set_xticks([])
            axes.set_yticks([])
            axes.set_aspect("equal", adjustable="datalim")
            axes.legend(loc="upper right", handletextpad=0.2)
        return _render(figure)


def _mark(
    axes: Axes,
    points: Mapping[str, Sequence[float]],
    is_shown: Sequence[bool],
    color: str,
    size: float,
    label: str | None,
) -> None:
    x, y = ([value for value, shown in zip(points[axis], is_shown, strict=True) if shown] for axis in "xy")
    axes.plot(x, y, "o", color=color, alpha=0.7, markersize=size, markeredgewidth=0, linestyle="none", label=label)


def plot_alignment(alignment: Mapping[str, Any]) -> str:
    """Draw the distribution of pair alignment in the pool and among the selected pairs, as shares."""
    with mpl.rc_context({**STYLE, "svg.hashsalt": "alignment"}):
        figure, axes = _open_figure(6.4, 2.8)
        edges = alignment["edges"]
        axes.stairs(alignment["shares"]["pool"], edges, fill=True, color=RANDOM, alpha=0.4, label="pool")
        axes.stairs(alignment["shares"]["selected"], edges, color=SELECTED, linewidth=1.8, label="selected")
        axes.set_xlabel("alignment: cosine between the parts of a pair")
        axes.set_ylabel("share of pairs")
        axes.legend(loc="upper left")
        return _render(figure)


def _open_figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasSVG(figure)
    return figure, figure.add_subplot()


def _render(figure: Figure) -> str:
    sink = io.StringIO()
    figure.savefig(sink, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    drawing = sink.getvalue()
    drawing = drawing[drawing.index("<svg") :]
    drawing = re.sub(r"<metadata>.*?</metadata>", "", drawing, flags=re.DOTALL)
    return drawing.replace(INK, "currentColor").replace("'DejaVu Sans'", "inherit")
