"""The workers that share one training: which rows of a batch are mine, and the three exchanges between us.

Plain torch.distributed, so that the same code runs alone, under Ray Train, or under torchrun. Wrapping the towers in
DistributedDataParallel was not chosen: the gather of the negatives already synchronises every step, and one explicit
sum of the gradients keeps a run of one worker free of any wrapper.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Workers:
    """This worker's place among `size` workers; alone by default."""

    rank: int = 0
    size: int = 1

    @classmethod
    def current(cls) -> "Workers":
        """Read the place from torch.distributed, where it is initialised."""
        if dist.is_available() and dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size())
        return cls()

    def slice_of(self, num_rows: int) -> slice:
        """Return this worker's rows out of `num_rows`: contiguous, in rank order, sizes equal up to one."""
        start, stop = (rank * num_rows // self.size for rank in (self.rank, self.rank + 1))
        return slice(start, stop)

    def gather_rows(self, rows: Tensor, num_rows: int) -> Tensor:
        """Concatenate every worker's slice of a batch, (n_rank, d) to (num_rows, d); gradients flow to all owners."""
        if self.size == 1:
            return rows
        gathered: Tensor = _GatherRows.apply(rows, self, num_rows)  # type: ignore[no-untyped-call]
        return gathered

    def sum_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Replace each gradient by its sum over the workers."""
        if self.size == 1:
            return
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        dist.all_reduce(flat)
        for gradient, part in zip(gradients, torch.split(flat, [g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))

    def sum_value(self, value: Tensor) -> Tensor:
        """Return the sum of a tensor over the workers."""
        if self.size > 1:
            dist.all_reduce(value)
        return value

    def broadcast(self, value: Tensor) -> Tensor:
        """Return the first worker's tensor; every worker hands in one of that shape and type."""
        if self.size > 1:
            dist.broadcast(value, src=0)
        return value


class _GatherRows(torch.autograd.Function):
    """All-gather of slices of unequal length; the backward pass sums the gradients that the workers hold.

    The gather is a sum with zeros where the others' rows are: gloo has no all-gather of what lies on a GPU.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, workers: Workers, num_rows: int) -> Tensor:
        ctx.workers = workers
        whole = rows.new_zeros((num_rows, *rows.shape[1:]))
        whole[workers.slice_of(num_rows)] = rows
        return workers.sum_value(whole)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        total = ctx.workers.sum_value(gradients[0].clone())
        return total[ctx.workers.slice_of(len(total))], None, None
