"""Every number of a report, from the artifacts of a run: the content of `report.json`.

Equal artifacts give equal numbers: nothing here depends on time, on shards or on the machine's load. Floats are rounded
to six significant digits, what is not finite becomes null.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from mmcsal_core.artifacts import Artifact
from mmcsal_core.errors import ArtifactError
from mmcsal_core.pair_agreement import list_unrelated
from mmcsal_core.reporting.measures import (
    NUM_BINS,
    Indices,
    compare_coverage,
    compare_metadata,
    count_values,
    sample_pool,
)
from mmcsal_core.reporting.projection import Projection, project_embeddings
from mmcsal_core.schema import (
    ALIGNMENT,
    CONTENT_KEY,
    GROWN_FROM,
    PAIR_ID,
    SOURCE,
    SOURCE_ROW,
    SUSPICION,
    bytes_column,
    embedding_column,
    uri_column,
)

REPORT_SCHEMA_VERSION = "1"

METRICS = "metrics.json"
"""File of the encoder artifact with the diagnostics and the losses."""

FIRST_PICKS = (10, 20, 50, 100)
"""Prefixes of the ranking that the metadata table looks at, beside the whole selection."""


@dataclass(frozen=True)
class ReportInputs:
    """The artifacts that a report tells of, all finished."""

    pairs: Artifact
    features: Artifact
    encoder: Artifact
    embeddings: Artifact
    neighbors: Artifact
    selection: Artifact

    def list_all(self) -> list[Artifact]:
        """Return the artifacts in the order of the run."""
        return [self.pairs, self.features, self.encoder, self.embeddings, self.neighbors, self.selection]


@dataclass(frozen=True)
class MeasureSettings:
    """How much is measured: pairs and picks of the coverage comparison, random draws, the projection, and the seed."""

    max_pool_rows: int
    max_budget: int
    num_random_draws: int
    seed: int
    projection: Projection = "pca"
    max_projected: int = 600


def collect_numbers(inputs: ReportInputs, modalities: Sequence[str], settings: MeasureSettings) -> dict[str, Any]:
    """Compute the content of `report.json`.

    Args:
        inputs: the artifacts.
        modalities: names, in the order of the configuration.
        settings: how much is measured.

    Raises:
        ArtifactError: an artifact is unfinished, or two do not fit each other.
    """
    selection = inputs.selection.read_table()
    pool = inputs.embeddings.read_table([PAIR_ID, ALIGNMENT])
    picks = locate_ids(inputs.embeddings, selection[PAIR_ID])
    columns = list_metadata_columns(inputs.pairs, modalities)
    counts = count_values(_iter_pool(inputs.pairs, pool[PAIR_ID], columns), columns)
    prefixes = [*(budget for budget in FIRST_PICKS if budget < len(picks)), len(picks)]
    numbers = {
        "schema_version": REPORT_SCHEMA_VERSION,
        "run": {"strategy": inputs.selection.read_manifest().properties["strategy"], **_read_run(selection.schema)},
        "stages": [_describe_stage(artifact) for artifact in inputs.list_all()],
        "selection": _describe_selection(selection, pool.num_rows),
        "alignment": _describe_alignment(pool[ALIGNMENT].to_numpy(), picks),
        "coverage": _measure_coverage(inputs.embeddings, modalities, picks, settings),
        "metadata": compare_metadata(counts, selection, prefixes),
        "encoder": _read_diagnostics(inputs.encoder),
        "projection": _project_pool(inputs.embeddings, modalities, picks, settings),
    }
    rounded: dict[str, Any] = _round_floats(numbers)
    return rounded


def list_metadata_columns(pairs: Artifact, modalities: Sequence[str]) -> list[str]:
    """Return the columns of pairs/ that came along with the content, without those of nested or binary type."""
    reserved = {PAIR_ID, SOURCE, SOURCE_ROW, CONTENT_KEY}
    for name in modalities:
        reserved |= {name, uri_column(name), bytes_column(name)}
    schema = next(pairs.iter_tables()).schema
    return [field.name for field in schema if field.name not in reserved and _is_plain(field.type)]


def locate_ids(artifact: Artifact, ids: pa.ChunkedArray) -> Indices:
    """Return the row of each id, counted over all shards of the artifact.

    Raises:
        ArtifactError: an id is not there.
    """
    wanted, offset = ids.combine_chunks(), 0
    rows = np.full(len(wanted), -1, dtype=np.int64)
    for table in artifact.iter_tables([PAIR_ID]):
        places = pc.index_in(table[PAIR_ID], value_set=wanted).combine_chunks()
        found = np.flatnonzero(places.is_valid().to_numpy(zero_copy_only=False))
        rows[places.drop_null().to_numpy()] = found + offset
        offset += table.num_rows
    if (rows < 0).any():
        missing = wanted[int(np.argmin(rows))].as_py()
        raise ArtifactError(f"every selected pair must be in {artifact.store.url}, {missing!r} is not; run again")
    return rows


def _is_plain(kind: pa.DataType) -> bool:
    return not (pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _iter_pool(pairs: Artifact, pool: pa.ChunkedArray, columns: Sequence[str]) -> Iterator[pa.Table]:
    """Yield `columns` of the pairs that are in the pool, whose ids stand in the order of pairs/."""
    cursor = 0
    for table in pairs.iter_tables([PAIR_ID, *columns]):
        window = pool.slice(cursor, table.num_rows).combine_chunks()
        kept = table.filter(pc.is_in(table[PAIR_ID], value_set=window))
        cursor += kept.num_rows
        yield kept.select(list(columns))
    if cursor != len(pool):
        raise ArtifactError(f"embeddings must hold the pairs of {pairs.store.url} in their order; run again")


def _read_run(schema: pa.Schema) -> dict[str, str]:
    metadata = schema.metadata or {}
    own = {key.decode(): value.decode() for key, value in metadata.items() if key not in (b"pandas", b"ARROW:schema")}
    return dict(sorted(own.items()))


def _describe_stage(artifact: Artifact) -> dict[str, Any]:
    manifest = artifact.read_manifest()
    fields = ("stage", "pairs_in", "pairs_out", "pairs_rejected", "rejects_by_reason")
    return {"artifact": artifact.name, **{name: getattr(manifest, name) for name in fields}}


def _describe_selection(selection: pa.Table, num_pool: int) -> dict[str, Any]:
    phases = pc.value_counts(selection["phase"].combine_chunks()).to_pylist()
    weights = selection["cluster_weight"].to_numpy()
    suspicion = selection[SUSPICION].to_numpy()
    return {
        "num_selected": selection.num_rows,
        "num_pool": num_pool,
        "picks_by_phase": {entry["values"]: entry["counts"] for entry in phases},
        "gain_first": selection["gain"][0].as_py() if selection.num_rows else None,
        "gain_last": selection["gain"][-1].as_py() if selection.num_rows else None,
        "cluster_weight_median": float(np.median(weights)) if len(weights) else None,
        "cluster_weight_max": int(weights.max(initial=0)),
        "share_in_suspicious_fifth": float(np.mean(suspicion > 0.8)) if len(suspicion) else None,
    }


def _describe_alignment(values: npt.NDArray[np.float32], picks: Indices) -> dict[str, Any]:
    edges = np.histogram_bin_edges(values, bins=NUM_BINS)
    groups = {"pool": values, "selected": values[picks]}
    return {
        "edges": edges.tolist(),
        "shares": {
            name: (np.histogram(group, edges)[0] / max(1, len(group))).tolist() for name, group in groups.items()
        },
        **{name: _summarise(group) for name, group in groups.items()},
    }


def _summarise(values: npt.NDArray[np.float32]) -> dict[str, float | None]:
    if not len(values):
        return {"mean": None, "p10": None, "p50": None, "p90": None}
    low, middle, high = np.quantile(values, [0.1, 0.5, 0.9])
    return {"mean": float(values.mean(dtype=np.float64)), "p10": float(low), "p50": float(middle), "p90": float(high)}


def _measure_coverage(
    embeddings: Artifact, modalities: Sequence[str], picks: Indices, settings: MeasureSettings
) -> dict[str, Any]:
    num_pool = embeddings.read_manifest().pairs_out
    room = len(picks) if num_pool <= settings.max_pool_rows else settings.max_pool_rows // 2
    first = picks[: min(settings.max_budget, room)]
    rows = sample_pool(num_pool, first, settings.max_pool_rows, np.random.default_rng(settings.seed))
    vectors = {name: _read_vectors(embeddings, embedding_column(name), rows) for name in modalities}
    measured = {
        "num_measured": len(rows),
        "num_pool": num_pool,
        "is_sampled": len(rows) < num_pool,
        "num_random_draws": settings.num_random_draws,
    }
    return measured | compare_coverage(vectors, np.searchsorted(rows, first), settings.num_random_draws, settings.seed)


def _project_pool(
    embeddings: Artifact, modalities: Sequence[str], picks: Indices, settings: MeasureSettings
) -> dict[str, Any]:
    """Lay a sample of the pool into a plane: the first picks, half of the sample at most, and others at random."""
    num_pool = embeddings.read_manifest().pairs_out
    first = picks if num_pool <= settings.max_projected else picks[: settings.max_projected // 2]
    rows = sample_pool(num_pool, first, settings.max_projected, np.random.default_rng(settings.seed))
    vectors = {name: _read_vectors(embeddings, embedding_column(name), rows) for name in modalities}
    return project_embeddings(vectors, np.isin(rows, picks), settings.projection, settings.seed)


def _read_vectors(embeddings: Artifact, column: str, rows: Indices) -> npt.NDArray[np.float32]:
    parts, offset = [], 0
    for table in embeddings.iter_tables([column]):
        inside = rows[(rows >= offset) & (rows < offset + table.num_rows)] - offset
        dim = table.schema.field(column).type.list_size
        parts.append(table[column].combine_chunks().flatten().to_numpy().reshape(-1, dim)[inside])
        offset += table.num_rows
    return np.concatenate(parts)


def _read_diagnostics(encoder: Artifact) -> dict[str, Any]:
    """Return what the train stage measured: diagnostics before and after, losses and retrieval as lists over epochs."""
    found = encoder.store.read_json(METRICS)
    names = dict.fromkeys(name for epoch in found["losses"] for name in epoch)
    losses = {name: [epoch.get(name) for epoch in found["losses"]] for name in names}
    watched = {name: found.get(name) for name in ("held_back_retrieval", "best_epoch")}
    watched["unrelated"] = [asdict(couple) for couple in list_unrelated(found)]
    watched[GROWN_FROM] = encoder.read_manifest().properties.get(GROWN_FROM)
    return {**{name: found[name] for name in ("before", "after", "measured_on")}, "losses": losses, **watched}


def _round_floats(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _round_floats(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_round_floats(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value
