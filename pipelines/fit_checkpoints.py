"""What an unfinished training leaves beside its encoder, for the next attempt and for whoever watches.

checkpoints/encoder/epoch-0007.safetensors   state of the encoder's fit after its newest epochs
checkpoints/fold-00/epoch-0003.safetensors   the same of the fit without fold 0
checkpoints/fold-01/scores.safetensors       out-of-fold alignment of a fold whose fit is done
checkpoints/progress.json                    epochs done, pairs a second, seconds left
"""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load, save

from mmcsal_core.encoder.checkpoint import load_fit, save_fit
from mmcsal_core.encoder.encoder_fit import EncoderFit
from mmcsal_core.settings import Settings
from mmcsal_core.storage import Store
from pipelines.stage_run import ignore_progress

CHECKPOINTS = "checkpoints"
KEPT_CHECKPOINTS = 2
SCORES_FILE = "scores.safetensors"
PROGRESS_FILE = "progress.json"
INTERVAL_S = 2.0
"""Time between two notes of the progress within an epoch."""

_CHECKPOINT_NAME = re.compile(r"epoch-(\d+)\.safetensors")
_SCORES = "out_of_fold_alignment"


def publish_checkpoint(fit: EncoderFit, store: Store) -> None:
    """Write the fit's state after its last epoch, and delete all but the newest checkpoints."""
    store.write_bytes(f"epoch-{fit.epoch:04d}.safetensors", save_fit(fit))
    for name in _list_checkpoints(store)[:-KEPT_CHECKPOINTS]:
        store.remove(name)


def resume_fit(fit: EncoderFit, store: Store) -> None:
    """Set a fresh fit to the newest checkpoint, if there is one.

    Raises:
        ArtifactError: the checkpoint is damaged.
    """
    names = _list_checkpoints(store)
    if names:
        load_fit(fit, store.read_bytes(names[-1]))


def publish_scores(scores: npt.NDArray[np.float32], store: Store) -> None:
    """Write the scores of a fold, (n,), and delete the checkpoints of its fit."""
    store.write_bytes(SCORES_FILE, save({_SCORES: scores}))
    for name in _list_checkpoints(store):
        store.remove(name)


def read_scores(store: Store) -> npt.NDArray[np.float32] | None:
    """Read the scores of a fold, (n,); None while its fit is not done."""
    if not store.exists(SCORES_FILE):
        return None
    return np.asarray(load(store.read_bytes(SCORES_FILE))[_SCORES], dtype=np.float32)


def _list_checkpoints(store: Store) -> list[str]:
    names = [name for name in store.list_files() if _CHECKPOINT_NAME.fullmatch(name)]
    return sorted(names, key=lambda name: (len(name), name))


class FitProgress(Settings):
    """How far all fits of a training are; speed and rest as measured in this attempt, clusterings included."""

    done_epochs: int
    total_epochs: int
    pairs_per_second: float | None = None
    eta_s: float | None = None


OnProgress: TypeAlias = Callable[[FitProgress], object]


def read_progress(store: Store) -> FitProgress | None:
    """Read what was noted last in the folder of checkpoints; None before the first note."""
    if not store.exists(PROGRESS_FILE):
        return None
    return FitProgress.model_validate(store.read_json(PROGRESS_FILE))


@dataclass
class FitPace:
    """Notes the progress of all fits of a training in the folder of checkpoints, on the first worker only.

    Args:
        store: that folder.
        is_first: whether this worker is the first.
        total_epochs: of all fits together.
        total_pairs: that they take, each pair once an epoch.
        on_progress: told the same.
    """

    store: Store
    is_first: bool
    total_epochs: int
    total_pairs: int
    on_progress: OnProgress = ignore_progress
    done_epochs: int = 0
    done_pairs: int = 0
    measured_pairs: int = 0
    started: float = field(default_factory=time.monotonic)
    noted: float = 0.0

    def skip_epochs(self, num_epochs: int, pairs_per_epoch: int) -> None:
        """Count what an earlier attempt has done."""
        self.done_epochs += num_epochs
        self.done_pairs += num_epochs * pairs_per_epoch

    def count_pairs(self, num_pairs: int) -> None:
        """Count a batch, and note the progress now and then."""
        self.measured_pairs += num_pairs
        if time.monotonic() - self.noted >= INTERVAL_S:
            self.note()

    def count_epoch(self) -> None:
        """Count an epoch, and note it."""
        self.done_epochs += 1
        self.note()

    def describe(self) -> FitProgress:
        """Return how far the fits are."""
        speed = self.measured_pairs / max(time.monotonic() - self.started, 1e-9)
        rest = max(0, self.total_pairs - self.done_pairs - self.measured_pairs)
        return FitProgress(
            done_epochs=self.done_epochs,
            total_epochs=self.total_epochs,
            pairs_per_second=round(speed, 1) if self.measured_pairs else None,
            eta_s=round(rest / speed, 1) if self.measured_pairs else None,
        )

    def note(self) -> None:
        """Write how far the fits are."""
        self.noted = time.monotonic()
        if self.is_first:
            progress = self.describe()
            self.store.write_json(PROGRESS_FILE, progress.model_dump())
            self.on_progress(progress)
