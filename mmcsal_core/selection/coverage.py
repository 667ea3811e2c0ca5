"""The `coverage` strategy: greedy facility location with a Gaussian kernel on the concatenated embeddings.

Facility location is monotone and submodular, so greedy reaches 1 - 1/e of the optimum (Nemhauser, Wolsey & Fisher, "An
analysis of approximations for maximizing submodular set functions", 1978); as a choice of what to label: Wei, Iyer &
Bilmes, "Submodularity in data subset selection and active learning" (ICML 2015). The kernel is held whole or, in large
pools, on k-nearest-neighbour edges; its bandwidth is taken from the pool; there is one relation, and no trust.
"""

from mmcsal_core.neighbors.config import KernelConfig
from mmcsal_core.neighbors.couples import open_couples
from mmcsal_core.neighbors.kernel import compute_kernel
from mmcsal_core.neighbors.relations import Relation
from mmcsal_core.selection.coreset import Picks, Request
from mmcsal_core.selection.covering import cover_greedily
from mmcsal_core.selection.horizon import find_horizon
from mmcsal_core.selection.pool import Pool


def select_coverage(pool: Pool, request: Request) -> Picks:
    """Pick the row that raises the mean best kernel value most, again and again."""
    config = request.config
    relation = Relation("joint", pool.joint, pool.joint, 1.0)
    couples, num_near = open_couples(pool.joint, config.kernel, config.search)
    kernel_config = KernelConfig(bandwidth_neighbor=config.baselines.coverage_neighbor)
    kernel = compute_kernel(couples, [relation], kernel_config, request.seed)
    return cover_greedily(kernel, request, "coverage", find_horizon(kernel, num_near, config.kernel.horizon))
