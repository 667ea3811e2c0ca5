"""What the evidence run has found so far, one JSON line a cell, so that a stopped run goes on.

A result counts only for the code and the settings that made it: its fingerprint is of the files that a cell runs
through, of the versions of the packages and of the protocol. Results of other fingerprints stay in the file and are not
read. A line cut short by a kill is passed over: its cell runs again.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import mmcsal_core
from tests.benchmarks.selection_results import find_version
from tests.evidence.cells import Cell, Findings, Protocol, Score, ViewResult
from tests.evidence.encoder_views import GapMeasures

PACKAGES = ("numpy", "scipy", "scikit-learn", "faiss", "torch")
METHOD = ("backbones", "corpus", "encoder", "neighbors", "selection", "evaluation", "metrics.py", "settings.py")
"""What of the method a cell runs through."""

SOURCES = (
    "cells",
    "contestants",
    "emoji",
    "encoder_views",
    "frozen_features",
    "labelled_corpus",
    "mfeat",
    "planting",
    "sets",
    "tux_paint",
)
"""What of this folder a cell runs through."""


@dataclass(frozen=True)
class CellResult:
    """What one cell found.

    Args:
        key: of the cell.
        fingerprint: of what ran.
        started: local time, ISO 8601.
        cpu_s: seconds of its process.
        findings: of the cell.
    """

    key: str
    fingerprint: str
    started: str
    cpu_s: float
    findings: Findings


class ResultFile:
    """Results by cell, kept in a file.

    Args:
        path: of the JSON lines; need not exist.
        fingerprint: of the results that count.
    """

    def __init__(self, path: Path, fingerprint: str) -> None:
        self._path, self.fingerprint = path, fingerprint
        self._results: dict[str, CellResult] = {}
        if path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                self._keep(line)

    def find(self, cell: Cell) -> CellResult | None:
        """Return the latest result of a cell."""
        return self._results.get(cell.key)

    def add(self, result: CellResult) -> None:
        """Append a result, on a line of its own whatever the file ends with."""
        line = json.dumps(asdict(result))
        self._path.parent.mkdir(parents=True, exist_ok=True)
        is_cut = self._path.exists() and not self._path.read_bytes().endswith(b"\n")
        with self._path.open("a", encoding="utf-8") as file:
            file.write(f"\n{line}\n" if is_cut else f"{line}\n")
        self._keep(line)

    def _keep(self, line: str) -> None:
        try:
            values = json.loads(line)
        except json.JSONDecodeError:
            return
        if values["fingerprint"] == self.fingerprint:
            findings = values.pop("findings")
            views = tuple(_read_view(view) for view in findings.pop("views"))
            self._results[values["key"]] = CellResult(findings=Findings(views=views, **findings), **values)


def _read_view(values: dict[str, Any]) -> ViewResult:
    gap, scores = GapMeasures(**values.pop("gap")), tuple(Score(**score) for score in values.pop("scores"))
    return ViewResult(gap=gap, scores=scores, **values)


def fingerprint_grid(protocol: Protocol) -> str:
    """Return a digest of all that results depend on, beside the cell itself."""
    digest = hashlib.sha256(protocol.model_dump_json().encode())
    for file in list_files():
        digest.update(file.read_bytes())
    for package in PACKAGES:
        digest.update(f"{package} {find_version(package)}".encode())
    return digest.hexdigest()[:16]


def list_files() -> Sequence[Path]:
    """Return the files that a cell runs through."""
    root, here = Path(mmcsal_core.__path__[0]), Path(__file__).parent
    files = [
        each for name in METHOD for each in ([root / name] if name.endswith(".py") else (root / name).rglob("*.py"))
    ]
    return sorted(files) + [here / f"{name}.py" for name in SOURCES]
