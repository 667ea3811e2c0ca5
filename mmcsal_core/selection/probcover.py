"""The `probcover` baseline: greedy cover of the pool by balls of one radius.

Yehuda, Dekel, Hacohen & Weinshall, "Active Learning Through a Covering Lens" (NeurIPS 2022, arXiv 2205.11320). As in
the paper the radius is the largest at which the share of pure balls, those that keep to one k-means cluster, is at
least 0.95. The paper has as many clusters as classes, which a cold start does not know, and the radius hangs on that
number: clusters that cut through dense places leave balls of a few rows (arXiv 2407.12212 reports the same), so give
`probcover_clusters` or `probcover_delta` where something is known of the pool. Not in the paper: of the
balls that cover equally many new rows the one whose rows lie nearest wins, since the lowest row would depend on the
pool's order; once every row is covered k-center continues; and where the balls hold more than `MAX_EDGES` pairs of
rows, each row keeps only its nearest neighbours within the ball.
"""

from dataclasses import replace

import numpy as np
import numpy.typing as npt
from scipy import sparse

from mmcsal_core.neighbors.config import NeighborConfig
from mmcsal_core.neighbors.vectors import Floats, Rows, Vectors, iter_blocks
from mmcsal_core.selection.cells import measure_distances
from mmcsal_core.selection.clusters import Clusters, cluster_rows, order_by_value
from mmcsal_core.selection.coreset import Picks, Request
from mmcsal_core.selection.covering import search_cover
from mmcsal_core.selection.engine.cover_objective import Cover
from mmcsal_core.selection.engine.lazy_blocks import Limits
from mmcsal_core.selection.joint_graph import find_ball_edges, find_neighbor_edges, make_kernel
from mmcsal_core.selection.k_center import MAX_DISTANCE, continue_k_center
from mmcsal_core.selection.pool import Pool

MAX_EDGES = 50_000_000
PURITY_ROWS = 2048
"""Rows from which the radius is measured, at most."""

MIN_RADIUS = 1e-6
"""So that equal rows share a ball."""

BLOCK_ROWS, TILE_ROWS = 256, 32_768
"""Rows that are compared with so many others at once, 32 MiB of cosines."""


def select_probcover(pool: Pool, request: Request) -> Picks:
    """Pick the row whose ball covers most rows that no ball covers yet; when all are covered, the farthest row.

    A coverage term is the share of the pool that is newly covered. A minimum gain ends the selection, since k-center's
    gains are distances.
    """
    radius = request.config.baselines.probcover_delta or choose_radius(pool.joint, request)
    kernel = build_ball_kernel(pool.joint, radius, request.config.search)
    covering = _cover(kernel, request)
    centers = np.concatenate([request.labelled, covering.indices])
    is_ended = request.config.min_gain is not None or len(covering.indices) == request.budget
    if is_ended or len(centers) == 0:
        return covering
    eligibility = request.constraints.resume(pool.num_pairs, request.labelled, covering.indices)
    limits = Limits(request.budget - len(covering.indices))
    return covering.followed_by(continue_k_center(pool, centers, eligibility, request, limits, "k_center"))


def _cover(kernel: sparse.csr_array, request: Request) -> Picks:
    """Cover until no more row would be covered, or the gain is too small; take the tie rule out of the terms."""
    num_rows = kernel.shape[0]
    eligibility = request.constraints.begin(num_rows, request.labelled)
    objective = Cover(np.ones(num_rows), 0.0)
    shards = request.engine.open_cover(kernel, objective, eligibility.list_closed())
    limits = Limits(request.budget, min_rise=0.5 / num_rows)
    picks = search_cover(objective, shards, eligibility, request, limits, "probcover")
    counted = replace(picks, terms=np.rint(picks.terms * num_rows) / num_rows)
    return counted.until(Limits(request.budget, request.least_gain))


def build_ball_kernel(joint: Vectors, radius: float, search: NeighborConfig) -> sparse.csr_array:
    """Make a kernel of nearly 0 and 1: whether two rows are nearer than `radius`, less a trifle that breaks ties.

    The trifles of all rows together come to less than one row.

    Args:
        joint: (N, D) float32 of unit length.
        radius: above 0.
        search: neighbours that are kept where the balls are too full.

    Returns:
        (N, N) int32 multiples of 2^-30.
    """
    left, right = find_ball_edges(joint, radius, MAX_EDGES) or find_neighbor_edges(joint, search)
    distances = np.where(left == right, 0.0, measure_distances(joint, left, right))
    is_inside = (distances < radius) | (left == right)
    values = 1.0 - distances[is_inside] / radius / (4 * len(joint))
    return make_kernel(values, (left[is_inside], right[is_inside]), len(joint))


def choose_radius(joint: Vectors, request: Request) -> float:
    """Return the largest radius at which the share of pure balls is as configured."""
    config = request.config.baselines
    clusters = cluster_rows(joint, min(config.probcover_clusters, len(joint)), request.seed)
    return find_pure_radius(measure_separation(joint, clusters, request.seed), config.probcover_purity)


def find_pure_radius(separation: Floats, purity: float) -> float:
    """Return the largest radius that at least a share `purity` of the rows is separated by from other clusters.

    Args:
        separation: (n,) distance of a row to the nearest row of another cluster.
        purity: in (0, 1].
    """
    num_impure = int((1.0 - purity) * len(separation) + 1e-9)
    return float(np.clip(np.sort(separation)[num_impure], MIN_RADIUS, MAX_DISTANCE))


def measure_separation(joint: Vectors, clusters: Clusters, seed: int) -> Floats:
    """Return the distance of rows to the nearest row of another cluster, infinite where there is none.

    Args:
        joint: (N, D) float32 of unit length.
        clusters: of the rows.
        seed: of the sample of rows, where there are more than `PURITY_ROWS`.

    Returns:
        (n,), n at most `PURITY_ROWS`.
    """
    rows = order_by_value(joint)
    if len(rows) > PURITY_ROWS:
        rows = np.random.default_rng(seed).choice(rows, PURITY_ROWS, replace=False)
    separation = np.full(len(rows), np.inf)
    for block in iter_blocks(len(rows), BLOCK_ROWS):
        nearest, is_alone = _find_nearest_stranger(joint, clusters.assigned, rows[block])
        separation[block] = np.where(is_alone, np.inf, measure_distances(joint, rows[block], nearest))
    return separation


def _find_nearest_stranger(joint: Vectors, assigned: Rows, rows: Rows) -> tuple[Rows, npt.NDArray[np.bool_]]:
    """Return each row's nearest row of another cluster (n,), the lowest if equally near, and where none is (n,)."""
    vectors, best = joint[rows], np.full(len(rows), -np.inf, dtype=np.float32)
    nearest = np.zeros(len(rows), dtype=np.int64)
    for tile in iter_blocks(len(joint), TILE_ROWS):
        cosines = vectors @ joint[tile].T
        cosines[assigned[rows][:, None] == assigned[tile]] = -np.inf
        places = cosines.argmax(axis=1)
        largest = np.take_along_axis(cosines, places[:, None], axis=1)[:, 0]
        is_nearer = largest > best
        nearest[is_nearer], best[is_nearer] = places[is_nearer] + tile.start, largest[is_nearer]
    return nearest, np.isneginf(best)
