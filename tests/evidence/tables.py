"""The tables of the evidence document, each from figures to Markdown."""

from collections.abc import Sequence
from itertools import pairwise

import pandas as pd

from tests.evidence.claims import Claim, Verdict, describe_comparison, describe_share, show
from tests.evidence.contestants import (
    CONTINUOUS,
    DEFAULT,
    LADDER,
    NO_ALIGNMENT,
    NO_SWAPS,
    ONE_KERNEL,
    RANDOM,
    RAW,
    SUM,
    list_baselines,
)
from tests.evidence.encoder_views import INFO_NCE, name_default_encoder
from tests.evidence.figures import (
    ACCURACY,
    AUC,
    BALANCED,
    COVERAGE,
    MISPAIRED,
    Figures,
    compare,
    find_best_per_set,
    find_best_single,
)
from tests.evidence.sets import ROLES, SETS, find_set

PARTS = (*(name for name, _ in LADDER), DEFAULT, NO_SWAPS, NO_ALIGNMENT, ONE_KERNEL, SUM, RAW, CONTINUOUS)
PART_NAMES = {DEFAULT: f"+ diversity = **{DEFAULT}**"}


def render_claims(claims: Sequence[Claim], figures: Figures) -> str:
    """One row a claim: over all sets, those chosen on, those that confirm."""
    groups = [None, *(role for role in ROLES if figures.list_sets(role))]
    heading = ["claim", *(f"{role or 'all'} ({len(figures.list_sets(role))} sets)" for role in groups)]
    rows = [[claim.text, *(_describe(claim.judge(figures.restrict(role))) for role in groups)] for claim in claims]
    return render_table(heading, rows)


def render_contestants(figures: Figures, share: float, *, parts: bool) -> str:
    """One row a contestant: by budget, by role, and against the default; the best mean first, parts in their order."""
    by_set = figures.by_set(share)
    names = [name for name in (PARTS if parts else [DEFAULT, *list_baselines()]) if name in by_set]
    if not parts:
        names.sort(key=lambda name: -by_set[name].mean())
    columns, rows = _list_columns(figures, share), []
    for name in names:
        shown = PART_NAMES.get(name, name) if parts else (f"**{name}**" if name == DEFAULT else name)
        against = "" if name == DEFAULT else describe_comparison(compare(by_set[DEFAULT], by_set[name]))
        rows.append([shown, *(show(column[name].mean()) for column in columns.values()), against])
    return render_table(["", *columns, "default less this one"], rows)


def _list_columns(figures: Figures, share: float) -> dict[str, pd.DataFrame]:
    """Return what is shown of a contestant by heading, each one row a set and one column a contestant."""
    budgets = sorted(figures.scores["per_class"].unique())
    columns = {f"{budget} a class": figures.by_set(share, per_class=int(budget)) for budget in budgets}
    columns["mean"] = figures.by_set(share)
    for role in ROLES:
        if figures.list_sets(role):
            columns[role] = figures.restrict(role).by_set(share)
    columns["accuracy"] = figures.by_set(share, ACCURACY)
    columns["class coverage"] = figures.by_set(share, COVERAGE)
    if share > 0:
        columns["mispaired picks"] = figures.by_set(share, MISPAIRED)
    return columns


def render_sets(figures: Figures, share: float) -> str:
    """One row a set: the default, random, the best single baseline, and the best baseline of this set."""
    by_set = figures.by_set(share)
    single, best = find_best_single(by_set), find_best_per_set(by_set)
    roles = {each.name: each.role for each in SETS}
    heading = ["set", "", DEFAULT, RANDOM, single, "best baseline of the set", "", "default less the best"]
    rows = []
    for name, winner, figure in zip(map(str, by_set.index), best["name"], best["figure"], strict=True):
        own, numbers = by_set.at[name, DEFAULT], [by_set.at[name, each] for each in (DEFAULT, RANDOM, single)]
        rows.append([name, roles[name], *map(show, [*numbers, figure]), winner, f"{own - figure:+.3f}"])
    return render_table(heading, rows)


def render_sizes(figures: Figures) -> str:
    """One row a set: what its pairs are of, and how many there are."""
    rows = []
    for name in figures.list_sets():
        declared, (num_pool, num_test, num_classes) = find_set(name), figures.sizes[name]
        halves = " + ".join(declared.modalities)
        rows.append([name, declared.role, halves, str(num_classes), str(num_pool), str(num_test)])
    return render_table(["set", "", "modalities", "classes", "pool", "test"], rows)


def render_views(figures: Figures) -> str:
    """One row a view of an encoder: the gap on clean test pairs, and what the default strategy picks through it."""
    shares = figures.shares
    gaps = {measure: figures.by_view(shares[0], measure) for measure in ("gap", "modality_accuracy", "retrieval")}
    picks = {share: figures.by_view(share, BALANCED) for share in shares}
    heading = ["embeddings", "centroid gap", "modality classifier", "retrieval R@1"]
    heading += [f"balanced accuracy, {describe_share(share)}" for share in shares]
    found = {share: figures.by_view(share, AUC) for share in shares if share > 0}
    heading += [f"AUC of suspicion, {describe_share(share)}" for share in found]
    rows = []
    for view in map(str, gaps["gap"]):
        tables = [*gaps.values(), *picks.values(), *found.values()]
        numbers = [show(table[view].mean()) if view in table else "" for table in tables]
        rows.append([f"**{view}**" if view == name_default_encoder() else view, *numbers])
    return render_table(heading, rows)


def render_gaps(figures: Figures, own: str) -> str:
    """One row a set: the gap of InfoNCE alone and of another view."""
    measures = ("gap", "modality_accuracy", "retrieval")
    tables = {measure: figures.by_view(figures.shares[0], measure) for measure in measures}
    heading = ["set", *(f"{name}, {view}" for name in ("gap", "classifier", "R@1") for view in (INFO_NCE, own))]
    rows = []
    for name in tables["gap"].index:
        rows.append(
            [str(name), *(show(table.loc[name, view]) for table in tables.values() for view in (INFO_NCE, own))]
        )
    return render_table(heading, rows)


def list_failures(claims: Sequence[Claim], figures: Figures) -> list[str]:
    """Return in sentences what the figures speak against: claims, parts that cost accuracy, rows above the default."""
    failures = []
    for claim in claims:
        verdict = claim.judge(figures)
        if not verdict.holds:
            failures.append(f"Does not hold: {claim.text} ({verdict.figures}).")
    for share in figures.shares:
        by_set = figures.by_set(share)
        failures += [f"{describe_share(share)}: {text}" for text in _list_harm(by_set)]
    return failures


def _list_harm(by_set: pd.DataFrame) -> list[str]:
    steps = [name for name in PARTS[: len(LADDER) + 1] if name in by_set]
    harm = []
    for before, after in pairwise(steps):
        found = compare(by_set[after], by_set[before])
        if found.difference <= 0:
            part = "+ diversity" if after == DEFAULT else after
            harm.append(f"the step `{part}` did not raise balanced accuracy ({describe_comparison(found)}).")
    for name in map(str, by_set):
        found = compare(by_set[name], by_set[DEFAULT])
        if found.difference > 0:
            harm.append(f"`{name}` did better than the default ({describe_comparison(found)}).")
    return harm


def render_table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Render Markdown; the first column to the left."""
    lines = [heading, ["---"] * len(heading), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _describe(verdict: Verdict) -> str:
    return f"{'**holds**' if verdict.holds else '**does not hold**'}: {verdict.figures}"
