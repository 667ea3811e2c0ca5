"""Features of a whole pool for the train stage: read shard by shard, kept in scratch files, mapped into memory.

A fit reads its pairs in a new order every epoch, which shards in an object store cannot serve, and a pool may be larger
than memory. So each worker copies the vectors once into files of its own, in the folder that `TMPDIR` names, as large
as the float32 vectors. The files have no name: they vanish with the process, however it ends.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from mmcsal_core.artifacts import Artifact
from mmcsal_core.encoder.feature_rows import RowSubset
from mmcsal_core.schema import PAIR_ID, feature_column
from mmcsal_core.vector_columns import stack_vectors


@dataclass(frozen=True, eq=False)
class FeatureSpool:
    """A pool's features, (n, in_dim) float32 a modality, and the ids of their rows (n,), sorted."""

    features: dict[str, RowSubset]
    pair_ids: pa.StringArray


def spool_features(features: Artifact, modalities: Sequence[str]) -> FeatureSpool:
    """Copy all feature vectors into scratch files, and return them with rows sorted by `pair_id`.

    Raises:
        OSError: the scratch folder has no room.
    """
    num_rows = features.read_manifest().pairs_out
    spools: dict[str, npt.NDArray[np.float32]] = {}
    ids, start = [], 0
    for table in features.iter_tables([PAIR_ID, *map(feature_column, modalities)]):
        ids.append(table[PAIR_ID].combine_chunks())
        for name in modalities:
            vectors = stack_vectors(table, feature_column(name))
            spool = spools.setdefault(name, _map_scratch(num_rows, vectors.shape[1]))
            spool[start : start + len(vectors)] = vectors
        start += table.num_rows
    pair_ids = pa.chunked_array(ids)
    order = pc.sort_indices(pair_ids)
    rows = order.to_numpy().astype(np.int64)
    return FeatureSpool(
        {name: RowSubset(spool, rows) for name, spool in spools.items()}, pair_ids.take(order).combine_chunks()
    )


def _map_scratch(num_rows: int, dim: int) -> npt.NDArray[np.float32]:
    with tempfile.TemporaryFile(prefix="mmcsal-features-") as file:
        return np.memmap(file, np.float32, "w+", shape=(num_rows, dim))
