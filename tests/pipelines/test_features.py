"""The features stage: rejects are named, nothing is lost, and the vectors do not depend on the shards."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from jobs.exit_codes import ExitCode, classify_error, find_cause
from mmcsal_core.artifacts import Artifact, plan_ranges
from mmcsal_core.backbones.backbone import Batch, Features
from mmcsal_core.corpus.decode_chunk import ChunkDecoder, find_vector_dim
from mmcsal_core.corpus.modality import ModalityConfig, resolve_modality
from mmcsal_core.errors import ConfigError, DataError, GateError
from mmcsal_core.schema import feature_schema, reject_schema
from mmcsal_core.storage import Store
from pipelines.features import STAGE, extract_features, load_embedder
from pipelines.features_config import FeaturesConfig
from pipelines.shard_decoder import DecodedShard, decode_shard
from pipelines.shard_embedder import ShardEmbedder
from pipelines.stage_run import Resources, StageProgress, StageRun
from tests.core.tiny_hub_models import build_vit

NUM_PAIRS = 300
TRUNCATED, BLANK, TWICE_WRONG = 3, 40, 150

MODALITIES: Mapping[str, ModalityConfig] = {
    "image": resolve_modality("image", ModalityConfig(column="image", image_size=64)),
    "text": resolve_modality("text", ModalityConfig(column="text")),
}


def encode_png(pixels: np.ndarray) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, "PNG")
    return sink.getvalue()


def publish_pairs(root: Path, num_pairs: int = NUM_PAIRS) -> Artifact:
    rng = np.random.default_rng(0)
    images = [encode_png(pixels) for pixels in rng.integers(0, 255, (num_pairs, 8, 8, 3), dtype=np.uint8)]
    texts = [f"picture {i} of {'apples' if i % 2 else 'trains'}" for i in range(num_pairs)]
    for row in (TRUNCATED, TWICE_WRONG):
        images[row : row + 1] = [image[: len(image) // 2] for image in images[row : row + 1]]
    for row in (BLANK, TWICE_WRONG):
        texts[row : row + 1] = [" \n" for _ in texts[row : row + 1]]
    table = pa.table(
        {
            "pair_id": [f"p{i:04d}" for i in range(num_pairs)],
            "source": ["pairs.parquet"] * num_pairs,
            "source_row": pa.array(range(num_pairs), pa.int64()),
            "image_uri": [f"pairs.parquet#column=image&row={i}" for i in range(num_pairs)],
            "image_bytes": pa.array(images, pa.large_binary()),
            "text": texts,
            "topic": ["fruit"] * num_pairs,
        }
    )
    pairs = Artifact(Store(str(root)), "pairs", "ingest")
    plan = pairs.begin("p", lambda: plan_ranges(num_pairs, 256))
    for shard in plan.shards:
        pairs.commit_shard(plan, shard, table.slice(shard.start, shard.stop - shard.start))
    pairs.finish(plan)
    return pairs


def embed_bare(pairs: Artifact, rows_per_shard: int, config: FeaturesConfig) -> tuple[pa.Table, pa.Table]:
    decoder = ChunkDecoder(MODALITIES)
    embedder = load_embedder(decoder, config, Resources())
    shards = plan_ranges(NUM_PAIRS, rows_per_shard)
    tables, rejects = zip(
        *(embedder.embed_shard(decode_shard(pairs, shard, decoder, STAGE)) for shard in shards), strict=True
    )
    return pa.concat_tables(tables).combine_chunks(), pa.concat_tables(rejects).combine_chunks()


@pytest.mark.parametrize("batch_size", [32, 256])
def test_features_are_byte_equal_for_one_and_two_shards(tmp_path: Path, batch_size: int) -> None:
    pairs, config = publish_pairs(tmp_path), FeaturesConfig(batch_size=batch_size)
    one, two = embed_bare(pairs, 512, config), embed_bare(pairs, 256, config)
    assert one[0].equals(two[0])
    assert one[1].equals(two[1])
    assert one[0].schema == feature_schema({"image": 1280, "text": 256})
    assert one[1].schema == reject_schema()


def test_a_pair_is_rejected_once_for_its_first_modality(tmp_path: Path) -> None:
    table, rejects = embed_bare(publish_pairs(tmp_path), 256, FeaturesConfig())
    named = {row["source_row"]: (row["pair_id"], row["modality"], row["reason"]) for row in rejects.to_pylist()}
    assert named == {
        TRUNCATED: ("p0003", "image", "unreadable_image"),
        BLANK: ("p0040", "text", "empty_text"),
        TWICE_WRONG: ("p0150", "image", "unreadable_image"),
    }
    assert set(rejects["stage"].to_pylist()) == {"features"}
    kept = [i for i in range(NUM_PAIRS) if i not in named]
    assert table["row"].to_pylist() == kept
    assert table["pair_id"].to_pylist() == [f"p{i:04d}" for i in kept]


class Poisoned:
    """A backbone whose third vector of a batch is not finite and whose fourth is zero."""

    dim = 4

    def embed(self, batch: Batch) -> Features:
        vectors = np.ones((len(batch), self.dim), dtype=np.float32)
        vectors[2:3] = np.nan
        vectors[3:4] = 0
        return vectors


def test_a_bad_feature_is_rejected_in_the_order_of_the_pairs(tmp_path: Path) -> None:
    decoder = ChunkDecoder({"text": MODALITIES["text"]})
    embedder = ShardEmbedder(decoder, {"text": Poisoned()}, batch_size=256, stage=STAGE)
    pairs = publish_pairs(tmp_path, 60)
    table, rejects = embedder.embed_shard(decode_shard(pairs, plan_ranges(60, 256)[0], decoder, STAGE))
    assert rejects["source_row"].to_pylist() == [2, 3, BLANK]
    assert rejects["reason"].to_pylist() == ["bad_feature", "bad_feature", "empty_text"]
    assert table.num_rows + rejects.num_rows == 60


def test_a_shard_without_a_good_pair_is_empty_and_has_the_schema() -> None:
    pairs = pa.table({"row": [0], "pair_id": ["a"], "source": ["s"], "source_row": [0], "text": [" "]})
    decoder = ChunkDecoder({"text": MODALITIES["text"]})
    chunk, rejects = decoder.decode_chunk(pairs, "features")
    table, _ = load_embedder(decoder, FeaturesConfig(), Resources()).embed_shard(DecodedShard([chunk], rejects))
    assert table.num_rows == 0
    assert table.schema == feature_schema({"text": 256})


def make_vector_chunk(vectors: list[list[float]]) -> pa.Table:
    stored = [np.array(vector, dtype="<f4").tobytes() for vector in vectors]
    columns: dict[str, Any] = {"pair_id": [f"p{i}" for i in range(len(vectors))], "source": ["s"] * len(vectors)}
    columns |= {"row": range(len(vectors)), "source_row": range(len(vectors))}
    return pa.table({**columns, "vector_bytes": pa.array(stored, pa.large_binary())})


def test_every_vector_is_as_long_as_the_first_good_one() -> None:
    modality = resolve_modality("vector", ModalityConfig(column="v"))
    chunk = make_vector_chunk([[0, 0], [1, 2, 3], [1, 2], [4, 5, 6]])
    dim = find_vector_dim(iter([chunk]), "vector", modality, {})
    assert dim == 3
    decoder = ChunkDecoder({"vector": modality}, vector_dims={"vector": dim})
    decoded, rejects = decoder.decode_chunk(chunk, "features")
    assert np.array_equal(decoder.unpack("vector", decoded), [[1, 2, 3], [4, 5, 6]])
    assert rejects["reason"].to_pylist() == ["bad_vector", "bad_vector"]
    assert "3, got 2" in rejects["message"].to_pylist()[1]
    with pytest.raises(DataError, match="none of its 1 pairs has one"):
        find_vector_dim(iter([chunk.slice(0, 1)]), "vector", modality, {})


def test_a_corpus_without_pairs_stops(tmp_path: Path) -> None:
    run = StageRun(out=Artifact(Store(str(tmp_path)), "features", "features"), fingerprint="f")
    pairs = publish_pairs(tmp_path, 0)
    with pytest.raises(GateError, match="at least one pair"):
        extract_features(pairs=pairs, modalities=MODALITIES, source_options={}, config=FeaturesConfig(), run=run)


def test_batch_size_divides_a_chunk() -> None:
    with pytest.raises(ValidationError, match="divide 256"):
        FeaturesConfig(batch_size=48)


@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize(("num_actors", "num_readers"), [(1, 0), (1, 2), (2, 0), (2, 1)])
def test_extract_features_publishes_and_resumes(tmp_path: Path, num_actors: int, num_readers: int) -> None:
    torch.set_num_threads(1)
    pairs, seen, opened = publish_pairs(tmp_path), list[StageProgress](), list[str]()
    out = Artifact(Store(str(tmp_path)), "features", "features")
    resources = Resources(rows_per_shard=256, num_actors=num_actors, num_readers=num_readers, cpus_per_actor=0.5)
    run = StageRun(out, "f", resources, on_progress=seen.append, open_ray=lambda: opened.append("Ray"))
    inputs: dict[str, Any] = {"pairs": pairs, "modalities": MODALITIES, "source_options": {}}
    manifest = extract_features(**inputs, config=FeaturesConfig(), run=run)
    assert (manifest.pairs_in, manifest.pairs_out, manifest.pairs_rejected) == (NUM_PAIRS, NUM_PAIRS - 3, 3)
    assert manifest.rejects_by_reason == {"empty_text": 1, "unreadable_image": 2}
    assert manifest.properties["dims"] == {"image": 1280, "text": 256}
    assert manifest.properties["backbones"] == {"image": "efficientnet-lite0", "text": "wordllama"}
    assert [(step.done, step.total) for step in seen] == [(1, 2), (2, 2)]
    assert opened == ["Ray"] * (num_actors - 1)
    assert out.read_table().equals(embed_bare(pairs, 512, FeaturesConfig())[0])
    first = {name: out.store.read_bytes(name) for name in out.store.list_files() if name.startswith("data/")}

    for name in ("_SUCCESS", "_shards/part-00001-of-00002.json", "data/part-00001-of-00002.parquet"):
        out.store.remove(name)
    again = extract_features(**inputs, config=FeaturesConfig(), run=run)
    assert [(step.done, step.total) for step in seen[2:]] == [(1, 1)]
    assert again.shards == manifest.shards
    assert {name: out.store.read_bytes(name) for name in first} == first


@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("num_actors", [1, 2])
def test_a_model_that_cannot_be_loaded_is_named_wherever_it_is_loaded(tmp_path: Path, num_actors: int) -> None:
    build_vit(tmp_path / "vit")
    weights = tmp_path / "vit" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    image = ModalityConfig(column="image", backbone=f"hf:{tmp_path / 'vit'}")
    resources = Resources(rows_per_shard=256, num_actors=num_actors, num_readers=1, cpus_per_actor=0.5)
    run = StageRun(Artifact(Store(str(tmp_path)), "features", "features"), "f", resources)
    with pytest.raises(Exception, match="must load with transformers") as raised:
        extract_features(
            pairs=publish_pairs(tmp_path),
            modalities={"image": resolve_modality("image", image), "text": MODALITIES["text"]},
            source_options={},
            config=FeaturesConfig(),
            run=run,
        )
    cause = find_cause(raised.value)
    assert (type(cause), classify_error(cause)) == (ConfigError, ExitCode.USAGE)
    assert str(tmp_path / "vit") in str(cause)
