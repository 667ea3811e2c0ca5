"""The embed stage: unit vectors in the published schema, equal bits under any number of shards and actors."""

from collections.abc import Mapping
from itertools import combinations
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from mmcsal_core.artifacts import CHUNK_ROWS, Artifact, plan_ranges
from mmcsal_core.encoder.checkpoint import save_encoder
from mmcsal_core.encoder.config import EncoderConfig
from mmcsal_core.encoder.fitting import fit_encoder
from mmcsal_core.encoder.model import Encoder
from mmcsal_core.errors import ConfigError, DataError
from mmcsal_core.schema import embedding_schema, feature_schema, reject_schema
from mmcsal_core.storage import Store
from pipelines import embed
from pipelines.stage_run import Resources, StageRun

DIMS = {"image": 12, "text": 9}
NUM_ROWS = 5 * CHUNK_ROWS + 100


def make_features(dims: Mapping[str, int] = DIMS) -> pa.Table:
    """Make features/ rows of which about a tenth was rejected, and of one chunk all but two."""
    rng = np.random.default_rng(0)
    kept = rng.random(NUM_ROWS) > 0.1
    kept[CHUNK_ROWS + 2 : 2 * CHUNK_ROWS] = False
    rows = np.flatnonzero(kept)
    shared = rng.normal(size=(len(rows), 4))
    columns = [pa.array(rows), pa.array([f"p{row:04d}" for row in rows])]
    for dim in dims.values():
        vectors = (shared @ rng.normal(size=(4, dim)) + 0.3 * rng.normal(size=(len(rows), dim))).astype(np.float32)
        columns.append(pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), dim))
    return pa.table(columns, schema=feature_schema(dims))


def fit_to(features: pa.Table, dims: Mapping[str, int] = DIMS) -> Encoder:
    vectors = {name: np.array(features[f"{name}_feature"].to_pylist(), dtype=np.float32) for name in dims}
    return fit_encoder(vectors, config=EncoderConfig(dim=8, hidden_width=16, epochs=2), seed=0)


@pytest.fixture(scope="module")
def features() -> pa.Table:
    return make_features()


@pytest.fixture(scope="module")
def encoder(features: pa.Table) -> Encoder:
    return fit_to(features)


def publish_features(root: Path, table: pa.Table, rows_per_shard: int) -> Artifact:
    artifact = Artifact(Store(str(root)), "features", "features")
    plan = artifact.begin("f", lambda: plan_ranges(NUM_ROWS, rows_per_shard))
    rows = table["row"].to_numpy()
    for shard in plan.shards:
        part = table.filter(pa.array((rows >= shard.start) & (rows < shard.stop)))
        gone = shard.stop - shard.start - part.num_rows
        reject = {"source": "s", "source_row": 0, "stage": "features", "reason": "bad_feature", "message": "mend it"}
        artifact.commit_shard(plan, shard, part, pa.Table.from_pylist([reject] * gone, schema=reject_schema()))
    artifact.finish(plan)
    return artifact


def publish_encoder(root: Path, encoder: Encoder) -> Artifact:
    artifact = Artifact(Store(str(root)), "encoder", "train")
    plan = artifact.begin("e", list)
    files = [artifact.store.write_bytes(name, data) for name, data in save_encoder(encoder).items()]
    properties = {"dim": 8, "modalities": list(DIMS), "num_prototypes": {}, "encoder_sha256": files[0].sha256}
    artifact.finish(plan, files=files, num_pairs=NUM_ROWS, properties=properties)
    return artifact


@pytest.mark.parametrize("dims", [DIMS, {**DIMS, "audio": 7}])
def test_rows_are_embedded_in_order_under_the_schema(dims: dict[str, int]) -> None:
    features = make_features(dims)
    encoder = fit_to(features, dims)
    table = embed.embed_table(encoder, features)
    assert table.schema == embedding_schema(list(dims), 8)
    assert table["pair_id"].to_pylist() == features["pair_id"].to_pylist()
    vectors = {name: np.array(table[f"{name}_embedding"].to_pylist(), dtype=np.float32) for name in dims}
    for name, matrix in vectors.items():
        assert np.allclose(np.linalg.norm(matrix, axis=1), 1, atol=1e-5)
        numbers = table[f"prototype_{name}"].to_numpy()
        assert np.array_equal(numbers, np.argmax(matrix @ encoder.prototypes[name].T, axis=1))
    cosines = [np.einsum("nd,nd->n", one, other) for one, other in combinations(vectors.values(), 2)]
    assert np.allclose(table["alignment"].to_numpy(), np.mean(cosines, axis=0), atol=1e-6)


@pytest.mark.parametrize("num_chunks", [1, 2, 5])
def test_equal_bits_however_chunks_make_up_shards(features: pa.Table, encoder: Encoder, num_chunks: int) -> None:
    rows = features["row"].to_numpy() // (num_chunks * CHUNK_ROWS)
    parts = [embed.embed_table(encoder, features.filter(pa.array(rows == n))) for n in range(rows.max() + 1)]
    assert pa.concat_tables(parts).combine_chunks() == embed.embed_table(encoder, features)


def test_a_shard_without_pairs_stays_a_shard(features: pa.Table, encoder: Encoder) -> None:
    assert embed.embed_table(encoder, features.slice(0, 0)) == embedding_schema(list(DIMS), 8).empty_table()


def test_a_pair_without_direction_is_named(features: pa.Table, encoder: Encoder) -> None:
    vectors = np.array(features["text_feature"].to_pylist(), dtype=np.float32)
    vectors[700, 2] = np.nan
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), DIMS["text"])
    broken = features.set_column(3, features.schema.field("text_feature"), column)
    pair_id = features["pair_id"][700].as_py()
    with pytest.raises(DataError, match=rf"text of pair '{pair_id}' has length nan"):
        embed.embed_table(encoder, broken)


def test_a_missing_modality_is_refused(features: pa.Table, encoder: Encoder) -> None:
    with pytest.raises(ConfigError, match=r"\['text'\] missing"):
        embed.embed_table(encoder, features.drop_columns(["text_feature"]))


def test_the_stage_publishes_equal_vectors_under_any_shards_and_actors(
    tmp_path: Path, ray_session: None, features: pa.Table, encoder: Encoder
) -> None:
    tables = []
    for name, rows_per_shard, max_driver_pairs in (("driver", NUM_ROWS, NUM_ROWS), ("actors", 256, 0)):
        root, resources = tmp_path / name, Resources(num_actors=2, max_driver_pairs=max_driver_pairs)
        shards, fitted = publish_features(root, features, rows_per_shard), publish_encoder(root, encoder)
        run = StageRun(Artifact(Store(str(root)), "embeddings", embed.STAGE), "x", resources)
        manifest = embed.embed_pairs(features=shards, encoder=fitted, run=run)
        assert len(manifest.shards) == len(shards.read_manifest().shards)
        assert manifest.pairs_in == manifest.pairs_out == features.num_rows
        assert manifest.properties["encoder_sha256"] == fitted.read_manifest().files[0].sha256
        tables.append(run.out.read_table())
    assert tables[0] == tables[1]
    assert tables[0].num_rows == features.num_rows
