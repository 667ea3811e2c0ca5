"""The towers: standardisation, a projection head and L2 normalisation, one tower a modality.

The backbones are frozen and lie outside; their vectors come in as features. Standardisation is part of the tower, so
that a stored encoder needs nothing but features as the backbone gave them. Where a backbone's last block is trained, it
is the first part of the tower, and what comes in are hidden rows.
"""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmcsal_core.artifacts import CHUNK_ROWS
from mmcsal_core.backbones.last_block import LastBlock
from mmcsal_core.encoder.config import EncoderConfig
from mmcsal_core.encoder.feature_rows import Features, Rows, RowSource, Vectors, iter_blocks, read_rows

MIN_RELATIVE_STD = 1e-6
"""A column whose spread is below this share of its largest magnitude counts as constant."""

MIN_TRAINED_STD = 0.1
"""Least deviation of a column that a trained block makes, as a share of the root mean square over the columns.

A unit that hardly ever fires has a deviation next to 0, and the first steps of its block would move it by thousands of
them: the embeddings would hang on the last bits of what came in.
"""


def measure_standardisation(source: RowSource, rows: Rows, min_std: float = 0.0) -> tuple[Vectors, Vectors]:
    """Return the mean and the standard deviation of each column over `rows`, (d,) each; a constant one gets 1.

    Args:
        source: (n, d), read block by block, twice.
        rows: the rows that count, at least one.
        min_std: least deviation, as a share of the root mean square over the columns that vary; where there is one, a
            constant column gets that root mean square.
    """
    mean, largest = np.zeros(source.shape[1]), np.zeros(source.shape[1])
    for block in iter_blocks(rows):
        vectors = read_rows(source, block)
        mean += vectors.sum(axis=0, dtype=np.float64) / len(rows)
        np.maximum(largest, np.abs(vectors).max(axis=0), out=largest)
    variance = sum(np.square(read_rows(source, block) - mean).sum(axis=0) for block in iter_blocks(rows)) / len(rows)
    std = np.sqrt(variance)
    is_constant = std <= MIN_RELATIVE_STD * largest
    typical = np.sqrt(variance[~is_constant].mean()) if not is_constant.all() else 1.0
    std[is_constant] = typical if min_std else 1.0
    np.maximum(std, min_std * typical, out=std)
    return mean.astype(np.float32), np.maximum(std, np.finfo(np.float32).tiny).astype(np.float32)


@dataclass(frozen=True, eq=False)
class BlockOutputs:
    """The vectors (n, dim) that a last block makes of hidden rows (n, hidden_dim), by row and chunk by chunk."""

    hidden: RowSource
    block: LastBlock

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of rows, length of each."""
        return (self.hidden.shape[0], self.block.dim)

    def __getitem__(self, rows: Rows, /) -> npt.NDArray[Any]:
        """Return the vectors of these rows, in this order."""
        device = next(self.block.parameters()).device
        with torch.inference_mode():
            parts = [
                self.block(torch.from_numpy(read_rows(self.hidden, chunk)).to(device)).cpu().numpy()
                for chunk in iter_blocks(rows, CHUNK_ROWS)
            ]
        return np.concatenate([np.empty((0, self.block.dim), np.float32), *parts])


class Tower(nn.Module):
    """Maps one modality's features (n, in_dim) to unit vectors (n, dim); hidden rows where a last block is trained.

    Args:
        in_dim: length of a feature vector.
        config: of the head.
        block: makes feature vectors of hidden rows, and is trained with the head.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, in_dim: int, config: EncoderConfig, block: LastBlock | None = None) -> None:
        super().__init__()
        self.dim, self.block = config.dim, block
        self.register_buffer("mean", torch.zeros(in_dim))
        self.register_buffer("std", torch.ones(in_dim))
        widths = [in_dim, *[config.hidden_width] * (config.num_layers - 1), config.dim]
        self.layers = nn.ModuleList(nn.Linear(i, o) for i, o in pairwise(widths))

    def initialise(self, generator: torch.Generator) -> None:
        """Draw the weights from `generator`; biases start at 0."""
        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight, generator=generator)
                nn.init.zeros_(layer.bias)

    @property
    def input_dim(self) -> int:
        """Length of what comes in: of a feature vector, or of a hidden row."""
        return self.mean.numel() if self.block is None else self.block.hidden_dim

    def standardise(self, features: Tensor) -> Tensor:
        """Bring what comes in, as features (n, in_dim), to mean 0 and deviation 1 over the training rows.

        The statistics are those of the block before it was trained.
        """
        vectors = features if self.block is None else self.block(features)
        return (vectors - self.mean) / self.std

    def project(self, standardised: Tensor) -> Tensor:
        """Map standardised features (n, in_dim) to unit vectors (n, dim), of length 1 in any precision."""
        hidden = standardised
        for layer in self.layers[:-1]:
            hidden = F.gelu(layer(hidden))
        return F.normalize(self.layers[-1](hidden).float(), dim=1)

    def forward(self, features: Tensor) -> Tensor:
        """Map features (n, in_dim), or hidden rows, as the backbone gave them to unit vectors (n, dim)."""
        return self.project(self.standardise(features))


Towers = dict[str, Tower]
"""One tower a modality, in the order of the configuration."""


def build_towers(dims: Mapping[str, int], config: EncoderConfig, blocks: Mapping[str, LastBlock]) -> Towers:
    """Build one tower a modality, in the order of `dims`, with weights yet to be drawn or loaded.

    Args:
        dims: length of each modality's feature vector.
        config: of the heads.
        blocks: last blocks that are trained, by modality; each tower gets a copy.
    """
    return {name: Tower(dim, config, deepcopy(blocks.get(name))) for name, dim in dims.items()}


def initialise_towers(towers: Towers, features: Features, rows: Rows, seed: int, device: torch.device) -> None:
    """Draw the heads' weights, move the towers, and measure the standardisation.

    Args:
        towers: on the CPU.
        features: (n, in_dim) each; of a modality with a last block hidden rows, which are run through it.
        rows: of the features, which the standardisation is measured on.
        seed: of the weights.
        device: where the towers are left.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, tower in towers.items():
        tower.initialise(generator)
        tower.to(device)
        source, min_std = features[name], 0.0
        if tower.block is not None:
            source, min_std = BlockOutputs(source, tower.block), MIN_TRAINED_STD
        mean, std = measure_standardisation(source, rows, min_std)
        tower.mean.copy_(torch.from_numpy(mean))
        tower.std.copy_(torch.from_numpy(std))


def pack_towers(towers: Towers) -> dict[str, Tensor]:
    """Name every tensor of the towers `<modality>.<tensor>`, on the CPU."""
    return {
        f"{name}.{key}": value.detach().cpu().contiguous()
        for name, tower in towers.items()
        for key, value in tower.state_dict().items()
    }


def unpack_towers(towers: Towers, tensors: Mapping[str, Tensor]) -> None:
    """Set every tensor of the towers from what `pack_towers` returned."""
    for name, tower in towers.items():
        tower.load_state_dict({key: tensors[f"{name}.{key}"] for key in tower.state_dict()})
