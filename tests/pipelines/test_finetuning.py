"""Training a backbone's last block through the stages: what features/ keeps, and a run equal to the in-process door."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
import pytest
import torch

from mmcsal_core.artifacts import Artifact, plan_ranges
from mmcsal_core.backbones.backbone import Batch, Features
from mmcsal_core.backbones.last_block import Hidden, LastBlock
from mmcsal_core.backbones.loading import load_split_backbone
from mmcsal_core.corpus.decode_chunk import ChunkDecoder
from mmcsal_core.corpus.modality import ModalityConfig, resolve_modality
from mmcsal_core.encoder import EncoderConfig, fit_encoder
from mmcsal_core.encoder.checkpoint import CARD_FILE, WEIGHTS_FILE, save_encoder
from mmcsal_core.encoder.feature_rows import read_rows
from mmcsal_core.encoder.out_of_fold import measure_out_of_fold
from mmcsal_core.errors import ArtifactError, ConfigError
from mmcsal_core.schema import (
    OUT_OF_FOLD_ALIGNMENT,
    OUT_OF_FOLD_FILE,
    PAIR_ID,
    feature_schema,
    hidden_column,
)
from mmcsal_core.storage import Store
from mmcsal_core.vector_columns import stack_lists, stack_vectors
from pipelines import embed, features, train
from pipelines.feature_spool import check_pretrained, spool_features
from pipelines.features import STAGE, extract_features, load_embedder
from pipelines.features_config import FeaturesConfig
from pipelines.shard_decoder import decode_shard
from pipelines.shard_embedder import ShardEmbedder
from pipelines.stage_run import Resources, StageRun
from tests.pipelines.test_features import publish_pairs

NUM_PAIRS = 44
HIDDEN_DIM = 192 * 2 * 2
CONFIG = EncoderConfig(
    dim=8, hidden_width=16, epochs=2, batch_size=20, out_of_fold_epochs=1, out_of_fold_folds=2, warmup_fraction=0.0
)
IMAGE = ModalityConfig(column="image", image_size=64, finetune_last_block=True)
MODALITIES: Mapping[str, ModalityConfig] = {
    "image": resolve_modality("image", IMAGE),
    "text": resolve_modality("text", ModalityConfig(column="text")),
}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)


def embed_bare(pairs: Artifact, modalities: Mapping[str, ModalityConfig]) -> pa.Table:
    decoder = ChunkDecoder(modalities)
    shard = decode_shard(pairs, plan_ranges(NUM_PAIRS, 256)[0], decoder, STAGE)
    return load_embedder(decoder, FeaturesConfig(), Resources()).embed_shard(shard)[0]


@pytest.mark.usefixtures("ray_session")
def test_the_stages_give_the_bits_of_the_in_process_door(tmp_path: Path) -> None:
    pairs, run = publish_pairs(tmp_path, NUM_PAIRS), Store(str(tmp_path))
    out = {name: Artifact(run, name, name) for name in ("features", "encoder", "embeddings")}
    run_features, run_train = (
        StageRun(out[name], name, Resources(num_actors=2, cpus_per_actor=0.5, max_driver_pairs=0))
        for name in ("features", "encoder")
    )
    manifest = extract_features(
        pairs=pairs, modalities=MODALITIES, source_options={}, config=FeaturesConfig(), run=run_features
    )
    assert manifest.properties["hidden_dims"] == {"image": HIDDEN_DIM}
    assert manifest.properties["dims"] == {"image": 1280, "text": 256}
    train.train_encoder(
        features=out["features"],
        modalities=list(MODALITIES),
        seed=1,
        config=CONFIG,
        run=run_train,
        finetuned={"image": MODALITIES["image"]},
    )
    plan = out["embeddings"].begin("embeddings", lambda: embed.list_ranges(out["features"]))
    worker = embed.EmbedWorker(out["features"], out["encoder"], out["embeddings"], plan, Resources())
    worker.run_shard(plan.shards[0])

    table = out["features"].read_table()
    ordered = table.sort_by(PAIR_ID)
    rows: dict[str, Any] = {
        "image": stack_lists(ordered, "image_hidden"),
        "text": stack_vectors(ordered, "text_feature"),
    }
    blocks = {"image": load_split_backbone(MODALITIES["image"]).make_last_block()}
    encoder = fit_encoder(rows, config=CONFIG, seed=1, blocks=blocks)
    stored = {name: out["encoder"].store.read_bytes(name) for name in (WEIGHTS_FILE, CARD_FILE)}
    assert stored == save_encoder(encoder)
    scores = out["encoder"].store.read_table(OUT_OF_FOLD_FILE)[OUT_OF_FOLD_ALIGNMENT].to_numpy()
    assert scores.tobytes() == measure_out_of_fold(rows, CONFIG, 1, blocks).tobytes()
    out["embeddings"].finish(plan)
    assert out["embeddings"].read_table() == embed.embed_table(encoder, table)
    with pytest.raises(ConfigError, match=r"\['image'\] missing"):
        embed.embed_table(encoder, table.drop_columns(["image_hidden"]))


def test_features_keep_what_goes_into_the_block_and_their_vectors_stay(tmp_path: Path) -> None:
    pairs = publish_pairs(tmp_path, NUM_PAIRS)
    table = embed_bare(pairs, MODALITIES)
    frozen = resolve_modality("image", IMAGE.model_copy(update={"finetune_last_block": False}))
    plain = embed_bare(pairs, {**MODALITIES, "image": frozen})
    assert plain.schema == feature_schema({"image": 1280, "text": 256})
    assert table.schema == feature_schema({"image": 1280, "text": 256}, {"image": HIDDEN_DIM})
    assert table.drop_columns(["image_hidden"]) == plain
    assert table["image_hidden"].type.value_type == pa.float16()
    block = load_split_backbone(MODALITIES["image"]).make_last_block()
    with torch.inference_mode():
        vectors = block(torch.from_numpy(stack_vectors(table, "image_hidden"))).numpy()
    expected = stack_vectors(plain, "image_feature")
    losses = np.linalg.norm(vectors - expected, axis=1) / np.linalg.norm(expected, axis=1)
    assert losses.max() < 1e-2


class Huge:
    """A backbone of which half precision cannot hold what goes into the last block of the second pair of a batch."""

    dim, hidden_dim = 2, 3

    def embed(self, batch: Batch) -> Features:
        return np.ones((len(batch), self.dim), np.float32)

    def embed_hidden(self, batch: Batch) -> tuple[Hidden, Features]:
        hidden = np.full((len(batch), self.hidden_dim), 65504, np.float32)
        hidden[1] = 70000
        return hidden, self.embed(batch)

    def make_last_block(self) -> LastBlock:
        return LastBlock({"hidden_dim": self.hidden_dim}, self.dim)


def test_values_beyond_half_precision_reject_the_pair(tmp_path: Path) -> None:
    decoder = ChunkDecoder({"text": MODALITIES["text"].model_copy(update={"finetune_last_block": True})})
    embedder = ShardEmbedder(decoder, {"text": Huge()}, batch_size=32, stage=features.STAGE)
    shard = decode_shard(publish_pairs(tmp_path, 20), plan_ranges(20, 256)[0], decoder, STAGE)
    table, rejects = embedder.embed_shard(shard)
    assert rejects["source_row"].to_pylist() == [1]
    assert rejects["reason"].to_pylist() == ["bad_feature"]
    assert "finite in half precision" in rejects["message"][0].as_py()
    assert np.array_equal(stack_lists(table, "text_hidden"), np.full((19, 3), 65504, np.float16))


def publish_features(root: Path) -> Artifact:
    table = embed_bare(publish_pairs(root, NUM_PAIRS), MODALITIES)
    artifact = Artifact(Store(str(root)), "features", features.STAGE)
    plan = artifact.begin("f", lambda: plan_ranges(table.num_rows, 256))
    artifact.commit_shard(plan, plan.shards[0], table)
    artifact.finish(plan)
    return artifact


def test_hidden_rows_are_spooled_in_half_precision_and_belong_to_their_block(tmp_path: Path) -> None:
    published = publish_features(tmp_path)
    whole = stack_lists(published.read_table().sort_by(PAIR_ID), hidden_column("image"))
    spool = spool_features(published, ["image", "text"], ["image"])
    source = spool.features["image"].source
    assert isinstance(source, np.memmap)
    assert source.dtype == np.float16
    rows = np.arange(len(whole))
    assert read_rows(spool.features["image"], rows).tobytes() == whole.astype(np.float32).tobytes()
    assert spool.features["text"].shape == (len(whole), 256)
    block = load_split_backbone(MODALITIES["image"]).make_last_block()
    check_pretrained(published, "image", block)
    with torch.no_grad():
        next(block.parameters()).mul_(1.5)
    with pytest.raises(ArtifactError, match=r"made features/, but its vectors differ by \d+%.* name a revision"):
        check_pretrained(published, "image", block)
