"""FAISS indexes of unit vectors: build, to and from bytes, search with the pair itself left out.

Inner product on unit vectors is the cosine. `auto` is exact up to 200 000 rows, where an exact search takes minutes,
and uses inverted lists above. Graph indexes (HNSW) are one factory string away but are not the default: their result
depends on the order and threading of insertion. Bytes are FAISS's own format, never pickle.
"""

from typing import Any, TypeAlias

import faiss
import numpy as np
import numpy.typing as npt

from mmcsal_core.errors import ConfigError
from mmcsal_core.neighbors.config import NeighborConfig
from mmcsal_core.neighbors.vectors import Rows, Vectors, iter_blocks

MAX_FLAT_ROWS = 200_000
SEARCH_ROWS = 1024
"""Queries that `find_rows` searches together; fixed, since the last bits of a product depend on its shape."""

NO_NEIGHBOR = -1

Index: TypeAlias = Any
"""A `faiss.Index`; FAISS ships no types."""


def choose_index_key(num_rows: int, config: NeighborConfig) -> str:
    """Return the FAISS factory string for a pool of this size."""
    if config.index_key != "auto":
        return config.index_key
    if num_rows <= MAX_FLAT_ROWS:
        return "Flat"
    return f"IVF{round(4 * num_rows**0.5)},Flat"


def build_index(vectors: Vectors, config: NeighborConfig) -> Index:
    """Index unit vectors under inner product; row numbers are the ids.

    Args:
        vectors: (N, dim) float32 of unit length.
        config: kind of index, its seed and how many lists a query visits.

    Raises:
        ConfigError: FAISS does not know the factory string, or cannot train such an index on these vectors.
    """
    key = choose_index_key(len(vectors), config)
    try:
        index = faiss.index_factory(vectors.shape[1], key, faiss.METRIC_INNER_PRODUCT)
        lists = faiss.try_extract_index_ivf(index)
        if lists is not None:
            lists.cp.seed = config.seed
            lists.nprobe = config.nprobe
        index.train(vectors)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise ConfigError(
            f"index_key must be 'auto' or a FAISS factory string that fits {len(vectors)} vectors of "
            f"{vectors.shape[1]} dimensions, got {key!r} ({reason}); write e.g. 'Flat' or 'IVF1024,Flat'"
        ) from error
    index.add(vectors)
    return index


def encode_index(index: Index) -> bytes:
    """Return an index in FAISS's own format."""
    return bytes(faiss.serialize_index(index).tobytes())


def decode_index(data: bytes) -> Index:
    """Read an index back from `encode_index`."""
    return faiss.deserialize_index(np.frombuffer(data, dtype=np.uint8))


def search_index(
    index: Index, queries: Vectors, query_rows: Rows, num_neighbors: int
) -> tuple[Rows, npt.NDArray[np.float32]]:
    """Find the nearest rows of each query, its own row left out, by falling similarity and then rising row.

    Args:
        index: over N rows.
        queries: (Q, dim) float32 of unit length.
        query_rows: (Q,) the queries' own rows.
        num_neighbors: neighbours wanted; clipped to N - 1.

    Returns:
        rows (Q, K) int64 and similarities (Q, K) float32; where an index finds too few, the row is `NO_NEIGHBOR` and
        the similarity 0.
    """
    num_found = min(num_neighbors, index.ntotal - 1)
    if num_found <= 0:
        return np.empty((len(queries), 0), dtype=np.int64), np.empty((len(queries), 0), dtype=np.float32)
    similarities, ids = index.search(queries, num_found + 1)
    return _drop_own_row(ids, similarities, query_rows)


def _drop_own_row(ids: Rows, found: Vectors, own_rows: Rows) -> tuple[Rows, Vectors]:
    """Drop each query's own row, or the last one where it was not found; order the rest."""
    is_own = ids == own_rows[:, None]
    is_absent = ids == NO_NEIGHBOR
    falling = np.where(is_own, np.inf, np.where(is_absent, np.float32(3.0), -found))
    order = np.lexsort((ids, falling), axis=1)[:, :-1]
    kept = np.take_along_axis(ids, order, axis=1)
    values = np.where(kept == NO_NEIGHBOR, np.float32(0), np.take_along_axis(found, order, axis=1))
    return kept, values


def find_rows(queries: Vectors, pool: Vectors, config: NeighborConfig) -> Rows:
    """Find each row's neighbours from one space to another, without keeping the index.

    Args:
        queries: (N, dim) float32 of unit length.
        pool: (N, dim) float32 of unit length, row i being the same pair as in `queries`.
        config: kind of index and number of neighbours.

    Returns:
        (N, K) int64, `NO_NEIGHBOR` where an index finds too few.
    """
    index = build_index(pool, config)
    own_rows = np.arange(len(queries), dtype=np.int64)
    blocks = iter_blocks(len(queries), SEARCH_ROWS)
    found = [search_index(index, queries[block], own_rows[block], config.num_neighbors)[0] for block in blocks]
    return np.concatenate(found)
