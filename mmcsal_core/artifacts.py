"""Artifacts: what a stage publishes, and the protocol by which it appears whole or not at all.

    <run>/<name>/_plan.json                         fingerprint and shard ranges, written first, kept by a resumed run
    <run>/<name>/data/part-00000-of-00016.parquet   one shard, in its own deterministic object
    <run>/<name>/_rejects/part-...parquet           what the shard rejected, where it rejected anything
    <run>/<name>/_shards/part-...json               done-marker, written after the shard's data
    <run>/rejects/data/<stage>.parquet              all rejects of the stage, for people
    <run>/<name>/_manifest.json, _SUCCESS           after all shards, `_SUCCESS` last

A fingerprint is a hash of the stage's configuration, the fingerprints of its inputs and the code version. Neither the
shard ranges nor the number of workers enter it: a resumed run keeps the ranges of the plan that it finds.
Timestamps live in the manifest alone, so equal runs publish equal data files.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

import pyarrow as pa
from pydantic import Field

from mmcsal_core.errors import ArtifactError, GateError
from mmcsal_core.schema import reject_schema
from mmcsal_core.settings import Settings
from mmcsal_core.storage import FileRecord, Store, hash_bytes
from mmcsal_core.version import __version__

PLAN = "_plan.json"
MANIFEST = "_manifest.json"
SUCCESS = "_SUCCESS"

CHUNK_ROWS = 256
"""Rows that are always computed together. Shards are whole chunks, so a result does not depend on their number."""


class ShardRange(Settings):
    """Rows [start, stop) of a stage's input, counted over all shards of that input."""

    index: int
    start: int
    stop: int


class ShardRecord(Settings):
    """The done-marker of one shard. `num_rows` are the table's rows, one a pair unless the stage says otherwise."""

    index: int
    num_rows: int
    pairs_in: int
    pairs_out: int
    pairs_rejected: int
    rejects_by_reason: dict[str, int]
    data: FileRecord
    rejects: FileRecord | None = None


class Plan(Settings):
    """What a stage has undertaken: its fingerprint and the ranges of its shards."""

    stage: str
    fingerprint: str
    shards: tuple[ShardRange, ...]


class Manifest(Settings):
    """What a finished artifact says of itself. `files` are those that are not shards, e.g. weights or an index."""

    stage: str
    fingerprint: str
    code_version: str
    created_at: str
    pairs_in: int
    pairs_out: int
    pairs_rejected: int
    rejects_by_reason: dict[str, int]
    shards: tuple[ShardRecord, ...] = ()
    files: tuple[FileRecord, ...] = ()
    properties: dict[str, Any] = Field(default_factory=dict)


def compute_fingerprint(stage: str, config: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
    """Hash what a stage's output depends on: its configuration, its inputs' fingerprints and the code version."""
    content = {"stage": stage, "config": config, "inputs": inputs, "code": __version__}
    return hash_bytes(json.dumps(content, sort_keys=True).encode())[:32]


def plan_ranges(num_rows: int, rows_per_shard: int) -> list[ShardRange]:
    """Cut `num_rows` rows into shards of `rows_per_shard`, rounded up to whole chunks; the last one is shorter."""
    step = max(1, -(-rows_per_shard // CHUNK_ROWS)) * CHUNK_ROWS
    starts = range(0, num_rows, step)
    return [ShardRange(index=i, start=start, stop=min(start + step, num_rows)) for i, start in enumerate(starts)]


def name_shard(index: int, num_shards: int) -> str:
    """Return a shard's file name without its ending, e.g. `part-00003-of-00016`."""
    return f"part-{index:05d}-of-{num_shards:05d}"


@dataclass(frozen=True)
class Artifact:
    """One artifact of a run: `name` is its folder, `stage` the stage that writes it."""

    run: Store
    name: str
    stage: str

    @property
    def store(self) -> Store:
        """The artifact's own folder."""
        return self.run.child(self.name)

    def read_manifest(self) -> Manifest:
        """Read the manifest of a finished artifact.

        Raises:
            ArtifactError: the artifact is missing or unfinished.
        """
        if not self.store.exists(SUCCESS):
            raise ArtifactError(f"{self.store.url} is not finished; run the stage '{self.stage}' first")
        return Manifest.model_validate_json(self.store.read_bytes(MANIFEST))

    def is_complete(self, fingerprint: str) -> bool:
        """Say whether the artifact is finished and was made under this fingerprint."""
        return self.store.exists(SUCCESS) and self.read_manifest().fingerprint == fingerprint

    def begin(self, fingerprint: str, make_ranges: Callable[[], Sequence[ShardRange]]) -> Plan:
        """Take up the unfinished plan of this fingerprint, or clear the artifact and write a new plan.

        Args:
            fingerprint: from `compute_fingerprint`.
            make_ranges: called only where a new plan is needed.
        """
        if self.store.exists(PLAN):
            plan = Plan.model_validate_json(self.store.read_bytes(PLAN))
            if plan.fingerprint == fingerprint:
                return plan
        # The plan goes before the data: done-markers of a half-cleared artifact must never be taken up again.
        self.store.remove(SUCCESS)
        self.store.remove(PLAN)
        self.store.remove()
        plan = Plan(stage=self.stage, fingerprint=fingerprint, shards=tuple(make_ranges()))
        self.store.write_bytes(PLAN, plan.model_dump_json(indent=2).encode())
        return plan

    def missing_shards(self, plan: Plan) -> list[ShardRange]:
        """Return the shards of the plan that have no done-marker yet."""
        done = {name for name in self.store.child("_shards").list_files() if name.endswith(".json")}
        return [shard for shard in plan.shards if f"{name_shard(shard.index, len(plan.shards))}.json" not in done]

    def commit_shard(
        self,
        plan: Plan,
        shard: ShardRange,
        table: pa.Table,
        rejects: pa.Table | None = None,
        *,
        pairs_out: int | None = None,
    ) -> ShardRecord:
        """Publish one shard: its data, then its rejects, then its done-marker.

        Args:
            plan: the plan that `begin` returned.
            shard: the range that `table` was made from.
            table: the rows that go on.
            rejects: the rows that do not, under `schema.reject_schema`.
            pairs_out: pairs that `table` speaks of, where it does not hold one row a pair.

        Raises:
            ArtifactError: the pairs do not add up, or the plan is no longer current.
        """
        self.check_current(plan)
        num_out = table.num_rows if pairs_out is None else pairs_out
        rejected = rejects if rejects is not None else reject_schema().empty_table()
        pairs_in = shard.stop - shard.start
        if pairs_in != num_out + rejected.num_rows:
            raise ArtifactError(
                f"stage '{self.stage}', shard {shard.index}: pairs in must equal pairs out plus rejected, "
                f"but {pairs_in} != {num_out} + {rejected.num_rows}; this is a defect, please report it"
            )
        name = name_shard(shard.index, len(plan.shards))
        record = ShardRecord(
            index=shard.index,
            num_rows=table.num_rows,
            pairs_in=pairs_in,
            pairs_out=num_out,
            pairs_rejected=rejected.num_rows,
            rejects_by_reason=dict(sorted(Counter(rejected["reason"].to_pylist()).items())),
            data=self.store.write_table(f"data/{name}.parquet", table),
            rejects=self.store.write_table(f"_rejects/{name}.parquet", rejected) if rejected.num_rows else None,
        )
        self.store.write_bytes(f"_shards/{name}.json", record.model_dump_json(indent=2).encode())
        return record

    def check_current(self, plan: Plan) -> None:
        """Refuse to write under a plan whose place another has taken, as befalls a worker that outlives its killed run.

        Raises:
            ArtifactError: the plan is no longer current.
        """
        stored = Plan.model_validate_json(self.store.read_bytes(PLAN))
        if stored.fingerprint != plan.fingerprint:
            raise ArtifactError(
                f"{self.store.url} is by now being written under another configuration ({stored.fingerprint} instead "
                f"of {plan.fingerprint}); nothing was written, run again"
            )

    def read_records(self, plan: Plan) -> list[ShardRecord]:
        """Read the done-markers of all shards, in order.

        Raises:
            ArtifactError: a shard is not done.
        """
        names = [name_shard(shard.index, len(plan.shards)) for shard in plan.shards]
        return [ShardRecord.model_validate_json(self.store.read_bytes(f"_shards/{name}.json")) for name in names]

    def finish(
        self,
        plan: Plan,
        *,
        files: Sequence[FileRecord] = (),
        num_pairs: int = 0,
        properties: Mapping[str, Any] | None = None,
        max_reject_fraction: float = 1.0,
        before_success: Callable[[], object] = lambda: None,
    ) -> Manifest:
        """Publish the artifact: the stage's rejects for people, the manifest, and `_SUCCESS` last.

        Args:
            plan: the plan that `begin` returned.
            files: files beside the shards.
            num_pairs: pairs that an artifact without shards was made from.
            properties: what later stages and people want to know, JSON values only.
            max_reject_fraction: largest allowed share of rejected pairs, in [0, 1].
            before_success: called when nothing but `_SUCCESS` is left to write; where it fails, nothing is published.

        Raises:
            GateError: more pairs were rejected than allowed.
            ArtifactError: a shard is not done.
        """
        records = self.read_records(plan)
        reasons: Counter[str] = Counter()
        for record in records:
            reasons.update(record.rejects_by_reason)
        manifest = Manifest(
            stage=self.stage,
            fingerprint=plan.fingerprint,
            code_version=__version__,
            created_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            pairs_in=sum(record.pairs_in for record in records) if records else num_pairs,
            pairs_out=sum(record.pairs_out for record in records) if records else num_pairs,
            pairs_rejected=sum(record.pairs_rejected for record in records),
            rejects_by_reason=dict(sorted(reasons.items())),
            shards=tuple(records),
            files=tuple(files),
            properties=dict(properties or {}),
        )
        if records:
            self._publish_rejects(records)
        _check_gate(manifest, max_reject_fraction, self.store.url)
        self.store.remove_leftovers()
        self.store.write_bytes(MANIFEST, manifest.model_dump_json(indent=2).encode())
        before_success()
        self.store.write_bytes(SUCCESS, b"")
        return manifest

    def _publish_rejects(self, records: Sequence[ShardRecord]) -> None:
        tables = [self.store.read_table(record.rejects.name) for record in records if record.rejects]
        rejects = pa.concat_tables([reject_schema().empty_table(), *tables])
        self.run.child("rejects").write_table(f"data/{self.stage}.parquet", rejects)

    def iter_tables(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """Yield the shards of the finished artifact in order, one table each."""
        for record in self.read_manifest().shards:
            yield self.store.read_table(record.data.name, columns)

    def read_table(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Read all shards of the finished artifact, in order."""
        tables = list(self.iter_tables(columns))
        if not tables:
            raise ArtifactError(f"{self.store.url} has no shards; it holds files that are not tables")
        return pa.concat_tables(tables).combine_chunks()

    def read_rows(self, start: int, stop: int, columns: Sequence[str] | None = None) -> pa.Table:
        """Read rows [start, stop), counted over all shards of the finished artifact; other shards are not touched."""
        tables, offset = [], 0
        for record in self.read_manifest().shards:
            first, last = max(start, offset), min(stop, offset + record.num_rows)
            if first < last:
                tables.append(self.store.read_table(record.data.name, columns).slice(first - offset, last - first))
            offset += record.num_rows
        if stop > offset or not tables:
            raise ArtifactError(f"{self.store.url} has {offset} rows; rows {start} to {stop} were asked for")
        return pa.concat_tables(tables).combine_chunks()


def _check_gate(manifest: Manifest, max_reject_fraction: float, url: str) -> None:
    fraction = manifest.pairs_rejected / max(1, manifest.pairs_in)
    if fraction > max_reject_fraction:
        reasons = ", ".join(f"{reason} {count}" for reason, count in manifest.rejects_by_reason.items())
        raise GateError(
            f"stage '{manifest.stage}' may reject at most {max_reject_fraction:.1%} of its pairs, but rejected "
            f"{fraction:.1%} ({manifest.pairs_rejected} of {manifest.pairs_in}: {reasons}); "
            f"read rejects/data/{manifest.stage}.parquet, mend the source (where files that it points to were mended, "
            f"delete {url} too: they are not looked at again by themselves) or raise max_reject_fraction"
        )
