"""The plots of a report, as inline SVG that takes the page's own font and text colour.

Drawn by matplotlib on its own figures, never through pyplot, so no global state is touched. The same numbers give the
same bytes: no date, fixed ids.
"""

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

INK = "#010203"
"""Drawn in the text colour of the page."""

SELECTED, CLUSTERED, RANDOM = "#2f6fed", "#e08600", "#8a94a6"

MODALITY_COLORS = ("#2f6fed", "#e08600", "#18a173", "#c2459c", "#7a5af0", "#b0413e")

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
