from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest

from mmcsal_core.artifacts import Artifact, Manifest, ShardRange, plan_ranges
from mmcsal_core.errors import ArtifactError
from mmcsal_core.neighbors import NeighborConfig
from mmcsal_core.neighbors.backbone_space import reduce_features
from mmcsal_core.neighbors.index import decode_index, find_rows
from mmcsal_core.neighbors.stored_spaces import read_backbone_spaces
from mmcsal_core.schema import PAIR_ID, backbone_space, neighbor_schema
from mmcsal_core.storage import Store
from pipelines.neighbors import INDEX_IDS, STAGE, NeighborWorker, find_neighbors, name_index, publish_indexes
from pipelines.stage_run import Resources, StageProgress, StageRun
from tests.pipelines.pair_artifacts import PairArtifacts, publish, write_pair_artifacts

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
    out.finish(plan)
    return out


def test_edges_do_not_depend_on_the_number_of_shards(made: PairArtifacts, tmp_path: Path) -> None:
    one = publish_without_ray(made, tmp_path / "one", 600)
    three = publish_without_ray(made, tmp_path / "three", 256)
    assert [len(out.read_manifest().shards) for out in (one, three)] == [1, 3]
    assert one.read_table().equals(three.read_table())


def test_edges_are_the_nearest_neighbours_of_every_relation(made: PairArtifacts, tmp_path: Path) -> None:
    edges = publish_without_ray(made, tmp_path, 600).read_table()
    assert edges.schema.equals(neighbor_schema(), check_metadata=True)
    frame = edges.to_pandas()
    assert set(frame["relation"]) == {
        *("image->image", "text->text", "image->text", "text->image"),
        *("image.backbone->image.backbone", "text.backbone->text.backbone"),
    }
    z = dict(made.pool.embeddings)
    z |= {backbone_space(name): reduce_features(x, 8) for name, x in made.pool.features.items()}
    for relation, group in frame.sort_values(["pair_id", "neighbor_rank"]).groupby("relation"):
        query, target = str(relation).split("->")
        found = np.array([made.ids.index(name) for name in group["neighbor_id"]]).reshape(600, 5)
        np.testing.assert_array_equal(found, find_rows(z[query], z[target], CONFIG))
        cosines = np.einsum("nd,nkd->nk", z[query], z[target][found])
        np.testing.assert_allclose(group["similarity"].to_numpy().reshape(600, 5), cosines, atol=1e-6)


def test_the_stage_publishes_indexes_and_edges_and_resumes(
    made: PairArtifacts, ray_session: None, tmp_path: Path
) -> None:
    run = Store(str(tmp_path))
    indexes, out = Artifact(run, "indexes", STAGE), Artifact(run, "neighbors", STAGE)
    told: list[StageProgress] = []
    stage_run = StageRun(
        out, "f", Resources(rows_per_shard=256, num_actors=2, cpus_per_actor=0.5), on_progress=told.append
    )
    publish_indexes(made.embeddings, made.features, indexes, CONFIG, stage_run)
    plan = out.begin("f", lambda: plan_ranges(600, 256))
    worker = NeighborWorker(
        embeddings=made.embeddings, indexes=indexes, out=out, plan=plan, num_neighbors=5, num_threads=1
    )
    worker.run_shard(ShardRange(index=1, start=256, stop=512))

    manifest = find_neighbors(
        embeddings=made.embeddings, features=made.features, indexes=indexes, config=CONFIG, run=stage_run
    )

    assert told[-1] == StageProgress(STAGE, 2, 2)
    assert (manifest.pairs_in, manifest.pairs_out) == (600, 600)
    assert sum(record.num_rows for record in manifest.shards) == 600 * 6 * 5
    assert out.read_table().equals(publish_without_ray(made, tmp_path / "bare", 600).read_table())
    check_indexes(indexes, made, manifest)


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
