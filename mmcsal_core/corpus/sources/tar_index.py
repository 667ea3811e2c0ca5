"""What tar archives hold, from an index of them: one small Parquet file an archive, made once and kept with the run.

An archive has no list of its members, so that only reading it front to back tells how many pairs it holds. Workers do
that, one archive each, before shards are planned. The name of a table hangs on the archive's name, size and version and
on what is looked for in it, so an archive that has not changed is not read again, in this run or a later one.

While tables are missing, the first archive that has none is looked into, and the pairs of the others are estimated from
their sizes.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from mmcsal_core.corpus.modality import ModalityConfig
from mmcsal_core.corpus.sources.config import STEM, SourceConfig, find_access
from mmcsal_core.corpus.sources.locations import FoundFile
from mmcsal_core.corpus.sources.parquet import open_parquet
from mmcsal_core.corpus.sources.tars import TarColumns, index_tar
from mmcsal_core.storage import Store

_NUM_THREADS = 16


@dataclass(frozen=True)
class TarTable:
    """The table of one archive.

    Args:
        name: of its file in the index.
        num_rows: estimated where it is not there yet.
        schema: None where it is not there yet, but for the one that was looked into.
        is_made: it is there.
    """

    name: str
    num_rows: int
    schema: pa.Schema | None
    is_made: bool


def find_tar_columns(source: SourceConfig, modalities: Mapping[str, ModalityConfig]) -> TarColumns:
    """Return what is looked for in the archives of a source."""
    texts = [str(each.column) for each in modalities.values() if find_access(source, each) == "inline"]
    named = [*(source.metadata_columns or ()), *([source.pair_id_column] if source.pair_id_column else [])]
    return TarColumns(
        suffixes={name: each.suffixes for name, each in modalities.items() if find_access(source, each) == "files"},
        texts=texts,
        metadata=[name for name in named if name != STEM and name not in texts],
        max_bytes=source.max_member_bytes,
    )


def name_table(file: FoundFile, columns: TarColumns) -> str:
    """Name the table of an archive in the index."""
    described = json.dumps([file.name, file.num_bytes, file.version, file.url, asdict(columns)], sort_keys=True)
    return f"{hashlib.sha256(described.encode()).hexdigest()[:32]}.parquet"


def find_missing_tables(files: Sequence[FoundFile], columns: TarColumns, index: Store) -> dict[str, str]:
    """Return the names of the tables that have yet to be made, by the URL of the archive."""
    names, made = [name_table(file, columns) for file in files], set(index.list_files())
    return {file.url: name for file, name in zip(files, names, strict=True) if name not in made}


def list_tables(
    files: Sequence[FoundFile], columns: TarColumns, options: Mapping[str, Any], index: Store | None
) -> list[TarTable]:
    """Describe the tables of archives, those that are made by their headers.

    Args:
        files: the archives.
        columns: what is looked for in them.
        options: storage options of the source.
        index: where tables are; None where nowhere.

    Raises:
        DataError: the archive that is looked into cannot be read.
    """
    names = [name_table(file, columns) for file in files]
    known = {} if index is None else _read_headers(index, names)
    looked_into = dict(known)
    missing = [(file, name) for file, name in zip(files, names, strict=True) if name not in known]
    for file, name in missing[:1]:
        table = index_tar(file.url, columns, options)
        looked_into[name] = table.num_rows, table.schema
    num_rows = sum(rows for rows, _ in looked_into.values())
    num_bytes = sum(file.num_bytes for file, name in zip(files, names, strict=True) if name in looked_into)

    def describe(file: FoundFile, name: str) -> TarTable:
        guess = round(num_rows * file.num_bytes / max(1, num_bytes))
        return TarTable(name, *looked_into.get(name, (guess, None)), is_made=name in known)

    return [describe(file, name) for file, name in zip(files, names, strict=True)]


def _read_headers(index: Store, names: Sequence[str]) -> dict[str, tuple[int, pa.Schema]]:
    """Return rows and schema of the tables that are there, by name."""
    made = set(index.list_files())
    wanted = [name for name in names if name in made]

    def read(name: str) -> tuple[int, pa.Schema]:
        with open_parquet(f"{index.url}/{name}", index.options) as parquet:
            return parquet.metadata.num_rows, parquet.schema_arrow

    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        return dict(zip(wanted, pool.map(read, wanted), strict=True))
