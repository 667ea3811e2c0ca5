from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from mmcsal_core.artifacts import Artifact, Manifest, ShardRange, plan_ranges
from mmcsal_core.errors import ArtifactError
from mmcsal_core.neighbors import NeighborConfig
from mmcsal_core.neighbors.backbone_space import reduce_features
from mmcsal_core.neighbors.index import decode_index, find_rows
from mmcsal_core.neighbors.stored_spaces import read_backbone_spaces
from mmcsal_core.neighbors.stored_suspicion import WITNESSES, publish_suspicion, read_suspicion
from mmcsal_core.neighbors.suspicion import measure_alignment, measure_consistency
from mmcsal_core.schema import (
    PAIR_ID,
    SUSPICION_FILE,
    backbone_space,
    embedding_column,
    feature_column,
    neighbor_schema,
    suspicion_schema,
)
from mmcsal_core.selection import SelectionConfig, measure_suspicion
from mmcsal_core.storage import Store
from pipelines.neighbors import INDEX_IDS, STAGE, NeighborWorker, find_neighbors, name_index, publish_indexes
from pipelines.stage_run import Resources, StageProgress, StageRun
from tests.pipelines.pair_artifacts import (
    PairArtifacts,
    publish,
    publish_out_of_fold,
    to_vectors,
    write_pair_artifacts,
)

CONFIG = NeighborConfig(num_neighbors=5, backbone_dims=8)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> PairArtifacts:
    return write_pair_artifacts(Store(str(tmp_path_factory.mktemp("run"))), 600)


def publish_without_ray(made: PairArtifacts, folder: Path, rows_per_shard: int) -> Artifact:
    run = Store(str(folder))
    indexes, out = Artifact(run, "indexes", STAGE), Artifact(run, "neighbors", STAGE)
    publish_indexes(made.embeddings, made.features, indexes, CONFIG, StageRun(out, "f"))
    plan = out.begin("f", lambda: plan_ranges(600, rows_per_shard))
    worker = NeighborWorker(
        embeddings=made.embeddings, indexes=indexes, out=out, plan=plan, num_neighbors=5, num_threads=1
    )
    for shard in plan.shards:
        worker.run_shard(shard)
    files = [publish_suspicion(out, plan, pa.chunked_array([made.ids]), made.encoder)]
    out.finish(plan, files=files)
    return out


def test_edges_do_not_depend_on_the_number_of_shards(made: PairArtifacts, tmp_path: Path) -> None:
    one = publish_without_ray(made, tmp_path / "one", 600)
    three = publish_without_ray(made, tmp_path / "three", 256)
    assert [len(out.read_manifest().shards) for out in (one, three)] == [1, 3]
    assert one.read_table().equals(three.read_table())


def test_suspicion_is_that_of_the_whole_pool_whatever_the_number_of_shards(made: PairArtifacts, tmp_path: Path) -> None:
    stores = [publish_without_ray(made, tmp_path / name, rows).store for name, rows in (("one", 600), ("three", 256))]
    table, other = (store.read_table(SUSPICION_FILE) for store in stores)
    assert table.equals(other)
    assert table.schema.equals(suspicion_schema(), check_metadata=True)
    assert table[PAIR_ID].to_pylist() == made.ids
    np.testing.assert_array_equal(table["out_of_fold_alignment"].to_numpy(), made.unseen)
    search = SelectionConfig(search=CONFIG)
    z, x = made.pool.embeddings, made.pool.features
    expected = measure_suspicion(z, features=x, out_of_fold_alignment=made.unseen, config=search)
    np.testing.assert_array_equal(table["suspicion"].to_numpy(), expected)
    reduced = [reduce_features(features, 8) for features in x.values()]
    consistency = measure_consistency([find_rows(space, space, CONFIG) for space in reduced])
    np.testing.assert_allclose(table["consistency"].to_numpy(), consistency, atol=1e-6)


def test_without_out_of_fold_cosines_those_of_the_encoder_stand_in(made: PairArtifacts, tmp_path: Path) -> None:
    encoder = Artifact(Store(str(tmp_path)), "encoder", "train")
    encoder.finish(encoder.begin("f", list))
    out = publish_without_ray(replace(made, encoder=encoder), tmp_path / "run", 600)
    table = read_suspicion(out, pa.chunked_array([made.ids[::-1]]))
    assert table["out_of_fold_alignment"].null_count == 600
    z, search = made.pool.embeddings, SelectionConfig(search=CONFIG)
    expected = measure_suspicion(z, features=made.pool.features, config=search)
    np.testing.assert_array_equal(table["suspicion"].to_numpy(), expected[::-1])


def test_an_encoder_that_was_kept_speaks_out_of_fold_for_pairs_that_it_has_not_seen(
    made: PairArtifacts, tmp_path: Path
) -> None:
    kept = Artifact(Store(str(tmp_path)), "encoder", "train")
    publish_out_of_fold(kept, made.ids[100:], made.unseen[100:], {"grown_from": {"run_id": "one", "num_pairs": 500}})
    out = publish_without_ray(replace(made, encoder=kept), tmp_path / "run", 600)
    table = read_suspicion(out, pa.chunked_array([made.ids]))
    unseen = np.concatenate([measure_alignment(made.pool.embeddings)[:100], made.unseen[100:]]).astype(np.float32)
    np.testing.assert_allclose(table["out_of_fold_alignment"].to_numpy(), unseen, atol=1e-6)
    alone = 2 * unseen - measure_alignment(made.pool.embeddings)  # of which the mean with the alignment is `unseen`
    search = SelectionConfig(search=CONFIG)
    expected = measure_suspicion(
        made.pool.embeddings, features=made.pool.features, out_of_fold_alignment=alone, config=search
    )
    np.testing.assert_allclose(table["suspicion"].to_numpy(), expected, atol=0.01)


def test_suspicion_survives_a_kill_before_the_manifest_and_names_a_pair_that_is_missing(
    made: PairArtifacts, tmp_path: Path
) -> None:
    out, ids = publish_without_ray(made, tmp_path / "run", 600), pa.chunked_array([made.ids])
    plan = out.begin("f", list)
    again = publish_suspicion(out, plan, ids, made.encoder)
    assert [again] == list(out.read_manifest().files)
    lacking = Artifact(Store(str(tmp_path)), "encoder", "train")
    publish_out_of_fold(lacking, made.ids[1:], made.unseen[1:])
    with pytest.raises(ArtifactError, match="'pair-00000'; run the stage 'train' again"):
        publish_without_ray(replace(made, encoder=lacking), tmp_path / "other", 600)
    with pytest.raises(ArtifactError, match="has 600 pairs, not 599; run the stage 'neighbors' again"):
        read_suspicion(out, ids[1:])


def add_audio(made: PairArtifacts, folder: Path) -> PairArtifacts:
    """Publish the same pairs with a third modality near the first."""
    rng, run = np.random.default_rng(3), Store(str(folder))
    raw = made.pool.embeddings["image"] + 0.2 * rng.normal(size=made.pool.embeddings["image"].shape)
    z = (raw / np.linalg.norm(raw, axis=1, keepdims=True)).astype(np.float32)
    x = (raw @ rng.normal(size=(raw.shape[1], 12))).astype(np.float32)
    artifacts = Artifact(run, "embeddings", "embed"), Artifact(run, "features", "features")
    sources, columns = (made.embeddings, made.features), (embedding_column("audio"), feature_column("audio"))
    for artifact, source, column, matrix in zip(artifacts, sources, columns, (z, x), strict=True):
        table = source.read_table()
        rows = [int(name[-5:]) for name in table[PAIR_ID].to_pylist()]
        publish(artifact, table.append_column(column, to_vectors(matrix[rows])))
    pool = replace(
        made.pool, embeddings={**made.pool.embeddings, "audio": z}, features={**made.pool.features, "audio": x}
    )
    return replace(made, run=run, embeddings=artifacts[0], features=artifacts[1], pool=pool)


@pytest.mark.parametrize("names", [("image", "text"), ("image", "text", "audio")])
def test_edges_are_the_nearest_neighbours_of_every_relation(
    made: PairArtifacts, tmp_path: Path, names: tuple[str, ...]
) -> None:
    pairs = add_audio(made, tmp_path / "three") if "audio" in names else made
    out = publish_without_ray(pairs, tmp_path, 600)
    edges = out.read_table()
    assert edges.schema.equals(neighbor_schema(), check_metadata=True)
    frame = edges.to_pandas()
    assert set(frame["relation"]) == {
        *(f"{query}->{target}" for query in names for target in names),
        *(f"{name}.backbone->{name}.backbone" for name in names),
    }
    z = dict(pairs.pool.embeddings)
    z |= {backbone_space(name): reduce_features(x, 8) for name, x in pairs.pool.features.items()}
    for relation, group in frame.sort_values(["pair_id", "neighbor_rank"]).groupby("relation"):
        query, target = str(relation).split("->")
        found = np.array([made.ids.index(name) for name in group["neighbor_id"]]).reshape(600, 5)
        np.testing.assert_array_equal(found, find_rows(z[query], z[target], CONFIG))
        cosines = np.einsum("nd,nkd->nk", z[query], z[target][found])
        np.testing.assert_allclose(group["similarity"].to_numpy().reshape(600, 5), cosines, atol=1e-6)
    suspicion = measure_suspicion(
        pairs.pool.embeddings,
        features=pairs.pool.features,
        out_of_fold_alignment=made.unseen,
        config=SelectionConfig(search=CONFIG),
    )
    np.testing.assert_array_equal(out.store.read_table(SUSPICION_FILE)["suspicion"].to_numpy(), suspicion)


def test_the_stage_publishes_indexes_and_edges_and_resumes(
    made: PairArtifacts, ray_session: None, tmp_path: Path
) -> None:
    run = Store(str(tmp_path))
    indexes, out = Artifact(run, "indexes", STAGE), Artifact(run, "neighbors", STAGE)
    told: list[StageProgress] = []
    resources = Resources(rows_per_shard=256, num_actors=2, cpus_per_actor=0.5, max_driver_pairs=0)
    stage_run = StageRun(out, "f", resources, on_progress=told.append)
    publish_indexes(made.embeddings, made.features, indexes, CONFIG, stage_run)
    plan = out.begin("f", lambda: plan_ranges(600, 256))
    worker = NeighborWorker(
        embeddings=made.embeddings, indexes=indexes, out=out, plan=plan, num_neighbors=5, num_threads=1
    )
    worker.run_shard(ShardRange(index=1, start=256, stop=512))

    manifest = find_neighbors(
        embeddings=made.embeddings,
        features=made.features,
        encoder=made.encoder,
        indexes=indexes,
        config=CONFIG,
        run=stage_run,
    )

    assert told[-1] == StageProgress(STAGE, 2, 2)
    assert (manifest.pairs_in, manifest.pairs_out) == (600, 600)
    assert sum(record.num_rows for record in manifest.shards) == 600 * 6 * 5
    assert out.read_table().equals(publish_without_ray(made, tmp_path / "bare", 600).read_table())
    check_indexes(indexes, made, manifest)
    assert [record.name for record in manifest.files] == [SUSPICION_FILE]
    bare = read_suspicion(Artifact(Store(str(tmp_path / "bare")), "neighbors", STAGE), pa.chunked_array([made.ids]))
    assert out.store.read_table(SUSPICION_FILE).equals(bare)
    assert not out.store.child(WITNESSES).list_files()


def check_indexes(indexes: Artifact, made: PairArtifacts, manifest: Manifest) -> None:
    published = indexes.read_manifest()
    assert published.fingerprint == manifest.fingerprint
    assert [record.name for record in published.files] == [
        *(INDEX_IDS, "image.faiss", "text.faiss", "image.backbone.faiss", "image.backbone.parquet"),
        *("text.backbone.faiss", "text.backbone.parquet"),
    ]
    spaces = read_backbone_spaces(indexes)
    np.testing.assert_array_equal(spaces["text"], reduce_features(made.pool.features["text"], 8))
    assert published.pairs_in == published.pairs_out == 600
    assert indexes.store.read_table(INDEX_IDS)[PAIR_ID].to_pylist() == made.ids
    index = decode_index(indexes.store.read_bytes(name_index("text")))
    np.testing.assert_array_equal(index.reconstruct_n(0, 600), made.pool.embeddings["text"])


def test_without_dimensions_the_backbones_spaces_are_left_out(made: PairArtifacts, tmp_path: Path) -> None:
    indexes = Artifact(Store(str(tmp_path)), "indexes", STAGE)
    config = NeighborConfig(backbone_dims=0)
    publish_indexes(made.embeddings, made.features, indexes, config, StageRun(indexes, "f"))
    assert [record.name for record in indexes.read_manifest().files] == [INDEX_IDS, "image.faiss", "text.faiss"]
    assert read_backbone_spaces(indexes) == {}


def test_a_pair_without_features_is_named(made: PairArtifacts, tmp_path: Path) -> None:
    lacking, indexes = (
        Artifact(Store(str(tmp_path)), "features", "features"),
        Artifact(Store(str(tmp_path)), "i", STAGE),
    )
    table = made.features.read_table()
    publish(lacking, table.filter(pc.not_equal(table[PAIR_ID], "pair-00123")))
    with pytest.raises(ArtifactError, match="'pair-00123'; run the stage 'features' again"):
        publish_indexes(made.embeddings, lacking, indexes, CONFIG, StageRun(indexes, "f"))
