"""Embeds decoded shards with one backbone a modality: what an actor of the features stage does, testable without Ray.

In: chunks of pairs that decode. Out: rows of features/, and what is rejected. Sub-batches are cut from one chunk. Where
a backbone's last block is to be trained, what goes into it is kept in half precision, which halves the file and moves a
vector by less than a hundredth; a pair whose values half precision cannot hold is rejected.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mmcsal_core.backbones.backbone import Backbone, Batch, Features
from mmcsal_core.backbones.last_block import SplitBackbone
from mmcsal_core.corpus.decode_chunk import PROVENANCE, ChunkDecoder, Failure, describe_rejects
from mmcsal_core.corpus.reject import RejectPair
from mmcsal_core.schema import PAIR_ID, ROW, feature_column, feature_schema, hidden_column
from mmcsal_core.vector_columns import list_vectors
from pipelines.shard_decoder import DecodedShard

HalfRows: TypeAlias = npt.NDArray[np.float16]
"""What goes into a last block, (n, hidden_dim)."""


class ShardEmbedder:
    """Embeds decoded shards with one backbone a modality.

    Args:
        decoder: what decoded them.
        backbones: by modality, in the order of the configuration.
        batch_size: pairs that a backbone embeds at once.
        stage: that rejects pairs.
    """

    def __init__(self, decoder: ChunkDecoder, backbones: Mapping[str, Backbone], batch_size: int, stage: str) -> None:
        self._decoder, self._backbones, self._batch_size, self._stage = decoder, backbones, batch_size, stage
        self._split = {
            name: cast("SplitBackbone", backbone)
            for name, backbone in backbones.items()
            if decoder.modalities[name].finetune_last_block
        }
        dims = {name: backbone.dim for name, backbone in backbones.items()}
        self._schema = feature_schema(dims, {name: backbone.hidden_dim for name, backbone in self._split.items()})

    def embed_shard(self, shard: DecodedShard) -> tuple[pa.Table, pa.Table]:
        """Return the shard's features under `feature_schema` and all its rejects, both in the order of the pairs."""
        embedded = [self._embed_chunk(chunk) for chunk in shard.chunks]
        features = pa.concat_tables([self._schema.empty_table(), *(table for table, _ in embedded)])
        rejects = pa.concat_tables([shard.rejects, *(rejects for _, rejects in embedded)])
        return features, rejects.sort_by(ROW).drop_columns([ROW])

    def _embed_chunk(self, chunk: pa.RecordBatch) -> tuple[pa.Table, pa.Table]:
        hidden, features = self._embed_modalities(chunk)
        usable = {name: _find_usable(vectors, hidden.get(name)) for name, vectors in features.items()}
        kept = np.logical_and.reduce(list(usable.values()))
        pairs = pa.Table.from_batches([chunk]).select(PROVENANCE)
        columns = {ROW: pairs[ROW].filter(kept), PAIR_ID: pairs[PAIR_ID].filter(kept)}
        columns |= {feature_column(name): list_vectors(vectors[kept]) for name, vectors in features.items()}
        columns |= {hidden_column(name): list_vectors(rows[kept]) for name, rows in hidden.items()}
        failures = [self._describe_failure(usable, i) for i in np.flatnonzero(~kept).tolist()]
        return pa.table(columns, self._schema), describe_rejects(pairs.filter(~kept), failures, self._stage)

    def _embed_modalities(self, chunk: pa.RecordBatch) -> tuple[dict[str, HalfRows], dict[str, Features]]:
        """Return what goes into last blocks that are to be trained, and all vectors."""
        hidden, features = {}, {}
        for name, backbone in self._backbones.items():
            batches = self._cut_batches(name, chunk)
            if name in self._split:
                hidden[name], features[name] = _embed_hidden(self._split[name], batches)
            else:
                features[name] = _concatenate([backbone.embed(batch) for batch in batches], backbone.dim)
        return hidden, features

    def _cut_batches(self, name: str, chunk: pa.RecordBatch) -> list[Batch]:
        batch, size = self._decoder.unpack(name, chunk), self._batch_size
        return [batch[i : i + size] for i in range(0, len(batch), size)]

    def _describe_failure(self, usable: Mapping[str, npt.NDArray[np.bool_]], i: int) -> Failure:
        name = next(name for name, flags in usable.items() if not flags[i])
        backbone = self._decoder.modalities[name].resolved_backbone
        rule = "a feature must be finite and not all zero"
        if name in self._split:
            rule = f"what goes into a last block must be finite in half precision, and {rule}"
        return Failure(name, RejectPair("bad_feature", f"{rule}, {backbone!r} gave another; look at the content"))


def _embed_hidden(backbone: SplitBackbone, batches: Sequence[Batch]) -> tuple[HalfRows, Features]:
    """Return what goes into the last block (n, hidden_dim), infinite beyond half precision, and vectors (n, dim)."""
    parts = [backbone.embed_hidden(batch) for batch in batches]
    with np.errstate(over="ignore"):
        hidden = [rows.astype(np.float16) for rows, _ in parts]
    return _concatenate(hidden, backbone.hidden_dim, np.float16), _concatenate([x for _, x in parts], backbone.dim)


def _concatenate(parts: Sequence[npt.NDArray[Any]], dim: int, dtype: Any = np.float32) -> npt.NDArray[Any]:
    return np.concatenate([np.empty((0, dim), dtype), *parts])


def _find_usable(vectors: Features, hidden: HalfRows | None) -> npt.NDArray[np.bool_]:
    usable = np.isfinite(vectors).all(axis=1) & vectors.any(axis=1)
    if hidden is not None:
        usable &= np.isfinite(hidden).all(axis=1)
    return np.asarray(usable, dtype=np.bool_)
