"""The pair kernel of a pool, and how far each pair is suspected of being mispaired.

A small pool holds the kernel of all couples, a larger one that of its k-nearest-neighbour graph: neighbours stored by
an earlier stage where there are any, and searched here else; so is the suspicion. Neighbours in the backbones' own
spaces join the graph, since they keep what the projection drops.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from scipy import sparse

from mmcsal_core.neighbors.backbone_space import reduce_features
from mmcsal_core.neighbors.couples import AllCouples, EdgeCouples
from mmcsal_core.neighbors.index import find_rows
from mmcsal_core.neighbors.kernel import compute_kernel
from mmcsal_core.neighbors.neighborhoods import average_neighborhoods, list_nearest
from mmcsal_core.neighbors.relations import (
    Relation,
    list_backbone_relations,
    list_neighborhood_relations,
    list_shared_relations,
    weigh_relations,
)
from mmcsal_core.neighbors.suspicion import measure_witnesses, score_suspicion, weigh_suspicion
from mmcsal_core.neighbors.vectors import Floats, Rows, Vectors
from mmcsal_core.neighbors.whole_kernel import Whole
from mmcsal_core.schema import backbone_space, relation_name
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


def build_pair_graph(pool: Pool, config: SelectionConfig, seed: int, *, backbones_alone: bool = False) -> PairGraph:
    """Compute the pair kernel, of all couples or on the union of all relations' neighbours, and each pair's suspicion.

    Neighbourhoods are those of the kernel without them; what is near in their space then joins the graph.

    Args:
        pool: N pairs.
        config: kernel, search and share of suspicious pairs.
        seed: of the sample of rows behind the bandwidths.
        backbones_alone: only the relations in the backbones' own spaces count, where there are any.
    """
    spaces, is_whole = find_backbone_spaces(pool, config), pool.num_pairs <= config.kernel.max_dense_pairs
    backbones = list_backbone_relations(spaces, config.kernel)
    backbones_alone &= bool(backbones)
    needs_neighbors = not is_whole or pool.suspicion is None
    neighbors = find_neighbors(pool, backbones, config) if needs_neighbors else {}
    couples = AllCouples(pool.num_pairs) if is_whole else EdgeCouples(neighbors.values(), pool.num_pairs)
    shared = [] if backbones_alone else list_shared_relations(pool.embeddings, config.kernel)
    relations = weigh_relations([*shared, *backbones], pool.weights)
    if config.kernel.neighborhood_weight > 0 and not backbones_alone:
        own = {backbone_space(name): x for name, x in spaces.items()} or pool.embeddings
        without = compute_kernel(couples, relations, config.kernel, seed)
        means = average_neighborhoods(own, list_nearest(without, config.kernel.neighborhood_size))
        del without  # before another of its size is made
        if not is_whole:
            joint = Pool(means, {}).joint
            couples = EdgeCouples([*neighbors.values(), find_rows(joint, joint, config.search)], pool.num_pairs)
        relations += weigh_relations(list_neighborhood_relations(means, config.kernel), pool.weights)
    kernel = compute_kernel(couples, relations, config.kernel, seed)
    scores = pool.suspicion
    if scores is None:
        scores = score_suspicion(measure_witnesses(pool.embeddings, neighbors))
    suspicion = weigh_suspicion(scores, config.suspicious_fraction)
    num_neighbors = pool.num_pairs if is_whole else max(rows.shape[1] for rows in neighbors.values())
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
