"""A small finished run, written artifact by artifact without Ray and without models, for tests of what reads runs."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from PIL import Image

from mmcsal_core.artifacts import Artifact, ShardRange, plan_ranges
from mmcsal_core.corpus.modality import ModalityConfig, resolve_modality
from mmcsal_core.schema import (
    SUSPICION_FILE,
    describe_field,
    embedding_schema,
    feature_schema,
    neighbor_schema,
    reject_schema,
    relation_name,
    selection_schema,
    suspicion_schema,
    witness_fields,
)
from mmcsal_core.selection import select_coreset
from mmcsal_core.storage import Store

NUM_PAIRS, NUM_REJECTED, BUDGET, DIM, NUM_GROUPS = 300, 3, 24, 8, 6

GROUPS = ("animals", "plants", "food", "places", "tools", "signs")

MODALITIES = {name: resolve_modality(name, ModalityConfig()) for name in ("image", "text")}


def make_run(root: Path, captions: Mapping[int, str] | None = None) -> Store:
    """Write every artifact but the report; `captions` replaces the text, the id's ending and the mood of some pairs."""
    run = Store(str(root / "run"))
    words = dict(captions or {})
    pairs = _make_pairs(root / "source", words)
    vectors = make_vectors()
    _publish_pairs(run, pairs)
    kept = pairs.slice(0, NUM_PAIRS)
    ids = kept["pair_id"]
    rows = pa.array(range(NUM_PAIRS), pa.int64())
    features = [rows, ids, *(_to_lists(vectors[name] * 3) for name in MODALITIES)]
    _publish(run, "features", "features", pa.table(features, schema=feature_schema({"image": DIM, "text": DIM})))
    _publish_encoder(run)
    alignment = np.einsum("nd,nd->n", vectors["image"], vectors["text"])
    numbers = pa.array(np.arange(NUM_PAIRS) % NUM_GROUPS, pa.int32())
    embedded = [ids, *(_to_lists(vectors[name]) for name in MODALITIES), numbers, numbers, pa.array(alignment)]
    _publish(run, "embeddings", "embed", pa.table(embedded, schema=embedding_schema(list(MODALITIES), DIM)))
    _publish_neighbors(run, ids.to_pylist())
    _publish_selection(run, kept, vectors, alignment)
    return run


def make_vectors() -> dict[str, npt.NDArray[np.float32]]:
    """Return unit vectors in groups, (NUM_PAIRS, DIM) a modality, the modalities of a pair close to each other."""
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(NUM_GROUPS, DIM))
    base = centers[np.arange(NUM_PAIRS) % NUM_GROUPS] + 0.5 * rng.normal(size=(NUM_PAIRS, DIM))
    found = {}
    for name in MODALITIES:
        raw = base + 0.4 * rng.normal(size=base.shape)
        found[name] = (raw / np.linalg.norm(raw, axis=1, keepdims=True)).astype(np.float32)
    return found


def encode_png(color: tuple[int, int, int], size: tuple[int, int] = (48, 32)) -> bytes:
    """Return a picture of one colour with a dark square in it."""
    image = Image.new("RGB", size, color)
    image.paste((30, 30, 40), (8, 8, 24, 24))
    sink = io.BytesIO()
    image.save(sink, format="PNG")
    return sink.getvalue()


def _make_pairs(source: Path, captions: Mapping[int, str]) -> pa.Table:
    source.mkdir(parents=True)
    columns: dict[str, list[Any]] = {"pair_id": [], "image_uri": [], "text": [], "group": [], "mood": []}
    for row in range(NUM_PAIRS + NUM_REJECTED):
        path = source / f"{row:04d}.png"
        path.write_bytes(encode_png((row * 37 % 256, row * 91 % 256, 200)))
        group = GROUPS[row % NUM_GROUPS]
        columns["pair_id"].append(f"pair-{row:04d}{captions.get(row, '')}")
        columns["image_uri"].append(str(path))
        columns["text"].append(captions.get(row, f"number {row}, one of the {group}"))
        columns["group"].append(group)
        columns["mood"].append(captions.get(row, "calm"))
    size = len(columns["pair_id"])
    fields = [
        describe_field("pair_id", pa.string(), "unique id of the pair", nullable=False),
        describe_field("source", pa.string(), "source file", nullable=False),
        describe_field("source_row", pa.int64(), "row in the source file", "row", nullable=False),
        *(pa.field(name, pa.string()) for name in ("image_uri", "text", "group", "mood")),
    ]
    values = [columns["pair_id"], ["list.csv"] * size, range(size)]
    values += [columns[name] for name in ("image_uri", "text", "group", "mood")]
    return pa.table([pa.array(v, field.type) for v, field in zip(values, fields, strict=True)], pa.schema(fields))


def _to_lists(matrix: npt.NDArray[np.float32]) -> pa.FixedSizeListArray:
    return pa.FixedSizeListArray.from_arrays(pa.array(matrix.ravel()), matrix.shape[1])


def _publish_pairs(run: Store, pairs: pa.Table) -> None:
    artifact = Artifact(run, "pairs", "ingest")
    plan = artifact.begin("f-pairs", lambda: plan_ranges(NUM_PAIRS + NUM_REJECTED, 256))
    for shard in plan.shards:
        kept = pairs.slice(shard.start, min(shard.stop, NUM_PAIRS) - shard.start)
        artifact.commit_shard(plan, shard, kept, _make_rejects(shard.stop - shard.start - kept.num_rows))
    artifact.finish(plan)


def _make_rejects(count: int) -> pa.Table:
    row = {"pair_id": "gone", "source": "list.csv", "source_row": 300, "modality": "image", "stage": "ingest"}
    rows = [{**row, "reason": "unreadable_image", "message": "mend the file"}] * count
    return pa.Table.from_pylist(rows, schema=reject_schema())


def _publish(run: Store, name: str, stage: str, table: pa.Table) -> None:
    artifact = Artifact(run, name, stage)
    plan = artifact.begin(f"f-{name}", lambda: plan_ranges(table.num_rows, 256))
    for shard in plan.shards:
        artifact.commit_shard(plan, shard, table.slice(shard.start, shard.stop - shard.start))
    artifact.finish(plan)


def _publish_encoder(run: Store) -> None:
    artifact = Artifact(run, "encoder", "train")
    plan = artifact.begin("f-encoder", list)
    record = artifact.store.write_json("metrics.json", make_metrics())
    artifact.finish(plan, files=[record], num_pairs=NUM_PAIRS)


def make_metrics() -> dict[str, Any]:
    """Return diagnostics as the train stage writes them."""
    both, each = ("image->text", "text->image"), ("image", "text")

    def diagnose(gap: float, recall: float) -> dict[str, Any]:
        return {"num_pairs": 30, **measure(gap, recall), "centred": measure(round(gap / 10, 3), recall)}

    def measure(gap: float, recall: float) -> dict[str, Any]:
        return {
            "modality_gap": {"image->text": gap},
            "modality_accuracy": {"image->text": min(1.0, 0.5 + gap)},
            "alignment": {"image->text": 1 - gap},
            "cluster_agreement": {"image->text": 0.4},
            "retrieval": {name: {"r@1": recall, "r@5": recall * 1.5, "r@10": recall * 2} for name in both},
            "uniformity": dict.fromkeys(each, -2.1),
            "effective_rank": dict.fromkeys(each, 6.5),
        }

    losses = [{"info_nce": 5.1 / epoch, "proto_nce": None if epoch < 3 else 4.0 / epoch} for epoch in range(1, 9)]
    return {
        "before": diagnose(0.81, 0.05),
        "after": diagnose(0.12, 0.4),
        "losses": losses,
        "held_back_retrieval": [0.1 + 0.05 * min(epoch, 12 - epoch) for epoch in range(1, 9)],
        "best_epoch": 6,
        "measured_on": "held-back pairs",
    }


def _publish_neighbors(run: Store, ids: list[str]) -> None:
    artifact = Artifact(run, "neighbors", "neighbors")
    plan = artifact.begin("f-neighbors", lambda: plan_ranges(NUM_PAIRS, 256))
    for shard in plan.shards:
        edges = [
            {
                "pair_id": ids[row],
                "relation": relation_name("image", "text"),
                "neighbor_rank": rank,
                "neighbor_id": ids[(row + rank + 1) % NUM_PAIRS],
                "similarity": 0.5,
            }
            for row in range(shard.start, shard.stop)
            for rank in range(2)
        ]
        table = pa.Table.from_pylist(edges, schema=neighbor_schema())
        artifact.commit_shard(plan, shard, table, pairs_out=shard.stop - shard.start)
    files = [artifact.store.write_table(SUSPICION_FILE, make_suspicion(ids))]
    artifact.finish(plan, files=files)


def make_suspicion(ids: list[str]) -> pa.Table:
    """Return a made-up suspicion of each pair."""
    ranks = np.random.default_rng(5).permutation(len(ids)) / (len(ids) - 1)
    columns = [ids, 0.5 - ranks, 1 - ranks, ranks]
    schema = suspicion_schema()
    return pa.table([pa.array(v, field.type) for v, field in zip(columns, schema, strict=True)], schema=schema)


def _publish_selection(
    run: Store,
    pairs: pa.Table,
    vectors: Mapping[str, npt.NDArray[np.float32]],
    alignment: npt.NDArray[np.float32],
) -> None:
    table = make_selection(pairs, vectors, alignment)
    artifact = Artifact(run, "selection", "coreset")
    plan = artifact.begin("f-selection", lambda: [ShardRange(index=0, start=0, stop=NUM_PAIRS)])
    artifact.commit_shard(plan, plan.shards[0], table, pairs_out=NUM_PAIRS)
    artifact.finish(plan, properties={"strategy": "kmeans", "budget": BUDGET})


def make_selection(
    pairs: pa.Table, vectors: Mapping[str, npt.NDArray[np.float32]], alignment: npt.NDArray[np.float32]
) -> pa.Table:
    """Return a selection by k-means under the published schema."""
    chosen = select_coreset(vectors, BUDGET, strategy="kmeans", seed=0)
    taken = pairs.take(pa.array(chosen.indices))
    joint = np.concatenate(list(vectors.values()), axis=1)[chosen.indices] / np.sqrt(len(vectors))
    distances = np.sqrt(np.maximum(0, 2 - 2 * joint @ joint.T))
    nearest = [None, *(int(distances[rank, :rank].argmin()) for rank in range(1, BUDGET))]
    ids = taken["pair_id"].to_pylist()
    told = make_suspicion(pairs["pair_id"].to_pylist()).take(pa.array(chosen.indices))
    carried = [taken.schema.field(name) for name in ("image_uri", "text", "group", "mood")]
    columns = {
        **{field.name: taken[field.name].to_pylist() for field in carried},
        "pair_id": ids,
        "rank": range(BUDGET),
        "phase": chosen.phases,
        "gain": chosen.gains,
        "coverage_term": chosen.coverage_terms,
        "diversity_term": chosen.diversity_terms,
        "alignment_term": chosen.alignment_terms,
        "alignment": alignment[chosen.indices],
        **{field.name: told[field.name].to_pylist() for field in witness_fields()},
        "cluster_weight": chosen.weights,
        "nearest_selected_id": [None if place is None else ids[place] for place in nearest],
        "nearest_selected_distance": [
            None if place is None else float(distances[rank, place]) for rank, place in enumerate(nearest)
        ],
        "near_duplicate_count": [None] * BUDGET,
        "prototype_image": chosen.indices % NUM_GROUPS,
        "prototype_text": chosen.indices % NUM_GROUPS,
        "stratum": [None] * BUDGET,
        "run_id": ["test"] * BUDGET,
    }
    names = ("run_id", "seed", "encoder_sha256", "config_sha256", "code_version", "schema_version")
    schema = selection_schema(list(MODALITIES), carried).with_metadata({name: f"test-{name}" for name in names})
    return pa.table([pa.array(columns[field.name], field.type) for field in schema], schema=schema)
