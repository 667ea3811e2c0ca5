"""Read artifacts in the order of pair_id, the only order that anything order-sensitive may use."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mmcsal_core.artifacts import Artifact
from mmcsal_core.errors import ArtifactError
from mmcsal_core.neighbors.vectors import Rows
from mmcsal_core.schema import PAIR_ID


def read_schema(artifact: Artifact) -> pa.Schema:
    """Return the schema of a finished artifact's tables.

    Raises:
        ArtifactError: the artifact is missing, unfinished or holds no table.
    """
    records = artifact.read_manifest().shards
    if not records:
        raise ArtifactError(f"{artifact.store.url} has no shards; check that its source holds pairs, then run again")
    return pq.read_schema(pa.BufferReader(artifact.store.read_bytes(records[0].data.name)))


def read_sorted(artifact: Artifact, columns: Sequence[str]) -> pa.Table:
    """Read columns of a finished artifact, sorted by pair_id.

    Args:
        artifact: has a column pair_id.
        columns: which to read; pair_id comes first in any case.
    """
    table = artifact.read_table([PAIR_ID, *columns])
    return table.take(pc.sort_indices(table, sort_keys=[(PAIR_ID, "ascending")])).combine_chunks()


def locate_ids(wanted: pa.ChunkedArray, present: pa.ChunkedArray, artifact: Artifact) -> Rows:
    """Return the position in `present` of every id of `wanted`.

    Args:
        wanted: pair ids.
        present: the ids of `artifact`.
        artifact: where `present` comes from, for the message.

    Raises:
        ArtifactError: an id is missing.
    """
    present = present.combine_chunks()
    found = pc.index_in(wanted, value_set=present)
    if found.null_count:
        missing = pc.filter(wanted, pc.is_null(found))
        raise ArtifactError(
            f"every pair must be in {artifact.store.url}, but {len(missing)} are not, first {missing[0].as_py()!r}; "
            f"run the stage '{artifact.stage}' again"
        )
    rows: npt.NDArray[np.int64] = found.to_numpy().astype(np.int64)
    return rows
