"""What the selection benchmark has measured so far, one JSON line a run, so that a stopped benchmark continues.

A result counts only for the code that made it: its fingerprint is of this project's files and of the versions of all
packages that take part. Results of other fingerprints stay in the file and are not read.
"""

import functools
import hashlib
import importlib.metadata
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

import mmcsal_core
from mmcsal_core.neighbors.vectors import Rows
from tests.benchmarks.selection_case import Outcome
from tests.benchmarks.selection_cases import Run
from tests.benchmarks.selection_methods import Method
from tests.benchmarks.selection_quality import Quality

SHARED_PACKAGES = ("numpy", "scipy", "scikit-learn", "faiss", "torch")
TIMED_FILES = ("selection_case", "selection_methods", "selection_peers", "selection_pools", "selection_sources")


@dataclass(frozen=True)
class Result:
    """One run's figures, or the reason why there are none.

    Args:
        key: of the run.
        fingerprint: of what ran.
        started: local time, ISO 8601.
        reason: why there are no figures; empty where there are.
        picks: path of the picks, .npy.
        outcome: figures.
        quality: of the picks, where all were made.
    """

    key: str
    fingerprint: str
    started: str
    reason: str = ""
    picks: str = ""
    outcome: Outcome | None = None
    quality: Quality | None = None

    def load_picks(self) -> Rows:
        """Read the picks (k,)."""
        picks: Rows = np.load(self.picks)
        return picks


class ResultFile:
    """Results by run, kept in a file.

    Args:
        path: of the JSON lines; need not exist.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._results: dict[tuple[str, str], Result] = {}
        if path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                self._keep(_read(json.loads(line)))

    def find(self, run: Run, fingerprint: str) -> Result | None:
        """Return the latest result of a run."""
        return self._results.get((run.key, fingerprint))

    def add(self, result: Result) -> None:
        """Append a result."""
        self._keep(result)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(result)) + "\n")

    def _keep(self, result: Result) -> None:
        self._results[result.key, result.fingerprint] = result


def _read(values: dict[str, object]) -> Result:
    outcome, quality = values.pop("outcome"), values.pop("quality")
    return Result(
        **values,  # type: ignore[arg-type]  # what `add` wrote
        outcome=Outcome(**outcome) if isinstance(outcome, dict) else None,
        quality=Quality(**quality) if isinstance(quality, dict) else None,
    )


def find_version(package: str) -> str | None:
    """Return the version of an installed distribution, None where it is not installed."""
    names = ("faiss-gpu", "faiss-cpu") if package == "faiss" else (package,)
    found = [each.version for name in names for each in importlib.metadata.distributions(name=name)]
    return found[0] if found else None


@functools.cache
def fingerprint_method(method: Method) -> str:
    """Return a digest of the code and packages that a method's figures depend on, as they were at the first call."""
    folder = Path(__file__).parent
    files = [folder / f"{name}.py" for name in TIMED_FILES]
    if method.name.startswith("mmcsal"):
        files += sorted(Path(mmcsal_core.__path__[0]).rglob("*.py"))
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    for package in (*SHARED_PACKAGES, method.package or "numpy"):
        digest.update(f"{package} {find_version(package)}".encode())
    return digest.hexdigest()[:16]
