"""Sources of pairs: Parquet files, manifests, folders and tar archives, local or in any store that fsspec knows.

    config      what the user says
    locations   URLs, storage options, listings of files
    columns     which column is used for what
    tables      CSV, JSONL and folders as tables
    tars        tar archives as tables; tar_index what is known of them, tar_members the bytes of their members
    listing     what a source holds, from its headers
    rows        its rows by global number
    pairs       rows of `pairs/` and rejects from them

Not chosen: `pyarrow.dataset`, which has no stable global row number over files, and Ray's readers, whose blocks differ
from run to run.
"""

from mmcsal_core.corpus.sources.config import SourceConfig
from mmcsal_core.corpus.sources.listing import (
    SourceFile,
    SourceListing,
    list_missing_tables,
    list_source,
    stage_tables,
)
from mmcsal_core.corpus.sources.rows import read_source_rows

__all__ = [
    "SourceConfig",
    "SourceFile",
    "SourceListing",
    "list_missing_tables",
    "list_source",
    "read_source_rows",
    "stage_tables",
]
