"""Suspicion as it is stored: what each shard's pairs say of themselves in, one ranked table of all pairs out.

A pair's suspicion is a rank among all pairs, so it can only be found once every shard is done. Until then each shard's
witnesses lie beside its edges.

An encoder that was kept from a smaller pool has not seen the pairs that came later, so that their cosine is
out-of-fold as it is. Beside theirs the cosine of a pair that it has seen would be flattered: there the out-of-fold
cosine speaks alone.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmcsal_core.artifacts import Artifact, Plan, ShardRange, name_shard
from mmcsal_core.errors import ArtifactError
from mmcsal_core.neighbors.sorted_tables import locate_ids
from mmcsal_core.neighbors.suspicion import Witnesses, score_suspicion
from mmcsal_core.neighbors.vectors import Floats
from mmcsal_core.schema import (
    CONSISTENCY,
    GROWN_FROM,
    OUT_OF_FOLD_ALIGNMENT,
    OUT_OF_FOLD_FILE,
    PAIR_ID,
    SUSPICION,
    SUSPICION_FILE,
    suspicion_schema,
)
from mmcsal_core.storage import FileRecord, hash_bytes

WITNESSES = "_witnesses"
"""Folder of the shards' witnesses while the stage runs."""

_FIELDS = ("alignment", "crowding", CONSISTENCY)


def write_witnesses(out: Artifact, plan: Plan, shard: ShardRange, witnesses: Witnesses) -> None:
    """Lay the witnesses of a shard beside its edges; call it before the shard is committed.

    Raises:
        ArtifactError: the plan is no longer current.
    """
    out.check_current(plan)
    table = pa.table({name: getattr(witnesses, name) for name in _FIELDS})
    out.store.write_table(_name_file(plan, shard), table)


def join_witnesses(parts: Sequence[Witnesses]) -> Witnesses:
    """Return the witnesses of all pairs, in the order of the parts."""
    return Witnesses(*(np.concatenate([getattr(part, name) for part in parts]) for name in _FIELDS))


def publish_suspicion(out: Artifact, plan: Plan, ids: pa.ChunkedArray, encoder: Artifact) -> FileRecord:
    """Rank all pairs by the witnesses of all shards, and write them down; then the witnesses go.

    Where a run was killed after this, the file is there and the witnesses may be gone.

    Args:
        out: the neighbors artifact, with the witnesses of every shard.
        plan: of `out`.
        ids: (N,) pair ids in order.
        encoder: finished; its out-of-fold cosines are used where it has some.

    Raises:
        ArtifactError: the encoder's out-of-fold cosines lack a pair, and it was fitted to this very pool.
    """
    if not out.store.exists(SUSPICION_FILE):
        out.store.write_table(SUSPICION_FILE, _tabulate(out, plan, ids, encoder))
    out.store.remove(WITNESSES)
    data = out.store.read_bytes(SUSPICION_FILE)
    return FileRecord(name=SUSPICION_FILE, num_bytes=len(data), sha256=hash_bytes(data))


def _tabulate(out: Artifact, plan: Plan, ids: pa.ChunkedArray, encoder: Artifact) -> pa.Table:
    tables = [out.store.read_table(_name_file(plan, shard)) for shard in plan.shards]
    witnesses = join_witnesses([Witnesses(*(table[name].to_numpy() for name in _FIELDS)) for table in tables])
    is_kept = GROWN_FROM in encoder.read_manifest().properties
    unseen = _read_out_of_fold(encoder, ids, witnesses.alignment if is_kept else None)
    if unseen is not None and is_kept:
        witnesses = replace(witnesses, alignment=unseen.to_numpy().astype(np.float64))
    suspicion = score_suspicion(witnesses, None if unseen is None else unseen.to_numpy().astype(np.float64))
    columns = {
        PAIR_ID: ids,
        OUT_OF_FOLD_ALIGNMENT: pa.nulls(len(ids), pa.float32()) if unseen is None else unseen,
        CONSISTENCY: pa.array(witnesses.consistency.astype(np.float32)),
        SUSPICION: pa.array(suspicion),
    }
    return pa.table(columns, schema=suspicion_schema())


def _read_out_of_fold(encoder: Artifact, ids: pa.ChunkedArray, alignment: Floats | None) -> pa.ChunkedArray | None:
    """Return the out-of-fold cosines in the order of the ids, None where the train stage measured none.

    Args:
        encoder: finished.
        ids: (N,) pair ids.
        alignment: (N,) cosines that stand in for pairs which the encoder has not seen; None where it has seen all.
    """
    if OUT_OF_FOLD_FILE not in {record.name for record in encoder.read_manifest().files}:
        return None
    table = encoder.store.read_table(OUT_OF_FOLD_FILE)
    if alignment is not None:
        rows = pc.index_in(ids, value_set=table[PAIR_ID].combine_chunks())
        return pc.coalesce(table[OUT_OF_FOLD_ALIGNMENT].take(rows), pa.chunked_array([alignment.astype(np.float32)]))
    return table[OUT_OF_FOLD_ALIGNMENT].take(pa.array(locate_ids(ids, table[PAIR_ID], encoder)))


def read_suspicion(neighbors: Artifact, ids: pa.ChunkedArray) -> pa.Table:
    """Read what is said of pairs that may be mispaired.

    Args:
        neighbors: finished.
        ids: (N,) pair ids.

    Returns:
        One row an id, in the order of `ids`, under `schema.suspicion_schema`.

    Raises:
        ArtifactError: a pair is missing, or the file is.
    """
    table = neighbors.store.read_table(SUSPICION_FILE)
    if table.num_rows != len(ids):
        raise ArtifactError(
            f"{neighbors.store.url}/{SUSPICION_FILE} must be of the same pool as the embeddings, but has "
            f"{table.num_rows} pairs, not {len(ids)}; run the stage '{neighbors.stage}' again"
        )
    return table.take(pa.array(locate_ids(ids, table[PAIR_ID], neighbors))).combine_chunks()


def _name_file(plan: Plan, shard: ShardRange) -> str:
    return f"{WITNESSES}/{name_shard(shard.index, len(plan.shards))}.parquet"
