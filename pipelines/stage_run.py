"""What every stage is handed beside its inputs and configuration: where to publish, on what machines, whom to tell."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import Field

from mmcsal_core.artifacts import Artifact, Manifest, Plan, ShardRange
from mmcsal_core.selection.engine.screening import Screening
from mmcsal_core.settings import Settings
from mmcsal_core.storage import FileRecord


class Resources(Settings):
    """Machines and sizes.

    The number of shards, readers and actors changes no bit of a result. Threads and device change the last bits of
    vectors, as any other machine would; that is taken for equal, except in training, which amplifies it: the encoder's
    fingerprint holds what `describe_training` returns.
    """

    rows_per_shard: int = Field(1024, ge=1, description="pairs a shard, rounded up to whole chunks of 256")
    num_readers: int = Field(
        1, ge=0, description="CPU workers that read and decode; 0 where what embeds is to do it too, on a single core"
    )
    num_actors: int = Field(1, ge=1, description="workers that hold a backbone, an encoder or an index")
    max_driver_pairs: int = Field(
        4096,
        ge=0,
        description="largest pool, in pairs, on which the job's own process does light work (tables, training, "
        "embedding, neighbours), since workers take longer to start; where num_actors is 1 it also decodes and "
        "extracts features, without Ray. A stage that asks for a GPU has workers; 0 leaves all to them",
    )
    cpus_per_actor: float = Field(1.0, gt=0, description="CPU cores a worker; also its threads, at least one")
    gpus_per_actor: float = Field(0.0, ge=0, description="GPUs a worker; 0 computes on the CPU")
    memory_per_actor_gb: float | None = Field(None, gt=0, description="memory that Ray reserves for such a worker, GiB")
    memory_per_reader_gb: float | None = Field(None, gt=0, description="memory that Ray reserves for a reader, GiB")
    selection_actors: int = Field(
        0, ge=0, description="actors that hold the pool while pairs are picked, a core each; 0 picks in the driver"
    )
    selection_gpus: float = Field(
        0.0, ge=0, description="GPUs a selection actor, on which k-center multiplies; it changes no pick"
    )
    selection_memory_gb: float | None = Field(
        None, gt=0, description="memory that Ray reserves for a selection actor, GiB"
    )
    selection_screening: Screening = Field(
        "off", description="cheaper products that k-center tries first: off, prefix, int8, or auto for the fastest"
    )
    train_workers: int = Field(1, ge=1, description="workers of the train stage; more than one changes the result")

    @property
    def num_threads(self) -> int:
        """Threads of one worker."""
        return max(1, int(self.cpus_per_actor))

    def describe_training(self) -> dict[str, int | bool]:
        """Return what of these resources changes a trained encoder."""
        return {"workers": self.train_workers, "threads": self.num_threads, "gpu": self.gpus_per_actor > 0}


def reserve_memory(num_gb: float | None) -> dict[str, int]:
    """Return Ray's option that reserves so many GiB for a task or an actor; none where nothing is configured."""
    return {} if num_gb is None else {"memory": int(num_gb * 2**30)}


@dataclass(frozen=True)
class StageProgress:
    """How far a stage is: `done` of `total` units of work (`unit` names them), and what it has to say.

    A stage that measures them adds its throughput and the seconds that are left at it.
    """

    stage: str
    done: int
    total: int
    unit: str = "shards"
    detail: str = ""
    pairs_per_second: float | None = None
    eta_s: float | None = None


def ignore_progress(_: object) -> None:
    """Tell nobody."""


@dataclass(frozen=True)
class StageRun:
    """One run of one stage.

    Args:
        out: the artifact to publish.
        fingerprint: what `out` will carry, from `compute_fingerprint`.
        resources: machines and sizes.
        max_reject_fraction: largest share of rows that the stage may reject.
        on_progress: called now and then.
        before_success: called just before `out` counts as finished.
        open_ray: called before the stage uses Ray; does nothing where Ray runs already.
        check_lock: called before anything is cleared or published; raises where the run folder is no longer ours.
    """

    out: Artifact
    fingerprint: str
    resources: Resources = field(default_factory=Resources)
    max_reject_fraction: float = 1.0
    on_progress: Callable[[StageProgress], None] = ignore_progress
    before_success: Callable[[], object] = lambda: None
    open_ray: Callable[[], object] = lambda: None
    check_lock: Callable[[], object] = lambda: None

    def begin(self, make_ranges: Callable[[], Sequence[ShardRange]]) -> Plan:
        """Take up or make the plan of `out`, as `Artifact.begin` does."""
        self.check_lock()
        return self.out.begin(self.fingerprint, make_ranges)

    def finish(
        self,
        plan: Plan,
        *,
        files: Sequence[FileRecord] = (),
        num_pairs: int = 0,
        properties: Mapping[str, Any] | None = None,
    ) -> Manifest:
        """Publish `out`; arguments as in `Artifact.finish`.

        Raises:
            GateError: more pairs were rejected than allowed.
            ArtifactError: a shard is not done.
        """
        self.check_lock()
        return self.out.finish(
            plan,
            files=files,
            num_pairs=num_pairs,
            properties=properties,
            max_reject_fraction=self.max_reject_fraction,
            before_success=self.before_success,
        )
