"""Stage ingest: a source becomes `pairs/`, one row a pair with an id, where its content lies, and its metadata.

In: a source as `corpus.sources` describes it. Out: `pairs/` in source order, and rejected rows with their reasons.

    0. of tar archives that no index knows yet, every one is read once, to tell what it holds
    1. where ids come from a column, every shard's ids are hashed to `_ids/`, in place for a small source
    2. the driver finds the ids that occur twice, among 16 bytes a pair
    3. every shard publishes its pairs; the first row of an id stays

Each step resumes at the first missing shard. `_ids/` and `_listing/` (the rows of a source that is not Parquet) lie
beside the shards while the stage runs and are removed at its end. The index of tar archives stays with the run.

Not chosen: a shuffle by id, which moves every row to find a few duplicates, and sorting by id, which would scatter the
content of neighbouring rows over the source files.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mmcsal_core.artifacts import Artifact, Manifest, Plan, ShardRange, ShardRecord, name_shard, plan_ranges
from mmcsal_core.corpus.modality import ModalityConfig
from mmcsal_core.corpus.pair_id import HASH_TYPE, find_duplicate_rows, hash_pair_ids
from mmcsal_core.corpus.sources import SourceConfig, SourceListing, list_missing_tables, list_source, stage_tables
from mmcsal_core.corpus.sources.columns import metadata_fields
from mmcsal_core.corpus.sources.pairs import PairReader
from mmcsal_core.corpus.sources.tar_index import find_tar_columns
from mmcsal_core.corpus.sources.tars import TarColumns, index_tar
from mmcsal_core.errors import DataError, GateError
from mmcsal_core.storage import Store
from pipelines.ingest_config import INDEX, IngestConfig
from pipelines.shard_runs import run_shards
from pipelines.stage_names import INGEST
from pipelines.stage_run import StageRun

STAGE = INGEST

MAX_DRIVER_PAIRS = 1_000_000
"""Largest source whose ids the driver reads itself: a second or two, less than starting workers takes."""

_IDS = "_ids"
_LISTING = "_listing"
_NUM_THREADS = 16


class TarIndexer:
    """Writes the tables of archives to the index of the source; a "shard" is one archive.

    Args:
        names: of the archives' tables, by URL.
        columns: what is looked for in them.
        options: storage options of the source.
        index: where tables go.
    """

    def __init__(self, names: Mapping[str, str], columns: TarColumns, options: Mapping[str, Any], index: Store) -> None:
        self._archives = list(names.items())
        self._columns = columns
        self._options = options
        self._index = index

    def run_shard(self, shard: ShardRange) -> None:
        """Read one archive and write its table."""
        url, name = self._archives[shard.index]
        self._index.write_table(name, index_tar(url, self._columns, self._options))


class IdWorker:
    """Writes the hashed ids of a shard to `ids`."""

    def __init__(self, reader: PairReader, ids: Store, plan: Plan) -> None:
        self._reader = reader
        self._ids = ids
        self._plan = plan

    def run_shard(self, shard: ShardRange) -> None:
        """Read, hash and write one shard's ids."""
        hashes = hash_pair_ids(self._reader.read_ids(shard.start, shard.stop))
        self._ids.write_table(_name_ids(self._plan, shard), pa.table({"hash": hashes}))


class PairWorker:
    """Publishes the pairs of a shard, and the rows that are none.

    Args:
        reader: of the source.
        duplicates: global rows whose id stands in an earlier row, rising.
        out: the pairs artifact.
        plan: its plan.
    """

    def __init__(self, reader: PairReader, duplicates: npt.NDArray[np.int64], out: Artifact, plan: Plan) -> None:
        self._reader = reader
        self._duplicates = duplicates
        self._out = out
        self._plan = plan

    def run_shard(self, shard: ShardRange) -> None:
        """Read and commit one shard."""
        pairs, rejects = self._reader.read_pairs(shard.start, shard.stop, self._duplicates, STAGE)
        self._out.commit_shard(self._plan, shard, pairs, rejects)


def ingest_pairs(
    *,
    source: SourceConfig,
    source_options: Mapping[str, Any],
    modalities: Mapping[str, ModalityConfig],
    config: IngestConfig,
    run: StageRun,
    earlier_index: Store | None = None,
) -> Manifest:
    """Publish `pairs/`: every usable row of the source once, in source order, under a unique id.

    Args:
        source: where the pairs come from.
        source_options: storage options of the source, never written anywhere.
        modalities: resolved, in config order.
        config: what to hold of the content.
        run: where to publish, and with what.
        earlier_index: what an earlier run knows of tar archives; those that have not changed are not read again.

    Raises:
        ConfigError: a configured column is absent or of a wrong type.
        DataError: the source is missing, empty or unreadable.
        GateError: no pair is left, or too many are rejected.
    """
    listing = _list_and_index(source, modalities, source_options, run, earlier_index)
    plan = run.begin(lambda: plan_ranges(listing.num_pairs, run.resources.rows_per_shard))
    missing = run.out.missing_shards(plan)
    if missing:
        staged = stage_tables(listing, run.out.store.child(_LISTING))
        reader = PairReader(staged, modalities, source_options, with_bytes=config.store == "bytes")
        duplicates = _find_duplicates(reader, plan, run)
        arguments = {"reader": reader, "duplicates": duplicates, "out": run.out, "plan": plan}
        run_shards(missing, PairWorker, arguments, run, num_rows=listing.num_pairs, is_light=not reader.with_bytes)
    _check_any_left(source, run.out.read_records(plan))
    run.check_lock()
    run.out.store.remove(_IDS)
    run.out.store.remove(_LISTING)
    properties = _describe(listing, modalities, config)
    return run.finish(plan, properties=properties)


def _list_and_index(
    source: SourceConfig,
    modalities: Mapping[str, ModalityConfig],
    options: Mapping[str, Any],
    run: StageRun,
    earlier_index: Store | None,
) -> SourceListing:
    """List the source, after indexing what has to be indexed first."""
    index = run.out.run.child(INDEX)
    missing = list_missing_tables(source, modalities, options, index)
    if missing and earlier_index is not None:
        made = set(earlier_index.list_files())
        for name in made.intersection(missing.values()):
            index.write_bytes(name, earlier_index.read_bytes(name))
        missing = {url: name for url, name in missing.items() if name not in made}
    archives = [ShardRange(index=i, start=0, stop=1) for i in range(len(missing))]
    columns = find_tar_columns(source, modalities)
    arguments = {"names": missing, "columns": columns, "options": options, "index": index}
    run_shards(archives, TarIndexer, arguments, _rename_progress(run, "archives"), num_rows=len(archives))
    listing = list_source(source, modalities, options, index)
    if listing.is_estimated:
        raise DataError(f"source {source.url} changed while its archives were read; run again once it is whole")
    return listing


def _find_duplicates(reader: PairReader, plan: Plan, run: StageRun) -> npt.NDArray[np.int64]:
    listing = reader.listing
    if listing.source.pair_id_column is None:
        return np.empty(0, np.int64)
    if listing.num_pairs <= MAX_DRIVER_PAIRS:
        return find_duplicate_rows(hash_pair_ids(reader.read_ids(0, listing.num_pairs)))
    ids = run.out.store.child(_IDS)
    done = set(ids.list_files())
    missing = [shard for shard in plan.shards if _name_ids(plan, shard) not in done]
    run_shards(missing, IdWorker, {"reader": reader, "ids": ids, "plan": plan}, _rename_progress(run, "shards of ids"))
    return find_duplicate_rows(_read_hashes(ids, plan))


def _read_hashes(ids: Store, plan: Plan) -> pa.Array:
    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        tables = list(pool.map(lambda shard: ids.read_table(_name_ids(plan, shard)), plan.shards))
    return pa.concat_arrays([pa.array([], HASH_TYPE), *(chunk for table in tables for chunk in table["hash"].chunks)])


def _rename_progress(run: StageRun, unit: str) -> StageRun:
    return replace(run, on_progress=lambda progress: run.on_progress(replace(progress, unit=unit)))


def _name_ids(plan: Plan, shard: ShardRange) -> str:
    return f"{name_shard(shard.index, len(plan.shards))}.parquet"


def _check_any_left(source: SourceConfig, records: Sequence[ShardRecord]) -> None:
    if any(record.pairs_out for record in records):
        return
    reasons: dict[str, int] = {}
    for record in records:
        for reason, count in record.rejects_by_reason.items():
            reasons[reason] = reasons.get(reason, 0) + count
    listed = ", ".join(f"{reason} {count}" for reason, count in sorted(reasons.items()))
    raise GateError(
        f"stage '{STAGE}' needs at least one usable pair, but all rows of {source.url} were rejected ({listed}); "
        "read pairs/_rejects/ and mend the source"
    )


def _describe(listing: SourceListing, modalities: Mapping[str, ModalityConfig], config: IngestConfig) -> dict[str, Any]:
    metadata = metadata_fields(listing.source, modalities, listing.schema)
    return {
        "metadata_columns": [field.name for field in metadata],
        "num_source_bytes": listing.num_bytes,
        "num_source_files": len(listing.files),
        "source_fingerprint": listing.fingerprint,
        "store": config.store,
    }
