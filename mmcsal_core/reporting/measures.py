"""What a selection is worth, measured against uniform random draws and k-means on the same pool.

All measures are neutral: none is the objective that the selection maximised. Coverage and radius need every vector that
they speak of in memory, so a large pool is measured on a seeded sample that holds all selected pairs. How many values
of a metadata column random draws cover is computed exactly, without drawing.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from scipy.special import gammaln

from mmcsal_core.metrics import measure_coverage_curve, measure_covering_radius
from mmcsal_core.selection import select_coreset

Indices = npt.NDArray[np.int64]
Vectors = Mapping[str, npt.NDArray[np.float32]]

MAX_VALUES = 50
"""Metadata columns with more distinct values than this are not compared."""

NUM_BUDGETS = 10
"""Points of a coverage curve."""

NUM_BINS = 20
"""Bars of a histogram."""


def sample_pool(num_pool: int, picks: Indices, max_rows: int, rng: np.random.Generator) -> Indices:
    """Return the rows that are measured, ascending: all `picks`, and others at random up to `max_rows` in all.

    Args:
        num_pool: rows of the pool.
        picks: rows that were selected, (B,).
        max_rows: most rows to return; if `picks` are more, they alone are returned.
        rng: source of randomness, not used where the whole pool fits.
    """
    if num_pool <= max_rows:
        return np.arange(num_pool)
    others = np.setdiff1d(np.arange(num_pool), picks, assume_unique=True)
    drawn = rng.choice(others, size=max(0, max_rows - len(picks)), replace=False)
    return np.sort(np.concatenate([picks, drawn]))


def choose_budgets(budget: int) -> list[int]:
    """Return at most `NUM_BUDGETS` budgets from 1 to `budget`, evenly spaced on a log scale."""
    return sorted({round(value) for value in np.geomspace(1, budget, NUM_BUDGETS)}) if budget else []


def compare_coverage(vectors: Vectors, picks: Indices, num_draws: int, seed: int) -> dict[str, Any]:
    """Compare the coverage and the radius of `picks` with random draws and with k-means at the same budgets.

    Args:
        vectors: unit vectors of the measured pairs, (n, dim) a modality.
        picks: rows of `vectors` in pick order, (B,).
        num_draws: uniform draws without replacement.
        seed: of the draws and of k-means.

    Returns:
        JSON values: `budgets`, one list of coverages a method, and `covering_radius` at the last budget.
    """
    budgets, num_rows = choose_budgets(len(picks)), len(next(iter(vectors.values())))
    rng = np.random.default_rng(seed)
    draws = [rng.permutation(num_rows)[: len(picks)] for _ in range(num_draws)]
    clustered = [select_coreset(vectors, budget, strategy="kmeans", seed=seed).indices for budget in budgets]
    random_curves = np.array([measure_coverage_curve(vectors, draw, budgets) for draw in draws])
    radii = np.array([measure_covering_radius(vectors, draw) for draw in draws])
    return {
        "budgets": budgets,
        "selection": _to_list(measure_coverage_curve(vectors, picks, budgets)),
        "kmeans": [float(measure_coverage_curve(vectors, rows, [len(rows)])[0]) for rows in clustered],
        "random_mean": _to_list(random_curves.mean(axis=0)),
        "random_min": _to_list(random_curves.min(axis=0)),
        "random_max": _to_list(random_curves.max(axis=0)),
        "covering_radius": {
            "selection": float(measure_covering_radius(vectors, picks)),
            "kmeans": float(measure_covering_radius(vectors, clustered[-1])),
            "random_mean": float(radii.mean()),
            "random_min": float(radii.min()),
            "random_max": float(radii.max()),
        },
    }


def expect_values_covered(counts: Sequence[int], num_pool: int, budget: int) -> float:
    """Return how many values a uniform draw covers on average, exactly (hypergeometric).

    Args:
        counts: pairs of the pool that carry each value.
        num_pool: pairs of the pool, those without a value included.
        budget: pairs drawn without replacement, at most `num_pool`.
    """
    rest = num_pool - np.asarray(counts, dtype=np.float64)
    log_missed = np.full(len(rest), -np.inf)
    possible = rest >= budget
    log_missed[possible] = gammaln(rest[possible] + 1) - gammaln(rest[possible] - budget + 1)
    log_missed[possible] -= gammaln(num_pool + 1) - gammaln(num_pool - budget + 1)
    return float((1 - np.exp(log_missed)).sum())


def count_values(tables: Iterable[pa.Table], columns: Sequence[str]) -> dict[str, dict[str | None, int]]:
    """Count the values of each column over `tables`; columns with more than `MAX_VALUES` are left out.

    Returns:
        Column -> value as text (None for null) -> pairs that carry it.
    """
    counts: dict[str, dict[str | None, int]] = {name: {} for name in columns}
    for table in tables:
        for name in list(counts):
            for entry in pc.value_counts(table[name].combine_chunks()).to_pylist():
                value = None if entry["values"] is None else str(entry["values"])
                counts[name][value] = counts[name].get(value, 0) + entry["counts"]
            if len(counts[name]) > MAX_VALUES:
                del counts[name]
    return counts


def compare_metadata(
    pool: Mapping[str, Mapping[str | None, int]], selection: pa.Table, budgets: Sequence[int]
) -> list[dict[str, Any]]:
    """Compare how many values of each column the first picks cover with what uniform draws cover on average.

    Args:
        pool: from `count_values`, over the pool.
        selection: the picks in order, with the same columns.
        budgets: numbers of first picks to look at.
    """
    found = []
    for name, counts in pool.items():
        known = {value: size for value, size in counts.items() if value is not None}
        if len(known) < 2:
            continue
        num_pool, sizes = sum(counts.values()), list(known.values())
        values = [None if value is None else str(value) for value in selection[name].to_pylist()]
        found.append(
            {
                "column": name,
                "num_values": len(known),
                "budgets": list(budgets),
                "covered": [len(known.keys() & set(values[:budget])) for budget in budgets],
                "expected_random": [expect_values_covered(sizes, num_pool, min(b, num_pool)) for b in budgets],
            }
        )
    return found


def _to_list(values: npt.NDArray[Any]) -> list[float]:
    return [float(value) for value in values]
