"""The fitted encoder: features of pairs in, unit vectors of the shared space and prototype numbers out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from mmcsal_core.artifacts import CHUNK_ROWS
from mmcsal_core.backbones.last_block import LastBlock
from mmcsal_core.encoder.config import EncoderConfig
from mmcsal_core.encoder.prototypes import assign_nearest
from mmcsal_core.encoder.towers import Tower, Towers
from mmcsal_core.errors import ConfigError, DataError

Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Encoder:
    """Towers and prototypes of every modality, as fitted.

    Args:
        towers: one a modality, in the order of the configuration.
        prototypes: unit vectors of the base granularity, (k, dim) a modality.
        config: what it was fitted under.
        seed: what it was fitted with.
    """

    towers: Towers
    prototypes: Mapping[str, Vectors]
    config: EncoderConfig
    seed: int

    @property
    def modalities(self) -> tuple[str, ...]:
        """The names of the modalities, in the order of the configuration."""
        return tuple(self.towers)

    @property
    def feature_dims(self) -> dict[str, int]:
        """The length of each modality's feature vector."""
        return {name: tower.mean.numel() for name, tower in self.towers.items()}

    @property
    def blocks(self) -> dict[str, LastBlock]:
        """The last blocks that were trained, by modality; `embed` takes hidden rows of these."""
        return {name: tower.block for name, tower in self.towers.items() if tower.block is not None}

    def move_to(self, device: str) -> None:
        """Compute on `device` from now on, e.g. `cuda`."""
        for tower in self.towers.values():
            tower.to(device)

    def embed(
        self, features: Mapping[str, npt.NDArray[np.floating]], pair_ids: Sequence[str] | None = None
    ) -> dict[str, Vectors]:
        """Map features to unit vectors, in chunks of CHUNK_ROWS rows, so that equal chunks give equal bits.

        Args:
            features: one vector a pair and modality, (n, in_dim) each, rows in the same order; hidden rows of a
                modality in `blocks`.
            pair_ids: n names for error messages; by default rows are named by their number.

        Returns:
            Unit vectors per modality, (n, dim).

        Raises:
            ConfigError: a modality is missing, or its vectors have another length than in training.
            DataError: a row has no direction: its features are not finite, or its embedding is 0.
        """
        self._check_features(features)
        return {
            name: _embed_modality(name, tower, np.asarray(features[name]), pair_ids)
            for name, tower in self.towers.items()
        }

    def assign_prototypes(self, embeddings: Mapping[str, Vectors]) -> dict[str, npt.NDArray[np.int32]]:
        """Return the nearest prototype of each embedding, (n,) a modality, computed in chunks as `embed` is."""
        return {name: self._assign_modality(name, embeddings[name]) for name in self.towers}

    def _assign_modality(self, name: str, vectors: Vectors) -> npt.NDArray[np.int32]:
        chunks = [vectors[start : start + CHUNK_ROWS] for start in range(0, len(vectors), CHUNK_ROWS)]
        parts = [assign_nearest(chunk, self.prototypes[name]) for chunk in chunks]
        return np.concatenate([np.empty(0, np.int64), *parts]).astype(np.int32)

    def _check_features(self, features: Mapping[str, npt.NDArray[np.floating]]) -> None:
        for name, tower in self.towers.items():
            kind = "features" if tower.block is None else "hidden rows"
            shape = features[name].shape if name in features else None
            if shape is None or len(shape) != 2 or shape[1] != tower.input_dim:
                raise ConfigError(
                    f"the encoder takes {name} {kind} of shape (pairs, {tower.input_dim}), got {shape or 'none'}; "
                    "embed with the backbones that it was trained on, or train again"
                )


def _embed_modality(
    name: str, tower: Tower, features: npt.NDArray[np.floating], pair_ids: Sequence[str] | None
) -> Vectors:
    chunks = [features[start : start + CHUNK_ROWS] for start in range(0, len(features), CHUNK_ROWS)]
    parts = [embed_rows(tower, np.asarray(chunk, dtype=np.float32)) for chunk in chunks]
    vectors = np.concatenate([np.empty((0, tower.dim), np.float32), *parts])
    _check_unit(name, vectors, pair_ids)
    return vectors


def embed_rows(tower: Tower, features: Vectors) -> Vectors:
    """Map features (n, in_dim) to unit vectors (n, dim) in one batch, on the tower's device."""
    with torch.inference_mode():
        rows = torch.from_numpy(np.require(features, requirements=["C", "W"])).to(tower.mean.device)
        return np.asarray(tower(rows).cpu().numpy(), dtype=np.float32)


def _check_unit(name: str, vectors: Vectors, pair_ids: Sequence[str] | None) -> None:
    norms = np.linalg.norm(vectors, axis=1)
    wrong = np.flatnonzero(~(np.abs(norms - 1) < 1e-3))
    if wrong.size:
        row = int(wrong[0])
        pair = f"pair {pair_ids[row]!r}" if pair_ids is not None else f"the pair in row {row}"
        raise DataError(
            f"every embedding must be a unit vector, but {name} of {pair} has length {norms[row]:g} "
            f"({wrong.size} such of {len(vectors)} pairs); its features are not finite or extreme: "
            "remove the pair from the source or repair its content"
        )
