"""Content keys: equal where the content of a pair is taken to be the same as before, without reading it.

The key of a row is the first 32 hex digits of a sha256 over, modality by modality, its text or where its content lies,
and the version of the file that holds the content: the Parquet file, the tar archive, or the folder's own files. So a
Parquet file that is written anew counts as changed in all its rows, while a manifest that has grown does not: what it
points to is told by its URIs alone, here as in the fingerprint of a source.
"""

import hashlib
from collections.abc import Sequence

import pyarrow as pa

from mmcsal_core.corpus.pair_id import ID_DIGITS

_ABSENT, _BETWEEN = b"\x00", b"\x01"


def hash_contents(columns: Sequence[pa.Array | pa.ChunkedArray], versions: Sequence[str | None]) -> pa.Array:
    """Return the content key of every row.

    Args:
        columns: per modality n texts or URIs, null where there is none.
        versions: of the n files that hold the contents; None where no file does but what the columns say.

    Returns:
        Strings, shape (n,).
    """
    parts = [column.to_pylist() for column in columns]
    return pa.array([_hash_row(version, row) for version, *row in zip(versions, *parts, strict=True)], pa.string())


def _hash_row(version: str | None, row: Sequence[str | None]) -> str:
    encoded = [_ABSENT if part is None else _BETWEEN + part.encode() for part in (version, *row)]
    digest = hashlib.sha256()
    for part in encoded:
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()[:ID_DIGITS]
