"""The `kmeans` baseline: the row nearest to each k-means centroid of the concatenated embeddings.

Cold-start active learning by clustering goes back to Nguyen & Smeulders, "Active learning using pre-clustering" (ICML
2004). The best of three restarts, and one medoid a cluster, so that the budget is the number of clusters.
"""

from mmcsal_core.errors import ConfigError
from mmcsal_core.selection.clusters import cluster_rows
from mmcsal_core.selection.coreset import Picks, Request, collect_picks
from mmcsal_core.selection.pool import Pool
from mmcsal_core.selection.rounding import round_to_rows

NUM_RESTARTS = 3


def select_kmeans(pool: Pool, request: Request) -> Picks:
    """Pick the open row nearest to each centroid, largest cluster first.

    A pick's coverage term is its cluster's share of the pool.

    Raises:
        ConfigError: rows are labelled already, which k-means cannot take into account.
    """
    if len(request.labelled):
        raise ConfigError(
            f"strategy kmeans cannot continue from labelled pairs, got {len(request.labelled)}; "
            "use mmcsal, coverage, typiclust, k_center or random"
        )
    clusters = cluster_rows(pool.joint, request.budget, request.seed, NUM_RESTARTS)
    ranking = clusters.rank()
    eligibility = request.constraints.begin(pool.num_pairs, request.labelled)
    rows = round_to_rows(pool.joint, clusters.centroids[ranking], eligibility)
    sizes = clusters.sizes[ranking][: len(rows)].tolist()
    return collect_picks(rows, "kmeans", [(size / pool.num_pairs, 0.0, 0.0) for size in sizes])
