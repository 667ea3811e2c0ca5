"""The pick log: rounds as they are made, so that a run that was killed goes on where it was, with the same picks.

A log belongs to one request; a part of it to one run of the engine, e.g. `coverage`, `diversity`.
"""

from collections.abc import Sequence
from typing import Protocol

from mmcsal_core.selection.engine.lazy_blocks import Round


class PickLog(Protocol):
    """Where rounds are kept."""

    def read(self, part: str) -> Sequence[Round]:
        """Return the rounds of an earlier run, in order; none where there was none."""

    def append(self, part: str, done: Round) -> None:
        """Keep one more round."""


class NoPickLog:
    """Keeps nothing."""

    def read(self, part: str) -> Sequence[Round]:
        """Return no rounds."""
        return ()

    def append(self, part: str, done: Round) -> None:
        """Forget it."""
