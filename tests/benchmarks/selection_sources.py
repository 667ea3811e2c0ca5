"""Makes the pools of the selection benchmark as .npy files, the same bytes whenever they are made.

What only real pools need (the demo, the backbones, scikit-learn's data) is imported where they are made: it takes
longer than making the others.
"""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from mmcsal_core.corpus.decode import decode_content
from mmcsal_core.corpus.modality import ModalityConfig, resolve_modality
from mmcsal_core.neighbors.backbone_space import reduce_features
from mmcsal_core.neighbors.relations import Relation, measure_bandwidth
from mmcsal_core.neighbors.vectors import Floats, Vectors, iter_blocks
from mmcsal_core.selection.baseline_config import BaselineConfig
from tests.benchmarks.selection_pools import SEED, PoolFacts, PoolSpec

NUM_CLUSTERS = 500
CLUSTER_NOISE = 0.7
COPY_NOISE = 0.5
BLOCK_ROWS = 50_000
EMBED_ROWS = 64


def prepare_pool(spec: PoolSpec, folder: Path) -> PoolFacts:
    """Return a pool's facts; make the pool unless it is there."""
    facts_path = folder / f"{spec.stem}.json"
    if not facts_path.exists():
        path = folder / f"{spec.stem}.npy"
        write_vectors(spec, path, folder)
        facts = measure_facts(path)
        facts_path.write_text(json.dumps(asdict(facts)))
    return PoolFacts(**json.loads(facts_path.read_text()))


def write_vectors(spec: PoolSpec, path: Path, folder: Path) -> None:
    """Write a pool's unit vectors block by block."""
    out = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(spec.num_pairs, spec.dim))
    rng = np.random.default_rng(SEED)
    source = _open_source(spec, folder, rng)
    for block in iter_blocks(spec.num_pairs, BLOCK_ROWS):
        out[block] = source.draw(block)
    out.flush()


def measure_facts(path: Path) -> PoolFacts:
    """Find the start row and the bandwidth of stored vectors."""
    vectors = np.load(path)
    start = int((vectors @ vectors.mean(axis=0)).argmax())
    joint = Relation("joint", vectors, vectors, 1.0)
    return PoolFacts(str(path), start, measure_bandwidth(joint, BaselineConfig().coverage_neighbor, SEED))


class ClusterSource:
    """Draws rows around random centers.

    Args:
        shares: (C,) of the clusters; empty for rows that are uniform on the sphere.
        dim: D.
        rng: of everything drawn.
    """

    def __init__(self, shares: Floats, dim: int, rng: np.random.Generator) -> None:
        self._shares, self._dim, self._rng = shares, dim, rng
        self._centers = rng.normal(size=(len(shares), dim)).astype(np.float32)

    def draw(self, block: slice) -> Vectors:
        """Draw the next block of unit rows."""
        num_rows = block.stop - block.start
        rows = self._rng.standard_normal((num_rows, self._dim), dtype=np.float32)
        if len(self._shares):
            clusters = self._rng.choice(len(self._shares), num_rows, p=self._shares)
            rows = self._centers[clusters] + np.float32(CLUSTER_NOISE) * rows
        return _to_unit(rows)


class CopySource:
    """Repeats real pairs, all copies but the first with noise in each modality.

    Args:
        modalities: (n, D / 2) unit vectors of each.
        rng: of the noise.
    """

    def __init__(self, modalities: list[Vectors], rng: np.random.Generator) -> None:
        self._modalities, self._rng = modalities, rng

    def draw(self, block: slice) -> Vectors:
        """Return a block of unit rows."""
        rows = np.arange(block.start, block.stop)
        num_pairs, half = self._modalities[0].shape
        scale = np.where(rows < num_pairs, 0.0, COPY_NOISE * half**-0.5).astype(np.float32)[:, None]
        parts = [
            _to_unit(x[rows % num_pairs] + scale * self._rng.standard_normal((len(rows), half), dtype=np.float32))
            for x in self._modalities
        ]
        joint: Vectors = np.hstack(parts) * np.float32(len(parts) ** -0.5)
        return joint


def _open_source(spec: PoolSpec, folder: Path, rng: np.random.Generator) -> ClusterSource | CopySource:
    if spec.kind == "openmoji":
        return CopySource([reduce_features(x, spec.dim // 2) for x in embed_openmoji(folder)], rng)
    if spec.kind == "digits":
        from sklearn.datasets import load_digits

        images = load_digits().data.astype(np.float32)
        return CopySource([_to_unit(images[:, :32]), _to_unit(images[:, 32:])], rng)
    ranks = np.arange(1, NUM_CLUSTERS + 1)
    shares = {"clustered": np.ones(NUM_CLUSTERS), "power-law": 1 / ranks, "uniform": np.empty(0)}[spec.kind]
    return ClusterSource(shares / max(shares.sum(), 1.0), spec.dim, rng)


def embed_openmoji(folder: Path) -> list[Vectors]:
    """Return the backbone features (1903, dim) of the demo's drawings and names; computed once a folder."""
    cache = folder / "openmoji-features.npz"
    if not cache.exists():
        from jobs.demo import PICTURE_PX, build_corpus

        table = pq.read_table(build_corpus(folder), columns=["image", "text"])
        image = resolve_modality("image", ModalityConfig(column="image", image_size=PICTURE_PX))
        text = resolve_modality("text", ModalityConfig(column="text"))
        np.savez(
            cache,
            image=_embed(table["image"].to_pylist(), image),
            text=_embed(table["text"].to_pylist(), text),
        )
    with np.load(cache) as features:
        return [features["image"], features["text"]]


def _embed(contents: list[bytes] | list[str], modality: ModalityConfig) -> Vectors:
    from mmcsal_core.backbones.loading import load_backbone

    backbone = load_backbone(modality.resolved_backbone, modality)
    batches = []
    for block in iter_blocks(len(contents), EMBED_ROWS):
        decoded = [decode_content(content, modality) for content in contents[block]]
        texts = [content for content in decoded if isinstance(content, str)]
        batches.append(backbone.embed(texts or np.stack([np.asarray(content) for content in decoded])))
    return np.concatenate(batches)


def _to_unit(rows: Vectors) -> Vectors:
    unit: Vectors = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit
