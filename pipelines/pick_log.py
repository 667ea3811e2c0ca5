"""The pick log in the run's store: one small JSON object a round, so that a selection that was killed goes on.

    <run>/_pick_log/<fingerprint of the selection>/<part>/000000.json     {"rows": [...], "terms": [[...], ...]}

It lies beside selection/, not in it: what was published there before stays until the new selection is whole, and
`Artifact.begin` clears the folder. A selection under another configuration has another fingerprint and never reads
these rounds. An object appears whole or not at all (`Store.write_bytes`), since object stores cannot append. Numbers
are written in the shortest form that reads back as the same float64.

A log that is damaged is refused, as a damaged checkpoint is: to drop rounds in silence would mix those of two runs.
"""

from collections.abc import Sequence

from pydantic import ValidationError

from mmcsal_core.artifacts import Artifact
from mmcsal_core.errors import ArtifactError
from mmcsal_core.selection.engine.lazy_blocks import Round, Terms
from mmcsal_core.selection.engine.pick_log import PickLog
from mmcsal_core.settings import Settings
from mmcsal_core.storage import Store
from pipelines.stage_run import StageProgress, StageRun

FOLDER = "_pick_log"


class StoredRound(Settings):
    """One object of the log."""

    rows: tuple[int, ...]
    terms: tuple[Terms, ...]


class StoredPickLog:
    """The rounds of one selection.

    Args:
        selection: the artifact that is being made.
        fingerprint: what it will carry.
        num_rows: pairs of the pool.
    """

    def __init__(self, selection: Artifact, fingerprint: str, num_rows: int) -> None:
        self._logs = selection.run.child(FOLDER)
        self._own, self._num_rows = self._logs.child(fingerprint), num_rows
        self._num_rounds: dict[str, int] = {}

    def read(self, part: str) -> Sequence[Round]:
        """Return the rounds of an earlier run, in order.

        Raises:
            ArtifactError: an object is missing or damaged, or is not of this pool.
            ValueError: the part was read before; every run of the engine needs a part of its own.
        """
        if part in self._num_rounds:
            raise ValueError(f"each run of the engine needs a part of its own in the log, but {part!r} is read twice")
        store = self._own.child(part)
        names = store.list_files()
        if names != [name_round(number) for number in range(len(names))]:
            raise ArtifactError(f"{store.url} must hold {len(names)} rounds without a gap, got {names}; {self._advice}")
        rounds = [self._read_round(store, name) for name in names]
        rows = [row for done in rounds for row in done.rows]
        if len(set(rows)) < len(rows) or not all(0 <= row < self._num_rows for row in rows):
            raise ArtifactError(
                f"{store.url} must name distinct rows of the {self._num_rows} of the pool, got {sorted(rows)[-3:]} as "
                f"the largest; {self._advice}"
            )
        self._num_rounds[part] = len(rounds)
        return rounds

    def append(self, part: str, done: Round) -> None:
        """Keep one more round."""
        number = self._num_rounds.get(part, 0)
        content = StoredRound(rows=done.rows, terms=done.terms)
        self._own.child(part).write_bytes(name_round(number), content.model_dump_json().encode())
        self._num_rounds[part] = number + 1

    def remove(self) -> None:
        """Delete this log, and those that other selections of the run have left unfinished."""
        self._logs.remove()

    @property
    def _advice(self) -> str:
        return f"delete {self._own.url} and run again"

    def _read_round(self, store: Store, name: str) -> Round:
        try:
            content = StoredRound.model_validate_json(store.read_bytes(name))
        except ValidationError as error:
            raise ArtifactError(f"{store.url}/{name} is not a round of picks ({error}); {self._advice}") from error
        if len(content.rows) != len(content.terms) or len(content.rows) == 0:
            raise ArtifactError(
                f"{store.url}/{name} must have one pick at least and as many terms as rows, got {len(content.terms)} "
                f"and {len(content.rows)}; {self._advice}"
            )
        return Round(content.rows, content.terms)


class ReportedPickLog:
    """Tells the stage's progress of every round, and of those that an earlier run has left.

    Args:
        log: where the rounds are kept.
        num_picks: wanted in all.
        run: whom to tell.
    """

    def __init__(self, log: PickLog, num_picks: int, run: StageRun) -> None:
        self._log, self._num_picks, self._run = log, num_picks, run
        self._num_done = 0

    def read(self, part: str) -> Sequence[Round]:
        """Return the rounds of an earlier run, in order."""
        rounds = self._log.read(part)
        if rounds:
            self._report(rounds, "from the pick log")
        return rounds

    def append(self, part: str, done: Round) -> None:
        """Keep one more round."""
        self._log.append(part, done)
        self._report([done])

    def _report(self, rounds: Sequence[Round], detail: str = "") -> None:
        self._num_done += sum(len(done.rows) for done in rounds)
        self._run.on_progress(StageProgress(self._run.out.stage, self._num_done, self._num_picks, "picks", detail))


def name_round(number: int) -> str:
    """Return the name of a round's object."""
    return f"{number:06d}.json"
