"""Label-efficiency curves as SVG files of their own: balanced accuracy against the number of labels, by contestant.

The same numbers give the same bytes, as in the plots of a report.
"""

import io
from collections.abc import Sequence

import matplotlib as mpl
import pandas as pd
import pyarrow as pa
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from mmcsal_core.evaluation.config import OURS, RANDOM
from mmcsal_core.reporting.plots import RANDOM as GREY
from mmcsal_core.reporting.plots import SELECTED, STYLE
from mmcsal_core.schema_evaluation import BALANCED_ACCURACY, BUDGET, CONTESTANT, MEASURE, PROBE, STRATEGY

BASELINE_COLORS = ("#e08600", "#18a173", "#c2459c", "#7a5af0", "#b0413e", "#0097a7", "#8d6e63", "#9e9d24", "#5c6bc0")
DASHES: tuple[tuple[int, ...], ...] = ((), (5, 2), (1, 1), (5, 1, 1, 1))


def plot_curves(summary: pa.Table, probe: str) -> bytes:
    """Draw one line a contestant, with its interval for ours and for random.

    Args:
        summary: under `summary_schema`.
        probe: one of the summary's.

    Returns:
        An SVG file.
    """
    frame = summary.to_pandas()
    is_shown = (frame[MEASURE] == BALANCED_ACCURACY) & (frame[PROBE] == probe) & frame[BUDGET].notna()
    with mpl.rc_context(
        {**STYLE, "svg.hashsalt": f"curves {probe}", "text.color": "black", "axes.labelcolor": "black"}
    ):
        figure = Figure(figsize=(7.2, 4.4), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        _draw_lines(axes, frame[is_shown])
        axes.set_title(f"probe {probe}", loc="left")
        return _encode(figure)


def _draw_lines(axes: Axes, frame: pd.DataFrame) -> None:
    ours = baselines = 0
    for name, own in frame.groupby(CONTESTANT, sort=False):
        is_ours, is_random = own[STRATEGY].iloc[0] in OURS, name == RANDOM
        color = SELECTED if is_ours else GREY if is_random else BASELINE_COLORS[baselines % len(BASELINE_COLORS)]
        number = ours if is_ours else 0 if is_random else 1 + baselines // len(BASELINE_COLORS)
        width = 2.2 if is_ours else 1.4
        dashes = DASHES[number % len(DASHES)]
        axes.plot(own[BUDGET], own["mean"], color=color, label=name, linewidth=width, dashes=dashes, marker=".")
        if is_ours or is_random:
            axes.fill_between(own[BUDGET], own["mean_low"], own["mean_high"], color=color, alpha=0.15, linewidth=0)
        ours, baselines = ours + is_ours, baselines + (not is_ours and not is_random)
    _label_axes(axes, sorted(frame[BUDGET].unique()))


def _label_axes(axes: Axes, budgets: Sequence[float]) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(budgets))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels([f"{budget:.0f}" for budget in budgets])
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, 0.0), min(high, 1.02))
    axes.set_xlabel("labels (pairs picked)")
    axes.set_ylabel("balanced accuracy on test pairs")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))


def _encode(figure: Figure) -> bytes:
    sink = io.BytesIO()
    figure.savefig(sink, format="svg", facecolor="white", metadata={"Date": None, "Creator": None})
    return sink.getvalue()
