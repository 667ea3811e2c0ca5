"""Sources that are not Parquet, as tables: CSV and JSONL manifests, and folders of files paired by stem.

They are small, one line a pair, and are read whole. CSV has no types, so every column stays text: a type guessed from
the values would turn an id `0012` into 12. JSONL keeps the types of JSON.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

import pyarrow as pa
import pyarrow.csv

from mmcsal_core.corpus.modality import ModalityConfig
from mmcsal_core.corpus.sources.columns import FOLDER_VERSION, files_column, folder_schema
from mmcsal_core.corpus.sources.config import STEM
from mmcsal_core.corpus.sources.locations import FoundFile, describe_version
from mmcsal_core.errors import DataError

_BLOCK_BYTES = 2**20


def parse_csv(data: bytes, url: str) -> pa.Table:
    """Read a CSV file with a header; every column is text, an empty unquoted cell is null.

    Raises:
        DataError: it is not CSV with a header.
    """
    parse = pyarrow.csv.ParseOptions(newlines_in_values=True)
    read = pyarrow.csv.ReadOptions(block_size=min(max(len(data), _BLOCK_BYTES), 2**30))
    try:
        with pyarrow.csv.open_csv(pa.BufferReader(data), read, parse) as reader:
            names = reader.schema.names
        convert = pyarrow.csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()),
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        )
        return pyarrow.csv.read_csv(pa.BufferReader(data), read, parse, convert)
    except pa.ArrowException as error:
        raise DataError(f"source file {url} is not readable as CSV with a header ({error}); correct it") from error


def parse_jsonl(data: bytes, url: str) -> pa.Table:
    """Read one JSON object a line; an absent key is null, blank lines are skipped.

    Raises:
        DataError: a line is not a JSON object, or the values of a key have no common type.
    """
    rows = []
    for number, line in enumerate(data.splitlines(), start=1):
        if line.strip():
            rows.append(_parse_line(line, number, url))
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = {}
    for name in names:
        try:
            columns[name] = pa.array([row.get(name) for row in rows])
        except (pa.ArrowException, OverflowError, UnicodeEncodeError) as error:  # a lone surrogate is no text
            raise DataError(
                f"source file {url}: the values of key {name!r} have one type, but {error}; correct them"
            ) from error
    return pa.table(columns)


def _parse_line(line: bytes, number: int, url: str) -> dict[str, object]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"source file {url}, line {number} is not JSON ({error}); correct it") from error
    if not isinstance(row, dict):
        raise DataError(f"source file {url}, line {number} is not a JSON object but {row!r:.60}; correct it")
    return row


def pair_by_stem(files: Sequence[FoundFile], modalities: Mapping[str, ModalityConfig]) -> pa.Table:
    """Group a folder's files into pairs by their path without suffix; other suffixes are left out.

    Args:
        files: files of the folder, sorted by name.
        modalities: with their suffixes; the case of a file's suffix does not matter.

    Returns:
        `folder_schema`, one row a stem, sorted by stem; a list is empty where the modality has no file.
    """
    stems: dict[str, dict[str, list[str]]] = {}
    versions: dict[str, list[str]] = {}
    for file in files:
        path = PurePosixPath(file.name)
        for name, modality in modalities.items():
            if path.suffix.lower() in modality.suffixes:
                stem = str(path.with_suffix(""))
                stems.setdefault(stem, {}).setdefault(name, []).append(file.url)
                versions.setdefault(stem, []).append(f"{file.name}\n{describe_version(file)}")
    ordered = sorted(stems)
    columns = {files_column(name): [stems[stem].get(name, []) for stem in ordered] for name in modalities}
    joined = ["\n".join(versions[stem]) for stem in ordered]
    return pa.table({STEM: ordered, **columns, FOLDER_VERSION: joined}, schema=folder_schema(list(modalities)))
