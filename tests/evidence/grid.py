"""The grid of the evidence run: which cells a profile has, and running those that have no result yet.

Each cell runs on one thread; what it found is kept before the next line of progress.
"""

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from datetime import datetime
from multiprocessing import get_context
from pathlib import Path

from tests.evidence.cells import Cell, Protocol, run_cell
from tests.evidence.encoder_views import INFO_NCE, list_encoders, name_default_encoder
from tests.evidence.results import CellResult, ResultFile
from tests.evidence.sets import SETS, find_set, load_set


@dataclass(frozen=True)
class Profile:
    """How much to run.

    Args:
        sets: names.
        shares: of mispaired pairs, for the first encoder.
        other_shares: for the other encoders.
        num_splits: of each set, for the first encoder.
        other_splits: for the other encoders.
        encoders: names.
    """

    sets: tuple[str, ...]
    shares: tuple[float, ...]
    other_shares: tuple[float, ...]
    num_splits: int
    other_splits: int
    encoders: tuple[str, ...]


def list_profiles() -> dict[str, Profile]:
    """Return the profiles by name."""
    default = name_default_encoder()
    encoders = (default, *(name for name in list_encoders() if name != default))
    return {
        "quick": Profile(
            ("tux image-text", "tux text-audio"),
            (0.0, 0.2),
            (0.0, 0.2),
            2,
            2,
            tuple(dict.fromkeys((default, INFO_NCE))),
        ),
        "full": Profile(tuple(each.name for each in SETS), (0.0, 0.1, 0.2), (0.0, 0.2), 10, 5, encoders),
    }


def list_cells(profile: Profile) -> list[Cell]:
    """Return the cells of a profile: the default encoder first, and one split of everything before the next."""
    return [
        Cell(name, share, split, encoder)
        for encoder in profile.encoders
        for split in range(profile.num_splits if encoder == profile.encoders[0] else profile.other_splits)
        for share in (profile.shares if encoder == profile.encoders[0] else profile.other_shares)
        for name in profile.sets
    ]


def run_cells(cells: Sequence[Cell], results: ResultFile, protocol: Protocol, cache: Path, num_processes: int) -> None:
    """Run what has no result yet, one line of progress a cell; a single process is this one."""
    missing = [cell for cell in cells if results.find(cell) is None]
    print(f"{len(cells) - len(missing)} of {len(cells)} cells have results", flush=True)
    for name in dict.fromkeys(cell.set_name for cell in missing):
        load_set(find_set(name), cache)  # fetched once, before several processes want it
    started = time.monotonic()
    for number, result in enumerate(_iter_results(missing, protocol, cache, results.fingerprint, num_processes), 1):
        results.add(result)
        left_min = (time.monotonic() - started) / number * (len(missing) - number) / 60
        print(f"[{number}/{len(missing)}] {result.key}: {result.cpu_s:.0f} CPU s, {left_min:.0f} min left", flush=True)


def _iter_results(
    cells: Sequence[Cell], protocol: Protocol, cache: Path, fingerprint: str, num_processes: int
) -> Iterator[CellResult]:
    """Yield results as they come."""
    if num_processes == 1:
        for cell in cells:
            yield time_cell(cell, protocol, cache, fingerprint)
        return
    with ProcessPoolExecutor(num_processes, mp_context=get_context("spawn")) as executor:
        futures = [executor.submit(time_cell, cell, protocol, cache, fingerprint) for cell in cells]
        for future in as_completed(futures):
            yield future.result()


def time_cell(cell: Cell, protocol: Protocol, cache: Path, fingerprint: str) -> CellResult:
    """Run a cell and time it."""
    now, started = datetime.now().astimezone().isoformat(timespec="seconds"), time.process_time()
    findings = run_cell(cell, protocol, cache)
    return CellResult(cell.key, fingerprint, now, time.process_time() - started, findings)
