"""The rules of published embeddings, checked on one shard after the other."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmcsal_core.schema import ALIGNMENT, PAIR_ID, embedding_column

UNIT_TOLERANCE = 1e-4
"""Largest allowed distance of an embedding's norm from 1."""


class EmbeddingInspector:
    """Looks at one shard of embeddings after the other, keeping only their ids."""

    def __init__(self) -> None:
        self._ids: list[pa.ChunkedArray] = []
        self._problems: list[str] = []

    def inspect(self, table: pa.Table) -> None:
        """Look at the next shard."""
        self._ids.append(table[PAIR_ID])
        for field in table.schema:
            if field.name.endswith(embedding_column("")):
                self._problems += _find_vector_problems(field, table[field.name])
        if not np.isfinite(table[ALIGNMENT].to_numpy()).all():
            self._problems.append(f"{ALIGNMENT} holds values that are not finite")

    def find_problems(self) -> list[str]:
        """Return what was wrong in the shards seen so far, each problem once."""
        problems = list(dict.fromkeys(self._problems))
        ids = [chunk for column in self._ids for chunk in column.chunks]
        if ids and pc.count_distinct(pa.chunked_array(ids)).as_py() != sum(len(chunk) for chunk in ids):
            problems.append(f"{PAIR_ID} is not unique")
        return problems


def _find_vector_problems(field: pa.Field, column: pa.ChunkedArray) -> list[str]:
    kind = field.type
    if not (pa.types.is_fixed_size_list(kind) and pa.types.is_float32(kind.value_type)):
        return [f"{field.name} is {kind}, not a fixed-size list of float32"]
    vectors = column.combine_chunks().flatten().to_numpy().reshape(-1, kind.list_size)
    norms = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
    if not np.isfinite(norms).all():
        return [f"{field.name} holds values that are not finite"]
    if np.abs(norms - 1).max(initial=0) > UNIT_TOLERANCE:
        return [f"{field.name} holds vectors that are not of unit length"]
    return []
