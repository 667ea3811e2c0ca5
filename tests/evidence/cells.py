"""One cell of the evidence grid: a set, a share of mispaired pairs, a split and an encoder in, scores out.

The split comes first; then pairs are mispaired in the pool alone; then the encoder is fitted on the pool alone; then
all contestants pick from its embeddings. Test pairs are clean, and nothing but the probe sees them. The same split has
the same pool, mispaired pairs and test whatever the encoder.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from mmcsal_core.evaluation.config import Contestant, EvaluateConfig, ProbeName
from mmcsal_core.evaluation.contest import run_contest
from mmcsal_core.evaluation.labelled_pool import LabelledPool, encode_labels, split_pool
from mmcsal_core.metrics import measure_suspicion_auc
from mmcsal_core.neighbors.vectors import Rows
from mmcsal_core.selection.config import Strategy
from mmcsal_core.settings import Settings
from tests.evidence.contestants import DEFAULT, list_contestants
from tests.evidence.encoder_views import GapMeasures, View, fit_views, measure_gap, name_default_encoder
from tests.evidence.planting import plant_mispairs
from tests.evidence.sets import LabelledSet, find_set, load_set

PROBE: ProbeName = "features"
"""Logistic regression on the raw features of all modalities side by side: it does not hang on any encoder."""

FITTED: tuple[Strategy, ...] = ("activeft", "mmcsal_continuous")
"""Strategies that fit points by gradient steps."""


class Protocol(Settings):
    """What all cells have in common."""

    test_fraction: float = 0.3
    max_pool: int = 2500
    budgets_per_class: tuple[int, ...] = (1, 2, 5)
    num_seeds: int = 3
    seed: int = 0


@dataclass(frozen=True)
class Cell:
    """Which cell: the set's name, the share of mispaired pairs, the number of the split, the encoder's name."""

    set_name: str
    share: float
    split: int
    encoder: str

    @property
    def key(self) -> str:
        """Name in the file of results."""
        return f"{self.set_name} | {self.share:g} | {self.split} | {self.encoder}"


@dataclass(frozen=True)
class Score:
    """What came of one contestant's picks, mean over draws.

    Args:
        contestant: name.
        per_class: the budget over the number of classes.
        balanced_accuracy: of the probe on the test pairs.
        accuracy: the same, every pair counting once.
        class_coverage: share of the pool's classes among the picks.
        mispaired_share: of the picks.
    """

    contestant: str
    per_class: int
    balanced_accuracy: float
    accuracy: float
    class_coverage: float
    mispaired_share: float


@dataclass(frozen=True)
class ViewResult:
    """What was found through one view of an encoder.

    Args:
        view: its name.
        gap: on the test pairs.
        suspicion_auc: how often a mispaired pair is more suspicious than a right one; None where none is mispaired.
        scores: of the contestants.
    """

    view: str
    gap: GapMeasures
    suspicion_auc: float | None
    scores: tuple[Score, ...]


@dataclass(frozen=True)
class Findings:
    """What was found in a cell: pairs of its pool and its test, classes of its pool, and one result a view."""

    num_pool: int
    num_test: int
    num_classes: int
    views: tuple[ViewResult, ...]


@dataclass(frozen=True)
class SplitSet:
    """A set's pool, with mispaired pairs planted, and its test pairs."""

    pool: LabelledSet
    test: LabelledSet
    is_mispaired: npt.NDArray[np.bool_]
    pool_codes: Rows
    test_codes: Rows


def run_cell(cell: Cell, protocol: Protocol, cache: Path) -> Findings:
    """Run a cell in this process; equal arguments give equal results."""
    return judge_cell(cell, protocol, load_set(find_set(cell.set_name), cache))


def judge_cell(cell: Cell, protocol: Protocol, labelled: LabelledSet) -> Findings:
    """Run a cell on a set that is at hand."""
    parts = split_and_plant(labelled, cell.share, cell.split, protocol)
    views = fit_views(cell.encoder, parts.pool.features, parts.test.features, cell.split)
    results = []
    for view in views:
        names = list(list_contestants()) if view.name == name_default_encoder() else [DEFAULT]
        scores = hold_contest(parts, view, names, protocol, cell.split)
        auc = measure_suspicion_auc(view.suspicion, parts.is_mispaired)
        results.append(ViewResult(view.name, measure_gap(view.test, cell.split), auc, tuple(scores)))
    sizes = len(parts.pool_codes), len(parts.test_codes), len(np.unique(parts.pool_codes))
    return Findings(*sizes, tuple(results))


def split_and_plant(labelled: LabelledSet, share: float, split: int, protocol: Protocol) -> SplitSet:
    """Split class by class, thin the pool where it is too large, and mispair a share of it.

    The modality that is moved takes turns over the splits.
    """
    codes, _ = encode_labels(labelled.labels.tolist())
    splits = split_pool(codes, split + 1, protocol.test_fraction, protocol.seed)
    pool_rows, test_rows = splits[split]
    rng = np.random.default_rng([protocol.seed, split])
    if len(pool_rows) > protocol.max_pool:
        pool_rows = np.sort(rng.choice(pool_rows, protocol.max_pool, replace=False))
    pool, test = labelled.take(pool_rows), labelled.take(test_rows)
    modalities = list(labelled.features)
    features, is_mispaired = plant_mispairs(pool.features, share, modalities[split % len(modalities)], rng)
    return SplitSet(LabelledSet(features, pool.labels), test, is_mispaired, codes[pool_rows], codes[test_rows])


def hold_contest(parts: SplitSet, view: View, names: list[str], protocol: Protocol, split: int) -> list[Score]:
    """Let contestants pick from the pool, and average their scores over draws.

    Args:
        parts: pool and test.
        view: embeddings of both.
        names: of the contestants.
        protocol: budgets and draws.
        split: the seed of what contestants draw.
    """
    pool = LabelledPool(view.pool, parts.pool.features, parts.pool_codes, parts.is_mispaired, view.suspicion)
    test = LabelledPool(view.test, parts.test.features, parts.test_codes)
    contestants = [Contestant(name, config) for name, config in list_contestants().items() if name in names]
    table = pd.concat(
        run_contest(pool, drawn, _configure(protocol, num_draws), split, test).to_pandas()
        for drawn, num_draws in _share_draws(contestants, protocol)
    )
    measures = ["balanced_accuracy", "accuracy", "class_coverage", "mispaired_share"]
    means = table.groupby(["contestant", "budget"], sort=False)[measures].mean().reset_index()
    per_class = means.pop("budget") // len(pool.classes)
    scores = [
        Score(per_class=int(number), **row) for number, row in zip(per_class, means.to_dict("records"), strict=True)
    ]
    return sorted(scores, key=lambda score: names.index(score.contestant))


def _configure(protocol: Protocol, num_draws: int) -> EvaluateConfig:
    budgets = protocol.budgets_per_class
    return EvaluateConfig(
        budgets_per_class=budgets, baseline_budgets_per_class=budgets, num_seeds=num_draws, probes=(PROBE,)
    )


def _share_draws(contestants: Sequence[Contestant], protocol: Protocol) -> list[tuple[list[Contestant], int]]:
    """Return contestants by the number of their draws: those that fit points take most of the time and draw once."""
    slow = [each for each in contestants if each.config.strategy in FITTED]
    quick = [each for each in contestants if each.config.strategy not in FITTED]
    return [(some, draws) for some, draws in ((quick, protocol.num_seeds), (slow, 1)) if some]
