"""Growing pools: what a run takes over from an earlier run of the same corpus.

A pair is known where its id and its content key are those of a pair of the earlier run. Vectors of known pairs are
copied from the earlier features/ instead of being computed; the encoder is copied too, unless a new one is wanted. All
that looks at the pool as a whole (neighbours, suspicion, the selection) is computed anew.

Not chosen: adding shards to the earlier run itself, since its readers would see it change under their eyes, and a
killed run could not tell which of its artifacts speak of which pool.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import Field

from mmcsal_core.artifacts import Artifact
from mmcsal_core.corpus.pair_id import HASH_TYPE, hash_pair_ids
from mmcsal_core.errors import ArtifactError, ConfigError
from mmcsal_core.neighbors.sorted_tables import read_schema
from mmcsal_core.neighbors.vectors import Rows
from mmcsal_core.schema import CONTENT_KEY, OUT_OF_FOLD_FILE, PAIR_ID, ROW
from mmcsal_core.settings import Settings
from mmcsal_core.storage import FileRecord, Store, hash_bytes
from pipelines.shard_decoder import UNKNOWN

MAX_OPEN_SHARDS = 2


class GrowConfig(Settings):
    """What a run takes over from an earlier run of the same corpus."""

    from_run: str | None = Field(
        None,
        description="run_id of a finished run in the same output: vectors of pairs whose content has not changed are "
        "taken over from it, and so is its encoder. selection.labelled must then be given",
    )
    retrain: bool = Field(False, description="fit a new encoder on all pairs instead of keeping the earlier one")

    @property
    def keeps_encoder(self) -> bool:
        """Whether the encoder is taken over."""
        return self.from_run is not None and not self.retrain


@dataclass(frozen=True)
class EarlierRun:
    """The run that this one grows from.

    Args:
        run_id: its name.
        store: its folder.
        pairs: what it ingested.
        features: its vectors.
        encoder: what it was embedded with.
    """

    run_id: str
    store: Store
    pairs: Artifact
    features: Artifact
    encoder: Artifact


def check_content_keys(earlier: EarlierRun) -> None:
    """Make sure that an earlier run can tell which pairs it knows.

    Raises:
        ConfigError: its pairs/ has no content keys.
    """
    if CONTENT_KEY not in read_schema(earlier.pairs).names:
        raise ConfigError(
            f"a run grows from one whose pairs/ has a column {CONTENT_KEY}, but {earlier.pairs.store.url} was made by "
            "a version that wrote none; run that configuration again first, or leave grow.from_run out"
        )


def find_known_rows(pairs: Artifact, earlier: EarlierRun) -> Rows:
    """Return where each pair stands in the earlier features/, counted over all shards, or `UNKNOWN`.

    Two hashes of 16 bytes a pair are held in memory, and no content.

    Args:
        pairs: finished, N pairs.
        earlier: finished, with content keys.

    Returns:
        (N,) int64.
    """
    hashes = _hash_pairs(earlier.pairs)
    rows = pa.chunked_array([table[ROW].combine_chunks() for table in earlier.features.iter_tables([ROW])], pa.int64())
    found = pc.index_in(_hash_pairs(pairs), value_set=hashes.take(rows).combine_chunks())
    return np.asarray(pc.fill_null(found, UNKNOWN).to_numpy(), dtype=np.int64)


def _hash_pairs(pairs: Artifact) -> pa.ChunkedArray:
    return pa.chunked_array(list(_iter_hashes(pairs)), HASH_TYPE)


def _iter_hashes(pairs: Artifact) -> Iterator[pa.Array]:
    for table in pairs.iter_tables([PAIR_ID, CONTENT_KEY]):
        yield hash_pair_ids(pc.binary_join_element_wise(table[PAIR_ID], table[CONTENT_KEY], "\n").combine_chunks())


class EarlierFeatures:
    """Reads rows of the earlier features/ by position; the shards that were read last stay in memory.

    Args:
        features: finished.
    """

    def __init__(self, features: Artifact) -> None:
        self._features = features
        records = features.read_manifest().shards
        self._names = [record.data.name for record in records]
        self._stops = np.cumsum([record.num_rows for record in records])
        self._read = lru_cache(MAX_OPEN_SHARDS)(self._read_shard)

    def take(self, positions: Rows, rows: Rows) -> pa.Table:
        """Return the features at `positions`, with their `row` replaced.

        Args:
            positions: (n,) positions over all shards; neighbours in one shard are read together.
            rows: (n,) rows of the new pairs/.
        """
        numbers = np.searchsorted(self._stops, positions, side="right")
        order = np.argsort(numbers, kind="stable")
        parts = []
        for number in np.unique(numbers).tolist():
            start = self._stops[number - 1] if number else 0
            parts.append(self._read(number).take(pa.array(positions[numbers == number] - start)))
        table = pa.concat_tables(parts).take(pa.array(np.argsort(order, kind="stable")))
        place = table.schema.get_field_index(ROW)
        return table.set_column(place, table.schema.field(ROW), pa.array(rows, pa.int64()))

    def _read_shard(self, number: int) -> pa.Table:
        return self._features.store.read_table(self._names[number])


def copy_encoder(pairs: Artifact, earlier: EarlierRun, out: Artifact) -> list[FileRecord]:
    """Copy the files of the earlier encoder; out-of-fold cosines are kept of known pairs alone.

    So a pair that was corrected under its old id counts as one that the encoder has not seen.

    Args:
        pairs: of the pool that has grown.
        earlier: finished.
        out: the encoder artifact to fill.

    Raises:
        ArtifactError: a file is missing, or is not what the manifest says.
    """
    source = earlier.encoder
    records = []
    for record in source.read_manifest().files:
        data = source.store.read_bytes(record.name)
        if hash_bytes(data) != record.sha256:
            raise ArtifactError(
                f"{source.store.url}/{record.name} must be the file that its manifest names, but has another sha256; "
                f"run the stage '{source.stage}' of run {earlier.run_id} again"
            )
        if record.name == OUT_OF_FOLD_FILE:
            known = pa.array(find_known_rows(pairs, earlier) != UNKNOWN)
            ids = pairs.read_table([PAIR_ID])[PAIR_ID].filter(known)
            table = pq.read_table(pa.BufferReader(data))
            kept = table.filter(pc.is_in(table[PAIR_ID], value_set=ids.combine_chunks()))
            records.append(out.store.write_table(record.name, kept))
        else:
            records.append(out.store.write_bytes(record.name, data))
    return records
