"""Where a backbone is cut so that its last block can be trained: frozen trunk, hidden row, last block, feature vector.

The hidden row of a pair is what goes into the block, flat; it is published once, and the block is run on it again and
again. A block stays in evaluation: no dropout, no stochastic depth, and batch norms with the statistics that they came
with. Then a row's vector depends on that row alone, and is the same on every worker. Training the batch norms'
statistics was not chosen: they would depend on how a batch is cut into the workers' slices.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from mmcsal_core.backbones.backbone import Backbone, Batch, Features

Hidden = npt.NDArray[np.float32]
"""float32 (n, hidden_dim)."""


class LastBlock(nn.Module):
    """Maps flat hidden rows (n, hidden_dim) to feature vectors (n, dim), always in evaluation.

    Args:
        structure: JSON values from which `rebuilding.build_last_block` builds the same block, with other weights; holds
            the `backbone` and the `hidden_dim`.
        dim: length of a feature vector.
    """

    def __init__(self, structure: Mapping[str, Any], dim: int) -> None:
        super().__init__()
        self.structure, self.dim = dict(structure), dim

    @property
    def hidden_dim(self) -> int:
        """Length of a hidden row."""
        return int(self.structure["hidden_dim"])

    def train(self, mode: bool = True) -> "LastBlock":
        """Stay in evaluation."""
        return super().train(mode=False)


class SplitBackbone(Backbone, Protocol):
    """A frozen feature extractor that can be cut before its last block."""

    @property
    def hidden_dim(self) -> int:
        """Length of a hidden row."""
        ...

    def embed_hidden(self, batch: Batch) -> tuple[Hidden, Features]:
        """Return hidden rows (n, hidden_dim), and the very vectors (n, dim) that `embed` returns."""
        ...

    def make_last_block(self) -> LastBlock:
        """Return a copy of the last block: of the hidden rows it gives the vectors, but for rounding."""
        ...


@contextmanager
def capture_input(module: nn.Module) -> Iterator[list[Tensor]]:
    """Collect the first argument of every call of a module."""
    seen: list[Tensor] = []
    hook = module.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    try:
        yield seen
    finally:
        hook.remove()


def flatten_hidden(hidden: Tensor) -> Hidden:
    """Return hidden values (n, ...) as rows (n, hidden_dim) of numpy."""
    rows: Hidden = hidden.flatten(1).to("cpu", torch.float32).numpy()
    return rows
