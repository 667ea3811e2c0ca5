"""A chunk of pairs in, one record batch of decoded contents and the rejected pairs out.

Arrays of one shape are held as flat lists of fixed size, so that a batch travels as Arrow IPC and is read back without
a copy. A pair is rejected once, for the first modality at fault, in the order of the configuration.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
import pyarrow as pa

from mmcsal_core.backbones.backbone import Batch
from mmcsal_core.corpus.decode import Content, Decoded, decode_content, decoded_shape
from mmcsal_core.corpus.modality import ModalityConfig
from mmcsal_core.corpus.references import read_contents
from mmcsal_core.corpus.reject import RejectPair
from mmcsal_core.errors import DataError
from mmcsal_core.schema import PAIR_ID, ROW, SOURCE, SOURCE_ROW, reject_schema

PROVENANCE = [ROW, PAIR_ID, SOURCE, SOURCE_ROW]
"""The columns that say which pair a row of a decoded chunk is."""


@dataclass(frozen=True)
class Failure:
    """Why a pair is rejected, and for which modality."""

    modality: str
    reject: RejectPair


@dataclass(frozen=True)
class ChunkDecoder:
    """Reads and decodes chunks of pairs.

    Args:
        modalities: resolved, in the order of the configuration.
        source_options: storage options for the files that the pairs refer to.
        vector_dims: length of the vectors, per modality of kind vector.
    """

    modalities: Mapping[str, ModalityConfig]
    source_options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    vector_dims: Mapping[str, int] = field(default_factory=dict)

    def decode_chunk(self, pairs: pa.Table, stage: str) -> tuple[pa.RecordBatch, pa.Table]:
        """Decode a chunk.

        Args:
            pairs: rows of pairs/ with a column `row` in front.
            stage: name of the stage that rejects.

        Returns:
            The pairs that decode, with a column a modality, and the others, as `describe_rejects` gives them.
        """
        failures: dict[int, Failure] = {}
        contents = {name: list(self._decode_modality(name, pairs, failures)) for name in self.modalities}
        kept = [i for i in range(pairs.num_rows) if i not in failures]
        columns = {name: pairs[name].take(pa.array(kept, pa.int64())).combine_chunks() for name in PROVENANCE}
        for name, values in contents.items():
            columns[name] = self._pack(name, [values[i] for i in kept])
        rejected = pairs.take(pa.array(sorted(failures), pa.int64()))
        return (
            pa.RecordBatch.from_pydict(columns),
            describe_rejects(rejected, [failures[i] for i in sorted(failures)], stage),
        )

    def unpack(self, name: str, chunk: pa.RecordBatch) -> Batch:
        """Return the decoded contents of one modality, with the pairs in front; arrays are read-only views."""
        shape = decoded_shape(self.modalities[name], self.vector_dims.get(name))
        if not shape:
            return [str(text) for text in chunk[name].to_pylist()]
        return np.asarray(chunk[name].flatten()).reshape(-1, *shape)

    def _pack(self, name: str, values: Sequence[Any]) -> pa.Array:
        shape = decoded_shape(self.modalities[name], self.vector_dims.get(name))
        if not shape:
            return pa.array(values, pa.large_string())
        number = pa.uint8() if self.modalities[name].resolved_kind in ("image", "video") else pa.float32()
        flat = pa.array(np.stack(values).reshape(-1), number) if values else pa.array([], number)
        return pa.FixedSizeListArray.from_arrays(flat, prod(shape))

    def _decode_modality(self, name: str, pairs: pa.Table, failures: dict[int, Failure]) -> Iterator[Decoded | None]:
        modality = self.modalities[name]
        for i, content in enumerate(read_contents(pairs, name, modality, self.source_options)):
            decoded = None
            if i not in failures:
                try:
                    decoded = _decode(content, modality, self.vector_dims.get(name))
                except RejectPair as reject:
                    failures[i] = Failure(name, reject)
            yield decoded


def describe_rejects(pairs: pa.Table, failures: Sequence[Failure], stage: str) -> pa.Table:
    """Return rejected pairs under the reject schema, with `row` in front so that they can be sorted."""
    columns = {name: pairs[name] for name in PROVENANCE}
    columns["modality"] = [failure.modality for failure in failures]
    columns["stage"] = [stage] * len(failures)
    columns["reason"] = [failure.reject.reason for failure in failures]
    columns["message"] = [failure.reject.message for failure in failures]
    return pa.table(columns, pa.schema([pa.field(ROW, pa.int64()), *reject_schema()]))


def find_vector_dim(chunks: Iterator[pa.Table], name: str, modality: ModalityConfig, options: Mapping[str, Any]) -> int:
    """Return the length of the first usable vector; every other vector of the modality must have it.

    Raises:
        DataError: there is none.
    """
    num_pairs = 0
    for chunk in chunks:
        num_pairs += chunk.num_rows
        for content in read_contents(chunk, name, modality, options):
            try:
                return len(_decode(content, modality, None))
            except RejectPair:
                continue
    raise DataError(
        f"modality {name!r} needs at least one finite vector that is not all zero, but none of its {num_pairs} pairs "
        "has one; check the column"
    )


def _decode(content: Content | RejectPair, modality: ModalityConfig, vector_dim: int | None) -> Decoded:
    if isinstance(content, RejectPair):
        raise content
    return decode_content(content, modality, vector_dim)
