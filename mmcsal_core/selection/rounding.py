"""Round points of a space to distinct rows of the pool: centroids to medoids, fitted points to pairs."""

import faiss
import numpy as np

from mmcsal_core.neighbors.vectors import Rows, Vectors, iter_blocks
from mmcsal_core.selection.engine.eligibility import Eligibility

SHORTLIST = 32
"""Rows looked at first for each point; the whole pool is searched only where all of them are closed."""

BLOCK_POINTS = 1024


def round_to_rows(vectors: Vectors, points: Vectors, eligibility: Eligibility) -> list[int]:
    """Take for each point in turn the open row of the largest inner product; ties go to the lowest row.

    Args:
        vectors: (N, D) float32.
        points: (P, D) float32.
        eligibility: who may be picked; changed.

    Returns:
        P distinct rows; fewer where no row is open any more.
    """
    rows: list[int] = []
    for block in iter_blocks(len(points), BLOCK_POINTS):
        for point, shortlist in zip(points[block], _list_nearest(vectors, points[block]), strict=True):
            is_open = eligibility.is_open[shortlist]
            if not is_open.any() and not eligibility.is_open.any():
                return rows
            row = int(shortlist[is_open.argmax()]) if is_open.any() else _search_all(vectors, point, eligibility)
            eligibility.take(row)
            rows.append(row)
    return rows


def _list_nearest(vectors: Vectors, points: Vectors) -> Rows:
    """Return the rows nearest to each point, (P, K), nearest first."""
    num_rows = min(SHORTLIST, len(vectors))
    similarities, rows = faiss.knn(points, vectors, num_rows, metric=faiss.METRIC_INNER_PRODUCT)
    order = np.lexsort((rows, -similarities), axis=1)
    return np.asarray(np.take_along_axis(rows, order, axis=1))


def _search_all(vectors: Vectors, point: Vectors, eligibility: Eligibility) -> int:
    return int(np.where(eligibility.is_open, vectors @ point, -np.inf).argmax())
