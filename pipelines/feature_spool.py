"""Features of a whole pool for the train stage: read shard by shard, kept in scratch files, mapped into memory.

A fit reads its pairs in a new order every epoch, which shards in an object store cannot serve, and a pool may be larger
than memory. So each worker copies the vectors once into files of its own, in the folder that `TMPDIR` names, as large
as the vectors, and in their precision. The files have no name: they vanish with the process, however it ends.
"""

import os
import sys
import tempfile
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from mmcsal_core.artifacts import CHUNK_ROWS, Artifact
from mmcsal_core.backbones.last_block import LastBlock
from mmcsal_core.encoder.feature_rows import RowSubset
from mmcsal_core.encoder.towers import BlockOutputs
from mmcsal_core.errors import ArtifactError
from mmcsal_core.schema import PAIR_ID, feature_column, hidden_column
from mmcsal_core.vector_columns import stack_lists, stack_vectors

MAX_BLOCK_ERROR = 0.05
"""Largest relative difference of vectors that half precision and another machine may account for."""


@dataclass(frozen=True, eq=False)
class FeatureSpool:
    """A pool's features, (n, in_dim) a modality, and the ids of their rows (n,), sorted."""

    features: dict[str, RowSubset]
    pair_ids: pa.StringArray


def spool_features(features: Artifact, modalities: Sequence[str], finetuned: Collection[str] = ()) -> FeatureSpool:
    """Copy what an encoder is fitted to into scratch files, and return it with rows sorted by `pair_id`.

    Args:
        features: what the features stage published.
        modalities: in the order of the configuration.
        finetuned: those of which what goes into the last block is wanted, not the vector.

    Raises:
        OSError: the scratch folder has no room.
    """
    num_rows = features.read_manifest().pairs_out
    columns = {name: hidden_column(name) if name in finetuned else feature_column(name) for name in modalities}
    spools: dict[str, npt.NDArray[np.floating]] = {}
    ids, start = [], 0
    for table in features.iter_tables([PAIR_ID, *columns.values()]):
        ids.append(table[PAIR_ID].combine_chunks())
        for name, column in columns.items():
            vectors = stack_lists(table, column)
            if name not in spools:
                spools[name] = _map_scratch(num_rows, vectors)
            spool = spools[name]
            spool[start : start + len(vectors)] = vectors
        start += table.num_rows
    pair_ids = pa.chunked_array(ids)
    order = pc.sort_indices(pair_ids)
    rows = order.to_numpy().astype(np.int64)
    return FeatureSpool(
        {name: RowSubset(spool, rows) for name, spool in spools.items()}, pair_ids.take(order).combine_chunks()
    )


def check_pretrained(features: Artifact, name: str, block: LastBlock) -> None:
    """Make sure that a pretrained last block is of the backbone that made the features of a modality.

    Args:
        features: what the features stage published, at least one pair.
        name: of the modality.
        block: as its backbone has it now.

    Raises:
        ArtifactError: of what goes into the block, it makes other vectors than were published.
    """
    columns = [hidden_column(name), feature_column(name)]
    table = next(table for table in features.iter_tables(columns) if table.num_rows).slice(0, CHUNK_ROWS)
    hidden, expected = (stack_vectors(table, column) for column in columns)
    found = BlockOutputs(hidden, block)[np.arange(len(hidden))]
    error = float(np.linalg.norm(found - expected) / np.linalg.norm(expected))
    if not error < MAX_BLOCK_ERROR:
        raise ArtifactError(
            f"the last block of {name} must be of the backbone that made features/, but its vectors differ by "
            f"{error:.0%}, and more than {MAX_BLOCK_ERROR:.0%} is no rounding; name a revision of the model "
            "(hf:NAME@REVISION), delete features/ and run again"
        )


def _map_scratch(num_rows: int, like: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """Return a file of rows like those given; its blocks are there, since a full disk met later kills the process."""
    with tempfile.TemporaryFile(prefix="mmcsal-features-") as file:
        if sys.platform == "linux":
            try:
                os.posix_fallocate(file.fileno(), 0, num_rows * like.shape[1] * like.itemsize)
            except OSError as error:
                raise OSError(
                    error.errno,
                    f"{error.strerror}: training keeps a copy of the features in {tempfile.gettempdir()}; free some "
                    "space there, or set TMPDIR to a folder with more",
                ) from error
        return np.memmap(file, like.dtype, "w+", shape=(num_rows, like.shape[1]))
