"""Every score behind the document, in Parquet beside it: one row a cell, view, contestant and budget.

Whoever doubts a figure reads them with what they like. The document is a function of this file: how the run was made
stands in its schema's metadata. A row repeats what its cell and its view have once, which Parquet's dictionaries and
runs make cheap.
"""

import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mmcsal_core.errors import ConfigError
from tests.benchmarks.selection_machine import Machine
from tests.evidence.cells import Cell, Findings, Protocol, Score, ViewResult
from tests.evidence.document import Occasion
from tests.evidence.encoder_views import GapMeasures
from tests.evidence.results import CellResult

OCCASION, PROTOCOL = b"occasion", b"protocol"

_NAME = pa.dictionary(pa.int32(), pa.string())
CELL = [pa.field("set_name", _NAME), pa.field("share", pa.float64()), pa.field("split", pa.int32())]
CELL += [pa.field("encoder", _NAME)]
RESULT = [pa.field("fingerprint", _NAME), pa.field("started", _NAME), pa.field("cpu_s", pa.float64())]
SIZES = [pa.field(name, pa.int32()) for name in ("num_pool", "num_test", "num_classes")]
VIEW = [pa.field("view", _NAME), pa.field("suspicion_auc", pa.float64())]
GAP = [pa.field(name, pa.float64()) for name in ("gap", "modality_accuracy", "retrieval")]
SCORE = [pa.field("contestant", _NAME), pa.field("per_class", pa.int32())]
SCORE += [
    pa.field(name, pa.float64()) for name in ("balanced_accuracy", "accuracy", "class_coverage", "mispaired_share")
]
SCHEMA = pa.schema([*CELL, *RESULT, *SIZES, *VIEW, *GAP, *SCORE])

Found = Sequence[tuple[Cell, CellResult]]


@dataclass(frozen=True)
class PublishedScores:
    """What the file holds: results by cell, how they were made, and under which protocol."""

    found: Found
    occasion: Occasion
    protocol: Protocol


def write_scores(path: Path, scores: PublishedScores) -> None:
    """Write the file; equal scores give equal bytes."""
    rows = [row for cell, result in scores.found for row in _iter_rows(cell, result)]
    metadata = {
        OCCASION: json.dumps(asdict(scores.occasion)).encode(),
        PROTOCOL: scores.protocol.model_dump_json().encode(),
    }
    table = pa.Table.from_pylist(rows, schema=SCHEMA.with_metadata(metadata))
    pq.write_table(table, path, compression="zstd", compression_level=19, row_group_size=len(rows))


def read_scores(path: Path) -> PublishedScores:
    """Read the file back, equal to what was written.

    Raises:
        ConfigError: the file is missing, or of something else.
    """
    metadata = (pq.read_schema(path).metadata or {}) if path.is_file() else {}
    if OCCASION not in metadata:
        raise ConfigError(f"scores must be a file that an earlier run wrote, got {path}; name its .parquet")
    table = pq.read_table(path)
    occasion = json.loads(metadata[OCCASION])
    machine, dates = occasion.pop("machine"), tuple(occasion.pop("dates"))
    machine["software"] = tuple(machine["software"])
    return PublishedScores(
        list(_iter_cells(table.to_pylist())),
        Occasion(machine=Machine(**machine), dates=dates, **occasion),
        Protocol.model_validate_json(metadata[PROTOCOL]),
    )


def _iter_rows(cell: Cell, result: CellResult) -> Iterator[dict[str, Any]]:
    own = {**asdict(cell), "fingerprint": result.fingerprint, "started": result.started, "cpu_s": result.cpu_s}
    findings = result.findings
    own |= {"num_pool": findings.num_pool, "num_test": findings.num_test, "num_classes": findings.num_classes}
    for view in findings.views:
        of_view = {**own, "view": view.view, "suspicion_auc": view.suspicion_auc, **asdict(view.gap)}
        yield from ({**of_view, **asdict(score)} for score in view.scores)


def _iter_cells(rows: Sequence[dict[str, Any]]) -> Iterator[tuple[Cell, CellResult]]:
    for _, some in itertools.groupby(rows, itemgetter(*_list_names(CELL))):
        of_cell = list(some)
        first, views = of_cell[0], []
        for name, of_view in itertools.groupby(of_cell, itemgetter("view")):
            scored = list(of_view)
            gap = GapMeasures(**_take(scored[0], GAP))
            scores = tuple(Score(**_take(row, SCORE)) for row in scored)
            views.append(ViewResult(name, gap, scored[0]["suspicion_auc"], scores))
        cell = Cell(**_take(first, CELL))
        findings = Findings(**_take(first, SIZES), views=tuple(views))
        yield cell, CellResult(cell.key, **_take(first, RESULT), findings=findings)


def _take(row: dict[str, Any], fields: Sequence[pa.Field]) -> dict[str, Any]:
    return {name: row[name] for name in _list_names(fields)}


def _list_names(fields: Sequence[pa.Field]) -> list[str]:
    return [field.name for field in fields]
