"""The claims of the method, judged by the figures: each holds or does not, with the numbers that decide it.

Thresholds are fixed here, before a run; a claim about a share of mispaired pairs that was not run is left out.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd

from tests.evidence.contestants import DEFAULT, NO_ALIGNMENT, RANDOM
from tests.evidence.encoder_views import CENTRED, INFO_NCE, UNTRAINED, list_encoders, name_default_encoder
from tests.evidence.figures import (
    BALANCED,
    COVERAGE,
    MISPAIRED,
    Comparison,
    Figures,
    compare,
    find_best_per_set,
    find_best_single,
)

WON_SETS = 2 / 3
"""Share of the sets on which the default must be at or above the best baseline of the set."""

PICKED_OF_POOL = 1 / 5
"""The most of the pool's share of mispaired pairs that the default may pick."""

HEAVY_SHARE = 0.15
"""A share of mispaired pairs from which on that must hold."""

COVERAGE_TOLERANCE = 0.005
"""A loss of class coverage below this is none: other splits change the mean by as much."""

GAP_RATIO = 0.5
RETRIEVAL_TOLERANCE = 0.01


@dataclass(frozen=True)
class Verdict:
    """Whether a claim holds, and by which figures."""

    holds: bool
    figures: str


@dataclass(frozen=True)
class Claim:
    """A claim of the method.

    Args:
        text: in one sentence.
        judge: figures of some sets in, verdict out.
    """

    text: str
    judge: Callable[[Figures], Verdict]


def list_claims(figures: Figures) -> list[Claim]:
    """Return the claims that can be judged by what was run."""
    claims = []
    for share in figures.shares:
        claims += _list_selection_claims(share)
    for share in figures.shares:
        if share >= HEAVY_SHARE:
            claims += _list_mispair_claims(share)
    for view in list_prototype_views(figures):
        claims += _list_encoder_claims(view, figures.shares[0])
    return claims


def list_prototype_views(figures: Figures) -> list[str]:
    """Return the views of encoders with prototypes, the default first; none where InfoNCE alone was not run."""
    views = set(figures.gaps["view"])
    if INFO_NCE not in views:
        return []
    default = name_default_encoder()
    with_prototypes = [name for name, config in list_encoders().items() if config.lambda_proto and name != UNTRAINED]
    return sorted((name for name in with_prototypes if name in views), key=lambda name: name != default)


def describe_share(share: float) -> str:
    """Return e.g. `clean` or `20 % mispaired`."""
    return f"{100 * share:g} % mispaired" if share else "clean"


def show(value: float) -> str:
    """Return three digits after the point, without the leading 0."""
    text = f"{value:.3f}"
    return text.replace("0.", ".", 1) if abs(value) < 1 and not text.endswith("1.000") else text


def describe_comparison(found: Comparison) -> str:
    """Return difference, interval where there are several sets, and the sets at or above."""
    interval = "" if math.isnan(found.half_width) else f" ± {found.half_width:.3f}"
    return f"{found.difference:+.3f}{interval}, {found.wins}/{found.num_sets} sets"


def _list_selection_claims(share: float) -> list[Claim]:
    pool = describe_share(share)
    return [
        Claim(f"{pool}: the default beats every single baseline on the mean", lambda f: judge_single(f, share)),
        Claim(
            f"{pool}: the default is at or above the best baseline of the set on two sets in three",
            lambda f: judge_per_set(f, share),
        ),
        Claim(f"{pool}: on no set is the default below random", lambda f: judge_random(f, share)),
    ]


def _list_mispair_claims(share: float) -> list[Claim]:
    pool = describe_share(share)
    return [
        Claim(
            f"{pool}: the default picks at most a fifth of the pool's share of mispaired pairs",
            lambda f: judge_mispaired(f, share),
        ),
        Claim(
            f"{pool}: alignment costs no class coverage (less than {COVERAGE_TOLERANCE:g})",
            lambda f: judge_coverage(f, share),
        ),
    ]


def _list_encoder_claims(view: str, share: float) -> list[Claim]:
    name = f"{view}, the default" if view == name_default_encoder() else view
    return [
        Claim(f"{name}: centroid gap at most half of that of InfoNCE alone", lambda f: judge_gap(f, share, view)),
        Claim(f"{name}: modality classifier nearer to 0.5", lambda f: judge_classifier(f, share, view)),
        Claim(f"{name}: retrieval R@1 no worse by more than 1 point", lambda f: judge_retrieval(f, share, view)),
        Claim(f"{name}: selection better than with mean-centring alone", lambda f: judge_centring(f, share, view)),
    ]


def judge_single(figures: Figures, share: float) -> Verdict:
    """Compare the default with the baseline of the highest mean."""
    by_set = figures.by_set(share)
    best = find_best_single(by_set)
    own, other = by_set[DEFAULT].mean(), by_set[best].mean()
    return Verdict(bool(own > other), f"{show(own)} against {show(other)}, {best}")


def judge_per_set(figures: Figures, share: float) -> Verdict:
    """Compare the default with the best baseline of each set."""
    by_set = figures.by_set(share)
    best = find_best_per_set(by_set)["figure"]
    found = compare(by_set[DEFAULT], best)
    return Verdict(
        found.wins >= WON_SETS * found.num_sets,
        f"{found.wins} of {found.num_sets} sets, mean {show(by_set[DEFAULT].mean())} against {show(best.mean())}",
    )


def judge_random(figures: Figures, share: float) -> Verdict:
    """Look for the sets on which the default is below random."""
    by_set = figures.by_set(share)
    margin = by_set[DEFAULT] - by_set[RANDOM]
    below = [str(name) for name in margin.index[margin < 0]]
    least = f"least margin {show(margin.min())} on {margin.idxmin()}"
    return Verdict(not below, f"below on {', '.join(below)}; {least}" if below else least)


def judge_mispaired(figures: Figures, share: float) -> Verdict:
    """Compare the mispaired share of the picks with that of the pool."""
    picked = figures.by_set(share, MISPAIRED)[DEFAULT].mean()
    return Verdict(bool(picked <= PICKED_OF_POOL * share), f"{show(picked)} of the picks, {show(share)} of the pool")


def judge_coverage(figures: Figures, share: float) -> Verdict:
    """Compare the default's class coverage with that of the default without alignment."""
    by_set = figures.by_set(share, COVERAGE)
    own, other = by_set[DEFAULT].mean(), by_set[NO_ALIGNMENT].mean()
    return Verdict(bool(own >= other - COVERAGE_TOLERANCE), f"{show(own)} against {show(other)} without alignment")


def judge_gap(figures: Figures, share: float, view: str) -> Verdict:
    """Compare centroid gaps on test pairs."""
    own, other = _compare_views(figures.by_view(share, "gap"), view)
    return Verdict(own <= GAP_RATIO * other, f"{show(own)} against {show(other)}")


def judge_classifier(figures: Figures, share: float, view: str) -> Verdict:
    """Compare how well a linear classifier tells the modality of a test embedding."""
    own, other = _compare_views(figures.by_view(share, "modality_accuracy"), view)
    return Verdict(abs(own - 0.5) < abs(other - 0.5), f"{show(own)} against {show(other)}")


def judge_retrieval(figures: Figures, share: float, view: str) -> Verdict:
    """Compare R@1 on test pairs."""
    own, other = _compare_views(figures.by_view(share, "retrieval"), view)
    return Verdict(own >= other - RETRIEVAL_TOLERANCE, f"{show(own)} against {show(other)}")


def judge_centring(figures: Figures, share: float, view: str) -> Verdict:
    """Compare the default strategy through prototypes and through centred embeddings of InfoNCE alone."""
    by_view, centred = figures.by_view(share, BALANCED), f"{INFO_NCE}{CENTRED}"
    own, other = _compare_views(by_view, view, centred)
    found = compare(by_view[view], by_view[centred])
    return Verdict(own > other, f"{show(own)} against {show(other)} ({describe_comparison(found)})")


def _compare_views(by_set: pd.DataFrame, view: str, other: str = INFO_NCE) -> tuple[float, float]:
    """Return the means of two views over the sets that have both."""
    both = by_set[[view, other]].dropna()
    return float(both[view].mean()), float(both[other].mean())
