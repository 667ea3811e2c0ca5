"""The pair kernel of a pool on its k-nearest-neighbour graph, and how far each pair is suspected of being mispaired.

Shared-space neighbours are those stored by an earlier stage where there are any; those in the backbones' own spaces are
searched here. The latter join the graph and witness a pair's consistency, since no encoder learned them.
"""

import itertools
from dataclasses import dataclass

from scipy import sparse

from mmcsal_core.neighbors.graph import build_graph
from mmcsal_core.neighbors.index import find_rows
from mmcsal_core.neighbors.relations import list_backbone_relations, list_shared_relations
from mmcsal_core.neighbors.suspicion import measure_alignment, measure_consistency, score_suspicion
from mmcsal_core.neighbors.vectors import Floats, Rows
from mmcsal_core.schema import relation_name
from mmcsal_core.selection.config import SelectionConfig
from mmcsal_core.selection.engine.cover import round_graph
from mmcsal_core.selection.pool import Pool


@dataclass(frozen=True, eq=False)
class PairGraph:
    """What the objective needs to know of a pool.

    Args:
        kernel: (N, N) int32 multiples of 2^-30, sparse, symmetric, the diagonal stored.
        suspicion: (N,) in [0, 1].
    """

    kernel: sparse.csr_array
    suspicion: Floats


def build_pair_graph(pool: Pool, config: SelectionConfig, seed: int) -> PairGraph:
    """Compute the pair kernel on the union of all relations' neighbours, and each pair's suspicion.

    Args:
        pool: N pairs.
        config: kernel, search and share of suspicious pairs.
        seed: of the sample of rows behind the bandwidths.
    """
    shared = dict(pool.neighbors) if pool.neighbors is not None else find_shared_neighbors(pool, config)
    backbones = list_backbone_relations(pool.features, config.kernel)
    own = [find_rows(relation.queries, relation.pool, config.search) for relation in backbones]
    relations = list_shared_relations(pool.embeddings, config.kernel) + backbones
    kernel = build_graph(relations, [*shared.values(), *own], config.kernel, seed)
    witnesses = own if len(own) > 1 else [shared[relation_name(name, name)] for name in pool.embeddings]
    suspicion = score_suspicion(
        measure_alignment(pool.embeddings), measure_consistency(witnesses), config.suspicious_fraction
    )
    return PairGraph(round_graph(kernel), suspicion)


def find_shared_neighbors(pool: Pool, config: SelectionConfig) -> dict[str, Rows]:
    """Search every uni-modal and cross-modal relation of the shared space.

    Returns:
        (N, K) rows by relation name, for every ordered pair of modalities.
    """
    return {
        relation_name(query, target): find_rows(pool.embeddings[query], pool.embeddings[target], config.search)
        for query, target in itertools.product(pool.embeddings, repeat=2)
    }
