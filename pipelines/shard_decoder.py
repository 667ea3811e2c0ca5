"""Decodes shards: what a reader of the features stage does, testable without Ray.

A reader lives for a few shards only, so it imports neither torch nor Ray's libraries, which take longer to load than a
shard to decode. A decoded shard travels as Arrow IPC in a binary cell, one record batch a chunk.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mmcsal_core.artifacts import CHUNK_ROWS, Artifact, ShardRange
from mmcsal_core.corpus.decode_chunk import ChunkDecoder
from mmcsal_core.schema import ROW

KNOWN = "known"
"""Column of a described shard: for each pair an int64, `UNKNOWN` where it is to be decoded."""

UNKNOWN = -1
"""Stands for a pair of which nothing is known yet."""

_CHUNKS, _REJECTS = "chunks", "rejects"
_RANGE = list(ShardRange.model_fields)


@dataclass(frozen=True)
class DecodedShard:
    """One record batch a chunk with the pairs that decode, and the rejected pairs of all chunks."""

    chunks: Sequence[pa.RecordBatch]
    rejects: pa.Table


def decode_shard(
    pairs: Artifact, shard: ShardRange, decoder: ChunkDecoder, stage: str, known: npt.NDArray[np.int64] | None = None
) -> DecodedShard:
    """Read and decode rows [start, stop) of pairs/, chunk by chunk.

    Args:
        pairs: finished.
        shard: which rows, n of them.
        decoder: of the modalities.
        stage: that rejects pairs.
        known: (n,), `UNKNOWN` for the rows to decode; the others are left out. None decodes all.
    """
    table = pairs.read_rows(shard.start, shard.stop)
    table = table.add_column(0, ROW, pa.array(range(shard.start, shard.stop), pa.int64()))
    chunks = [table.slice(i, CHUNK_ROWS) for i in range(0, table.num_rows, CHUNK_ROWS)]
    if known is not None:
        wanted = pa.array(known == UNKNOWN)
        chunks = [chunk.filter(wanted.slice(i * CHUNK_ROWS, CHUNK_ROWS)) for i, chunk in enumerate(chunks)]
    decoded = [decoder.decode_chunk(chunk, stage) for chunk in chunks]
    return DecodedShard([chunk for chunk, _ in decoded], pa.concat_tables([rejects for _, rejects in decoded]))


def decode_batch(batch: pa.Table, pairs: Artifact, decoder: ChunkDecoder, stage: str) -> pa.Table:
    """Decode the shard that a one-row batch describes, and put it beside the description."""
    shard = decode_shard(pairs, read_range(batch), decoder, stage, read_known(batch))
    cells = {_CHUNKS: pa.Table.from_batches(shard.chunks), _REJECTS: shard.rejects.combine_chunks()}
    for name, table in cells.items():
        batch = batch.append_column(name, _encode_ipc(table))
    return batch


def read_range(batch: pa.Table) -> ShardRange:
    """Return which rows a one-row batch describes."""
    return ShardRange(**batch.select(_RANGE).to_pylist()[0])


def read_known(batch: pa.Table) -> npt.NDArray[np.int64] | None:
    """Return what is known of the pairs of a described shard, None where nothing was said."""
    return np.frombuffer(batch[KNOWN][0].as_py(), np.int64) if KNOWN in batch.column_names else None


def read_decoded(batch: pa.Table) -> DecodedShard:
    """Return the shard that `decode_batch` has decoded; arrays are views of the batch."""
    chunks, rejects = (pa.ipc.open_stream(batch[name][0].as_buffer()) for name in (_CHUNKS, _REJECTS))
    return DecodedShard(list(chunks), rejects.read_all())


def _encode_ipc(table: pa.Table) -> pa.Array:
    """Return one cell with the table as Arrow IPC, record batch by record batch."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    content = sink.getvalue()
    offsets = pa.py_buffer(np.array([0, content.size], dtype=np.int64))
    return pa.LargeBinaryArray.from_buffers(pa.large_binary(), 1, [None, offsets, content])
