"""The pair kernel of a pool on its k-nearest-neighbour graph, and how far each pair is suspected of being mispaired.

Neighbours are those stored by an earlier stage where there are any, and searched here else; so is the suspicion. Those
in the backbones' own spaces join the graph, since they keep what the projection drops.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from scipy import sparse

from mmcsal_core.neighbors.backbone_space import reduce_features
from mmcsal_core.neighbors.graph import build_graph
from mmcsal_core.neighbors.index import find_rows
from mmcsal_core.neighbors.relations import Relation, list_backbone_relations, list_shared_relations, weigh_relations
from mmcsal_core.neighbors.suspicion import measure_witnesses, score_suspicion, weigh_suspicion
from mmcsal_core.neighbors.vectors import Floats, Rows, Vectors
from mmcsal_core.neighbors.whole_kernel import Whole
from mmcsal_core.schema import relation_name
from mmcsal_core.selection.config import SelectionConfig
from mmcsal_core.selection.horizon import find_horizon
from mmcsal_core.selection.pool import Pool


@dataclass(frozen=True, eq=False)
class PairGraph:
    """What the objective needs to know of a pool.

    Args:
        kernel: (N, N) int32 multiples of 2^-30, sparse, symmetric, the diagonal stored.
        suspicion: (N,) in [0, 1], from `weigh_suspicion`: 0 but for the most suspicious pairs.
        floor: (N,) int32, the kernel value beyond which a row's neighbours are not known.
    """

    kernel: sparse.csr_array
    suspicion: Floats
    floor: Whole


def build_pair_graph(pool: Pool, config: SelectionConfig, seed: int) -> PairGraph:
    """Compute the pair kernel on the union of all relations' neighbours, and each pair's suspicion.

    Args:
        pool: N pairs.
        config: kernel, search and share of suspicious pairs.
        seed: of the sample of rows behind the bandwidths.
    """
    backbones = list_backbone_relations(find_backbone_spaces(pool, config), config.kernel)
    relations = weigh_relations(list_shared_relations(pool.embeddings, config.kernel) + backbones, pool.weights)
    neighbors = find_neighbors(pool, backbones, config)
    kernel = build_graph(relations, neighbors.values(), config.kernel, seed)
    scores = pool.suspicion
    if scores is None:
        scores = score_suspicion(measure_witnesses(pool.embeddings, neighbors))
    suspicion = weigh_suspicion(scores, config.suspicious_fraction)
    num_neighbors = max(rows.shape[1] for rows in neighbors.values())
    return PairGraph(kernel, suspicion, find_horizon(kernel, num_neighbors, config.kernel.horizon))


def find_backbone_spaces(pool: Pool, config: SelectionConfig) -> dict[str, Vectors]:
    """Return the backbones' own spaces, stored or made from the features; none where they are left out.

    Returns:
        (N, dim_m) float32 of unit length by modality.
    """
    if config.kernel.backbone_weight == 0:
        return {}
    if pool.spaces is not None:
        return dict(pool.spaces)
    dims = config.search.backbone_dims
    return {name: reduce_features(x, dims) for name, x in pool.features.items()} if dims else {}


def find_neighbors(pool: Pool, backbones: Sequence[Relation], config: SelectionConfig) -> dict[str, Rows]:
    """Take the stored neighbours of every relation of the graph, or search them.

    Args:
        pool: N pairs.
        backbones: relations of the backbones' own spaces.
        config: how to search.

    Returns:
        (N, K) rows by relation name: every ordered pair of modalities, then the backbones.
    """
    pairs = {
        relation_name(query, target): (pool.embeddings[query], pool.embeddings[target])
        for query, target in itertools.product(pool.embeddings, repeat=2)
    }
    pairs |= {relation_name(relation.name, relation.name): (relation.queries, relation.pool) for relation in backbones}
    stored = pool.neighbors or {}
    return {name: stored[name] if name in stored else find_rows(*pairs[name], config.search) for name in pairs}
