"""The summary of an evaluation in Markdown, for people: equal numbers give equal text."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd
import pyarrow as pa

from mmcsal_core.schema_evaluation import (
    BALANCED_ACCURACY,
    BUDGET,
    CLASS_COVERAGE,
    CONTESTANT,
    MEASURE,
    MISPAIRED_SHARE,
    PROBE,
)

NOTHING = "\N{EN DASH}"

PICK_TITLES = {
    CLASS_COVERAGE: "Classes covered, as a share of the pool's",
    MISPAIRED_SHARE: "Mispaired pairs, as a share of the picks",
}


def render_evaluation(about: Mapping[str, Any], summary: pa.Table, saving: pa.Table) -> str:
    """Return the page.

    Args:
        about: what `evaluation.json` holds.
        summary: under `summary_schema`.
        saving: under `label_saving_schema`.
    """
    frame, factors = summary.to_pandas(), saving.to_pandas()
    lines = [*_introduce(about)]
    for probe in about["config"]["probes"]:
        own = frame[(frame[MEASURE] == BALANCED_ACCURACY) & (frame[PROBE] == probe)]
        lines += [f"## Balanced accuracy, probe `{probe}`", "", *_tabulate(own, is_rising=True), ""]
        lines += [f"![curves](curves_{probe}.svg)", ""]
    for measure, title in PICK_TITLES.items():
        own = frame[frame[MEASURE] == measure]
        if len(own):
            lines += [f"## {title}", "", *_tabulate(own, is_rising=measure != MISPAIRED_SHARE), ""]
    lines += _tell_suspicion(about)
    lines += ["## Labels that random needs, as a multiple", "", *_tabulate_savings(factors)]
    return "\n".join(lines) + "\n"


def _introduce(about: Mapping[str, Any]) -> Iterator[str]:
    config = about["config"]
    yield f"# Evaluation by `{config['label_column']}`"
    yield ""
    yield (
        f"{about['num_pairs']} pairs, {about['num_unlabelled']} of them without a label; {len(about['classes'])} "
        f"classes; {config['num_splits']} splits into {about['num_pool']} pairs to pick from and {about['num_test']} "
        f"to test on. Each number is a mean over splits with half of its {config['confidence']:.0%} interval. `mean` "
        "is over the budgets that all share; the differences are of this mean, taken split by split. The encoder saw "
        "all pairs, test pairs too, and no label."
    )
    yield ""


def _tell_suspicion(about: Mapping[str, Any]) -> Iterator[str]:
    if about["suspicion_auc"] is not None:
        yield "## Mispaired pairs told by suspicion"
        yield ""
        yield (
            f"AUC {about['suspicion_auc']:.3f}: so often one of the {about['num_mispaired']} mispaired pairs is more "
            f"suspicious than a right one, among all {about['num_pairs']} pairs. 0.5 is chance, 1 is best."
        )
        yield ""


def _tabulate(frame: pd.DataFrame, *, is_rising: bool) -> Iterator[str]:
    """One row a contestant, the best by its mean first."""
    budgets = sorted(int(budget) for budget in frame[BUDGET].dropna().unique())
    best = frame["best_baseline"].iloc[0]
    against = f"over {best}" if best is not None else "over the best baseline"
    yield _join(["contestant", *map(str, budgets), "mean", "over random", against])
    yield _join(["---", *["--:"] * (len(budgets) + 3)])
    means = frame[frame[BUDGET].isna()].sort_values("mean", ascending=not is_rising, kind="stable")
    for _, mean in means.iterrows():
        own = frame[frame[CONTESTANT] == mean[CONTESTANT]].set_index(BUDGET)
        cells = [_show(own.loc[budget], "mean") if budget in own.index else NOTHING for budget in budgets]
        differences = [_show(mean, f"difference_to_{other}", sign="+") for other in ("random", "best")]
        yield _join([_escape(mean[CONTESTANT]), *cells, _show(mean, "mean"), *differences])


def _tabulate_savings(frame: pd.DataFrame) -> Iterator[str]:
    budgets = sorted(int(budget) for budget in frame[BUDGET].unique())
    yield _join(["contestant", "probe", *map(str, budgets)])
    yield _join(["---", "---", *["--:"] * len(budgets)])
    for (contestant, probe), own in frame.groupby([CONTESTANT, PROBE], sort=False):
        factors = own.set_index(BUDGET)
        cells = [_show_factor(factors.loc[budget]) if budget in factors.index else NOTHING for budget in budgets]
        yield _join([_escape(contestant), str(probe), *cells])


def _show(row: "pd.Series[Any]", column: str, sign: str = "") -> str:
    if pd.isna(row[column]):
        return NOTHING
    if pd.isna(row[f"{column}_low"]):
        return f"{row[column]:{sign}.3f}"
    return f"{row[column]:{sign}.3f} ± {(row[f'{column}_high'] - row[f'{column}_low']) / 2:.3f}"


def _show_factor(row: "pd.Series[Any]") -> str:
    return f"{row['factor']:.2f}" if pd.notna(row["factor"]) else str(row["reason"])


def _escape(name: object) -> str:
    return str(name).replace("|", "\\|").replace("\n", " ")


def _join(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
