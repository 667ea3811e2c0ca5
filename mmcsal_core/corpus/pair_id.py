r"""Pair ids: from a column of the source, or from where the pair stands in it.

Without a configured column the id is the first 32 hex digits of

    sha256(<source file, relative to the source root> + "\n" + <key>)

where the key is the row number in the file (from 0) for tables, and the stem for a folder, whose source file is `.`.
The path is relative so that a corpus that is moved, or mirrored to another store, keeps its ids. Neither the content
nor the modification time enters: an id names a place, and a corrected file keeps its id. Such ids are unique by
construction. Ids from a column are not, so they are compared over the whole source, as 128-bit hashes: 16 bytes a
pair, and among 10 million ids a false match has a probability below 1e-24.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

ID_DIGITS = 32
"""Hex digits of an id that is built from a pair's place."""

HASH_TYPE = pa.binary(16)
"""Arrow type of the hash by which ids are compared."""


def hash_pair_id(source: str, key: str) -> str:
    """Return the id of the pair `key` of the file `source`, a path relative to the source root."""
    return hashlib.sha256(f"{source}\n{key}".encode()).hexdigest()[:ID_DIGITS]


def build_pair_ids(sources: Sequence[str], keys: Sequence[str]) -> pa.Array:
    """Return the ids of pairs from their places, in order, as strings."""
    return pa.array([hash_pair_id(source, key) for source, key in zip(sources, keys, strict=True)], pa.string())


def cast_pair_ids(column: pa.ChunkedArray) -> pa.Array:
    """Return a source's id column as strings, unchanged but for null where an id is null or blank."""
    ids = pc.cast(column, pa.string()).combine_chunks()
    return pc.if_else(pc.equal(pc.utf8_trim_whitespace(ids), ""), pa.scalar(None, pa.string()), ids)


def hash_pair_ids(ids: pa.Array) -> pa.Array:
    """Return 128 bits of each id's sha256, null where the id is null.

    Args:
        ids: strings, shape (n,).

    Returns:
        `HASH_TYPE`, shape (n,).
    """
    digests = [None if text is None else hashlib.sha256(text.encode()).digest()[:16] for text in ids.to_pylist()]
    return pa.array(digests, HASH_TYPE)


def find_duplicate_rows(hashes: pa.Array) -> npt.NDArray[np.int64]:
    """Return the rows whose id stands in an earlier row already; the first row of every id is left out.

    Args:
        hashes: of all ids of a source, in source order, shape (n,); null is equal to nothing.

    Returns:
        Row numbers, rising.
    """
    rows = np.flatnonzero(pc.is_valid(hashes).to_numpy(zero_copy_only=False))
    present = hashes.drop_null()
    if len(present) < 2:
        return np.empty(0, np.int64)
    words = np.frombuffer(present.buffers()[1], np.uint64).reshape(-1, 2)[present.offset : present.offset + len(rows)]
    order = np.lexsort((words[:, 1], words[:, 0]))
    ordered = words[order]
    repeats = (ordered[1:] == ordered[:-1]).all(axis=1)
    return np.sort(rows[order[1:][repeats]]).astype(np.int64)
