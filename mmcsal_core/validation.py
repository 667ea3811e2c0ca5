"""Check a run against its output contract, from what lies in its folder alone.

Stages that have not run yet are fine, so a run stopped by `--until` is valid as far as it goes. A stage that was
started but not finished, and a finished stage whose input is gone, are failed checks. Tables are read one shard at a
time; of the whole pool only the ids are held, never the vectors. A file whose sha256 is wrong is not decoded.
"""

import io
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mmcsal_core.artifacts import MANIFEST, SUCCESS, Artifact, Manifest, ShardRecord
from mmcsal_core.errors import ArtifactError
from mmcsal_core.schema import PAIR_ID
from mmcsal_core.settings import Settings
from mmcsal_core.storage import FileRecord, Store, hash_bytes
from mmcsal_core.validation_embeddings import EmbeddingInspector
from mmcsal_core.validation_evaluation import EvaluationInspector, find_stale_inputs
from mmcsal_core.validation_features import FeatureInspector
from mmcsal_core.validation_selection import find_selection_problems
from mmcsal_core.validation_suspicion import find_suspicion_problems

STAGES = {
    "pairs": "ingest",
    "features": "features",
    "encoder": "train",
    "embeddings": "embed",
    "indexes": "neighbors",
    "neighbors": "neighbors",
    "selection": "coreset",
    "report": "report",
    "evaluation": "evaluate",
}
"""Artifact folder -> stage that writes it, in the order of a run."""

INPUTS = {
    "features": "pairs",
    "encoder": "features",
    "embeddings": "features",
    "indexes": "embeddings",
    "neighbors": "embeddings",
    "selection": "embeddings",
    "report": "selection",
    "evaluation": "embeddings",
}
"""Artifact -> the artifact whose pairs it takes in."""

INSPECTORS: dict[str, type[FeatureInspector | EmbeddingInspector | EvaluationInspector]] = {
    "features": FeatureInspector,
    "embeddings": EmbeddingInspector,
    "evaluation": EvaluationInspector,
}
"""Artifact -> what looks at its shards, one after the other."""

MAX_SHOWN = 3
"""Problems that a failed check spells out; it counts the rest."""

Inspect = Callable[[pa.Table], None]


class Check(Settings):
    """One rule: its name (`artifact: rule`), whether it holds, and what was found."""

    name: str
    ok: bool
    detail: str


class ValidationReport(Settings):
    """All checks of a run, in the order of its stages."""

    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Whether every check holds."""
        return all(check.ok for check in self.checks)

    @property
    def failed(self) -> tuple[Check, ...]:
        """The checks that do not hold."""
        return tuple(check for check in self.checks if not check.ok)


def validate_run(run: Store) -> ValidationReport:
    """Check every artifact that is present in `run`; reads all its data once, changes nothing."""
    artifacts = {name: Artifact(run, name, stage) for name, stage in STAGES.items()}
    started = {name: artifact for name, artifact in artifacts.items() if artifact.store.list_files()}
    if not started:
        return ValidationReport(checks=(_conclude("run: started", [f"no artifact of a run lies in {run.url}"], ""),))
    manifests: dict[str, Manifest] = {}
    checks = []
    for name, artifact in started.items():
        problems = _read_manifest_into(manifests, artifact)
        checks.append(_conclude(f"{name}: finished", problems, "manifest and _SUCCESS are there"))
    for name, manifest in manifests.items():
        checks.extend(_check_artifact(artifacts[name], manifest))
        checks.append(_check_input(name, manifests))
    readable = {name for name in manifests if _holds(checks, f"{name}: files")}
    if "selection" in readable:
        checks.append(_check_selection({name: artifacts[name] for name in readable}))
    return ValidationReport(checks=tuple(checks))


def _conclude(name: str, problems: Sequence[str], good: str) -> Check:
    shown = "; ".join(problems[:MAX_SHOWN])
    rest = f"; and {len(problems) - MAX_SHOWN} more" if len(problems) > MAX_SHOWN else ""
    return Check(name=name, ok=not problems, detail=shown + rest if problems else good)


def _holds(checks: Sequence[Check], name: str) -> bool:
    return any(check.ok for check in checks if check.name == name)


def _read_manifest_into(manifests: dict[str, Manifest], artifact: Artifact) -> list[str]:
    if not artifact.store.exists(SUCCESS):
        return ["started but not finished; run the job again, it resumes where it stopped"]
    try:
        manifests[artifact.name] = artifact.read_manifest()
    except ArtifactError as error:
        return [str(error)]
    except ValueError as error:
        return [f"{MANIFEST} is not a manifest of this version ({error}); run the stage '{artifact.stage}' again"]
    return []


def _check_artifact(artifact: Artifact, manifest: Manifest) -> Iterator[Check]:
    name, num_rows = artifact.name, sum(shard.num_rows for shard in manifest.shards)
    kind = INSPECTORS.get(name)
    inspector = None if kind is None else kind()
    problems = _find_file_problems(artifact, manifest, inspector.inspect if inspector else _ignore)
    num_files = len(manifest.shards) + len(manifest.files)
    yield _conclude(f"{name}: files", problems, f"{num_files} files as recorded, {num_rows} rows")
    counted = f"{manifest.pairs_in} in = {manifest.pairs_out} out + {manifest.pairs_rejected} rejected"
    yield _conclude(f"{name}: counts", _find_count_problems(manifest), counted)
    if manifest.shards:
        yield _conclude(
            f"{name}: rejects", _find_reject_problems(artifact, manifest), f"{manifest.pairs_rejected} rejects listed"
        )
    if isinstance(inspector, EmbeddingInspector):
        yield _conclude(
            f"{name}: vectors", inspector.find_problems(), f"{num_rows} unit vectors a modality, ids unique"
        )
    elif isinstance(inspector, FeatureInspector):
        yield _conclude(f"{name}: vectors", inspector.find_problems(), f"{num_rows} finite vectors a modality")
    elif inspector is not None:
        yield _conclude(f"{name}: scores", inspector.find_problems(), f"{num_rows} scores, as the contract says")
    if name == "neighbors":
        problems = find_suspicion_problems(artifact, manifest)
        yield _conclude(f"{name}: suspicion", problems, f"{manifest.pairs_out} pairs ranked, sorted by id")


def _ignore(_: pa.Table) -> None:
    return None


def _find_file_problems(artifact: Artifact, manifest: Manifest, inspect: Inspect) -> list[str]:
    store = artifact.store
    recorded = {shard.data.name for shard in manifest.shards}
    strays = [f"data/{name}" for name in store.child("data").list_files() if f"data/{name}" not in recorded]
    problems = [f"{name} is not in the manifest, yet readers of data/ would read it" for name in strays if recorded]
    for record in manifest.files:
        problems += _read_verified(store, record)[1]
    for shard in manifest.shards:
        problems += _find_shard_problems(store, shard, inspect)
    return problems


def _find_shard_problems(store: Store, shard: ShardRecord, inspect: Inspect) -> list[str]:
    data, problems = _read_verified(store, shard.data)
    if not problems:
        table = pq.read_table(io.BytesIO(data))
        if table.num_rows != shard.num_rows:
            problems.append(f"{shard.data.name} holds {table.num_rows} rows, {shard.num_rows} are recorded")
        inspect(table)
    if shard.rejects is not None:
        problems += _read_verified(store, shard.rejects)[1]
    return problems


def _read_verified(store: Store, record: FileRecord) -> tuple[bytes, list[str]]:
    try:
        data = store.read_bytes(record.name)
    except ArtifactError as error:
        return b"", [str(error)]
    if len(data) != record.num_bytes:
        return data, [f"{record.name} has {len(data)} bytes, {record.num_bytes} are recorded"]
    if hash_bytes(data) != record.sha256:
        return data, [f"{record.name} has another sha256 than recorded"]
    return data, []


def _find_count_problems(manifest: Manifest) -> list[str]:
    problems = []
    parts: list[tuple[str, Manifest | ShardRecord]] = [("the stage", manifest)]
    parts += [(shard.data.name, shard) for shard in manifest.shards]
    for name, part in parts:
        if part.pairs_in != part.pairs_out + part.pairs_rejected:
            problems.append(f"{name}: {part.pairs_in} in != {part.pairs_out} out + {part.pairs_rejected} rejected")
        if sum(part.rejects_by_reason.values()) != part.pairs_rejected:
            problems.append(f"{name}: the reasons do not add up to {part.pairs_rejected} rejected pairs")
    if manifest.shards:
        for field in ("pairs_in", "pairs_out", "pairs_rejected"):
            total = sum(getattr(shard, field) for shard in manifest.shards)
            if total != getattr(manifest, field):
                problems.append(f"the shards' {field} add up to {total}, the manifest says {getattr(manifest, field)}")
    return problems


def _find_reject_problems(artifact: Artifact, manifest: Manifest) -> list[str]:
    name = f"data/{artifact.stage}.parquet"
    try:
        rejects = artifact.run.child("rejects").read_table(name, ["reason"])
    except ArtifactError as error:
        return [str(error)]
    found = dict(sorted(Counter(rejects["reason"].to_pylist()).items()))
    if found != manifest.rejects_by_reason:
        return [f"rejects/{name} holds {found}, the manifest says {manifest.rejects_by_reason}"]
    return []


def _check_input(name: str, manifests: Mapping[str, Manifest]) -> Check:
    source = INPUTS.get(name)
    if source is None:
        return _conclude(f"{name}: input", [], "the corpus")
    if source not in manifests:
        return _conclude(f"{name}: input", [f"its input {source}/ is absent or unfinished"], "")
    if name == "evaluation":
        stale = find_stale_inputs(manifests[name], manifests[source])
        return _conclude(
            f"{name}: input", stale, f"each split is of the {manifests[source].pairs_out} pairs of {source}/"
        )
    came, gone = manifests[name].pairs_in, _count_passed_on(manifests[source])
    problems = [] if came == gone else [f"{came} pairs came in, but {source}/ put out {gone}"]
    return _conclude(f"{name}: input", problems, f"takes in the {gone} pairs of {source}/")


def _count_passed_on(manifest: Manifest) -> int:
    """Count the pairs that the next stage takes in; of a selection those are its rows, not the pool it speaks for."""
    if manifest.stage == STAGES["selection"]:
        return sum(shard.num_rows for shard in manifest.shards)
    return manifest.pairs_out


def _check_selection(readable: Mapping[str, Artifact]) -> Check:
    table = readable["selection"].read_table()
    embeddings, pairs = readable.get("embeddings"), readable.get("pairs")
    about = readable["selection"].read_manifest().properties
    num_pool = None if embeddings is None else embeddings.read_manifest().pairs_out - about.get("left_out", 0)
    problems = find_selection_problems(table, num_pool)
    if embeddings is not None:
        problems += _find_unknown_picks(table[PAIR_ID], embeddings)
    if pairs is not None:
        problems += _find_changed_columns(table.schema, pairs)
    return _conclude("selection: contract", problems, f"{table.num_rows} ranked pairs, as the contract says")


def _find_unknown_picks(picks: pa.ChunkedArray, embeddings: Artifact) -> list[str]:
    found = pa.scalar(0)
    for shard in embeddings.iter_tables([PAIR_ID]):
        found = pc.add(found, pc.sum(pc.is_in(shard[PAIR_ID], value_set=picks)))
    missing = len(picks.unique()) - (found.as_py() or 0)
    return [f"{missing} of the selected pairs are not in embeddings/"] if missing else []


def _find_changed_columns(schema: pa.Schema, pairs: Artifact) -> list[str]:
    source = next(pairs.iter_tables()).schema
    shared = [name for name in schema.names if name in source.names]
    return [
        f"column {name} is {schema.field(name).type}, but {source.field(name).type} in pairs/"
        for name in shared
        if schema.field(name).type != source.field(name).type
    ]
