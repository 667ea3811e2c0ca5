"""From the results of cells to figures: tables in long form, and means in which every set counts the same.

A set's figure is the mean over splits and budgets; a mean over sets is the mean of these. An interval is Student's, at
95 %, over the sets; sets that share a source are not independent, so it is narrower than it ought to be.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
from scipy.stats import t as student

from tests.evidence.cells import Cell
from tests.evidence.contestants import DEFAULT, list_baselines
from tests.evidence.encoder_views import name_default_encoder
from tests.evidence.results import CellResult
from tests.evidence.sets import SETS, Role

BALANCED = "balanced_accuracy"
ACCURACY = "accuracy"
COVERAGE = "class_coverage"
MISPAIRED = "mispaired_share"
AUC = "suspicion_auc"
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Figures:
    """All that was found.

    Args:
        scores: one row a set, share, split, view, contestant and budget.
        gaps: one row a set, share, split and view.
        sizes: pairs of the pool and of the test, and classes, by set.
    """

    scores: pd.DataFrame
    gaps: pd.DataFrame
    sizes: dict[str, tuple[int, int, int]]

    @property
    def shares(self) -> list[float]:
        """The shares of mispaired pairs, rising."""
        return sorted(self.scores["share"].unique())

    def list_sets(self, role: Role | None = None) -> list[str]:
        """Return the sets that have results, in the order of `SETS`."""
        found = set(self.scores["set"])
        return [each.name for each in SETS if each.name in found and role in (None, each.role)]

    def restrict(self, role: Role | None) -> "Figures":
        """Return the figures of the sets of a role, of all for None."""
        kept = self.list_sets(role)
        scores, gaps = (table[table["set"].isin(kept)] for table in (self.scores, self.gaps))
        return Figures(scores, gaps, {name: self.sizes[name] for name in kept})

    def by_set(self, share: float, measure: str = BALANCED, per_class: int | None = None) -> pd.DataFrame:
        """Return a measure through the default encoder, one row a set and one column a contestant."""
        rows = self.scores
        rows = rows[(rows["view"] == name_default_encoder()) & (rows["share"] == share)]
        if per_class is not None:
            rows = rows[rows["per_class"] == per_class]
        return _pivot(rows, "contestant", measure, self.list_sets())

    def by_view(self, share: float, measure: str) -> pd.DataFrame:
        """Return a measure of the default strategy or of the gap, one row a set and one column a view.

        Over the splits that all views have: a view that was looked at on more is not compared on other pairs.
        """
        is_gap = measure in self.gaps
        rows = self.gaps if is_gap else self.scores[self.scores["contestant"] == DEFAULT]
        rows = rows[rows["share"] == share]
        num_views = rows.groupby(["set", "split"])["view"].transform("nunique")
        rows = rows[num_views == num_views.groupby(rows["set"]).transform("max")]
        return _pivot(rows, "view", measure, self.list_sets())


@dataclass(frozen=True)
class Comparison:
    """One column less another, set by set.

    Args:
        difference: mean over sets.
        half_width: of its interval; NaN for a single set.
        wins: sets on which the first is at or above the second.
        num_sets: compared.
    """

    difference: float
    half_width: float
    wins: int
    num_sets: int


def collect_figures(found: Iterable[tuple[Cell, CellResult]]) -> Figures:
    """Lay out the results of cells in long form."""
    scores, gaps, sizes = [], [], {}
    for cell, result in found:
        own = {"set": cell.set_name, "share": cell.share, "split": cell.split}
        findings = result.findings
        sizes[cell.set_name] = findings.num_pool, findings.num_test, findings.num_classes
        for view in findings.views:
            auc = float("nan") if view.suspicion_auc is None else view.suspicion_auc
            gaps.append({**own, "view": view.view, **asdict(view.gap), AUC: auc})
            scores += [{**own, "view": view.view, **asdict(score)} for score in view.scores]
    return Figures(pd.DataFrame(scores), pd.DataFrame(gaps), sizes)


def compare(first: pd.Series, second: pd.Series) -> Comparison:
    """Compare two figures a set."""
    differences = (first - second).dropna().to_numpy(dtype=float)
    num_sets = len(differences)
    half_width = float("nan")
    if num_sets > 1:
        error = differences.std(ddof=1) / num_sets**0.5
        half_width = float(student.ppf((1 + CONFIDENCE) / 2, num_sets - 1) * error)
    return Comparison(float(differences.mean()), half_width, int(np.sum(differences >= 0)), num_sets)


def find_best_single(by_set: pd.DataFrame) -> str:
    """Return the baseline of the highest mean over sets."""
    return str(_baselines_of(by_set).mean().idxmax())


def find_best_per_set(by_set: pd.DataFrame) -> pd.DataFrame:
    """Return the best baseline of each set: columns `name` and `figure`."""
    baselines = _baselines_of(by_set)
    best: pd.DataFrame = pd.DataFrame({"name": baselines.idxmax(axis=1), "figure": baselines.max(axis=1)})
    return best


def _baselines_of(by_set: pd.DataFrame) -> pd.DataFrame:
    baselines: pd.DataFrame = by_set.loc[:, [name for name in list_baselines() if name in by_set]]
    return baselines


def _pivot(rows: pd.DataFrame, columns: str, measure: str, sets: list[str]) -> pd.DataFrame:
    means: pd.DataFrame = rows.pivot_table(measure, "set", columns)
    order = [name for name in rows[columns].unique() if name in means]
    ordered: pd.DataFrame = means.reindex(index=[name for name in sets if name in means.index], columns=order)
    return ordered
