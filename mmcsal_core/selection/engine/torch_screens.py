"""Screens by torch: products of bytes on a CPU that has them, and products on a device.

Apart from `screening.py`, so that a shard that uses neither does not load torch. Torch computes on the thread that
asks: parallelism is over shards, and the CPU time of that thread is what screens are chosen by.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

import numpy as np
import numpy.typing as npt
import torch

from mmcsal_core.neighbors.vectors import Rows, Vectors, iter_blocks
from mmcsal_core.selection.engine.screening import Operands, Pairs, split_places

LOAD_ROWS = 4096
"""Rows copied to a device at once."""

ROUGH_ERROR = 2.0**-5
"""Error of a bfloat16 cosine: operands, sums and result are each rounded by 2^-8. TF32 has more bits."""

ZERO_BYTE = 64
"""Quantised rows lie in 64 +- 63: sums of two products of 7 and 8 bits fit the 16 bits that AVX2 adds them in."""

MARGIN = 1 + 1e-3
"""What measured lengths of rounding errors are enlarged by, for their own rounding."""


def multiplies_bytes() -> bool:
    """Say whether torch has products of bytes on this CPU."""
    return torch._C._has_mkldnn and hasattr(torch.ops.onednn, "qlinear_pointwise")


class ThreadLimit:
    """One thread for each of torch's products on the CPU, in the threads that ask for it.

    Torch keeps a number of threads for each thread that calls it and one that a new thread starts with, and sets both
    at once. So every thread goes back to the number from before the first limit.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._num_limited = self._num_threads = 0

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Limit the products of the calling thread in a `with` block."""
        with self._lock:
            own = torch.get_num_threads()  # a new thread takes its number here, or else in its first product
            if self._num_limited == 0:
                self._num_threads = own
            self._num_limited += 1
            torch.set_num_threads(1)
        try:
            yield
        finally:
            with self._lock:
                self._num_limited -= 1
                torch.set_num_threads(self._num_threads)


_THREAD_LIMIT = ThreadLimit()


class ByteScreen:
    """Products of bytes: `<x, p> <= <x', p'> + |x - x'| |p| + |x'| |p - p'|`.

    Args:
        operands: rows and picks.
    """

    def __init__(self, operands: Operands) -> None:
        self._operands = operands
        num_rows, dim = operands.vectors.shape
        self._bytes = np.empty((num_rows, dim), dtype=np.uint8)
        self._scales = np.zeros(num_rows, dtype=np.float32)
        self._errors = np.empty(num_rows, dtype=np.float32)
        self._packed: dict[tuple[int, int], tuple[torch.Tensor, torch.Tensor, float]] = {}

    @_THREAD_LIMIT.hold()
    def find_near(self, rows: Rows, picks: slice, needed: Vectors, rounding: float) -> Pairs:
        """Return the pairs whose bound is as large as needed, and not below what the row's best is at least."""
        self.prepare(rows)
        packed, pick_scales, pick_error = self._pack(picks)
        scales, errors = self._scales[rows], self._errors[rows]
        quantised = torch.from_numpy(self._bytes.take(rows, axis=0))
        zeros = torch.zeros(len(pick_scales), dtype=torch.int64)
        steps = torch.ops.onednn.qlinear_pointwise(
            quantised, 1.0, ZERO_BYTE, packed, pick_scales, zeros, None, 1.0, 0, torch.float32, "none", [], ""
        ).numpy()
        error = errors + (1 + errors) * np.float32(pick_error) + np.float32(rounding)
        least = np.maximum((needed - error) / scales, steps.max(axis=1) - 2 * error / scales)
        return split_places(np.flatnonzero(steps >= least[:, None]), steps.shape[1])

    def prepare(self, rows: Rows) -> None:
        """Quantise the rows that are not quantised yet, each by its own scale."""
        missing = rows[self._scales[rows] == 0]
        if len(missing):
            vectors = self._operands.take(missing)
            scales = np.abs(vectors).max(axis=1) / np.float32(ZERO_BYTE - 1)
            whole = np.rint(vectors / scales[:, None])
            lost = vectors - whole * scales[:, None]
            self._bytes[missing] = (whole + ZERO_BYTE).astype(np.uint8)
            self._scales[missing] = scales
            self._errors[missing] = np.sqrt(np.einsum("nd,nd->n", lost, lost)) * np.float32(MARGIN)

    def _pack(self, picks: slice) -> tuple[torch.Tensor, torch.Tensor, float]:
        """Quantise picks, each by its own scale; return them packed, the scales, and the largest length lost."""
        key = (picks.start, picks.stop)
        if key not in self._packed:
            vectors = torch.from_numpy(self._operands.picks[picks])
            scales = vectors.abs().amax(dim=1) / 127
            whole = torch.round(vectors / scales[:, None])
            lost = float((vectors - whole * scales[:, None]).norm(dim=1).max()) * MARGIN
            self._packed = {key: (torch.ops.onednn.qlinear_prepack(whole.to(torch.int8), None), scales, lost)}
        return self._packed[key]


class DeviceScreen:
    """Products on a device; distances are computed on the CPU as ever, so a device changes no result.

    Args:
        operands: rows and picks; all rows are copied to the device.
        device: e.g. `cuda`, `cpu`.
        is_rough: multiply in bfloat16, with a bound on its rounding.
    """

    def __init__(self, operands: Operands, device: str, *, is_rough: bool) -> None:
        self._operands, self._device = operands, torch.device(device)
        self._dtype = torch.bfloat16 if is_rough else torch.float32
        self._rows = torch.empty(operands.vectors.shape, dtype=self._dtype, device=self._device)
        for block in iter_blocks(len(operands.vectors), LOAD_ROWS):
            self._rows[block] = self._load(operands.vectors[block])
        self._picks = self._rows[:0]
        self._error = ROUGH_ERROR if is_rough or torch.get_float32_matmul_precision() != "highest" else 0.0

    def prepare(self, rows: Rows) -> None:
        """All rows are on the device already."""

    @_THREAD_LIMIT.hold()
    def find_near(self, rows: Rows, picks: slice, needed: Vectors, rounding: float) -> Pairs:
        """Return the pairs whose cosine may be the row's best and as large as needed."""
        new = self._operands.picks[len(self._picks) :]
        if len(new):
            self._picks = torch.cat([self._picks, self._load(new)])
        cosines = (self._rows[torch.from_numpy(rows).to(self._device)] @ self._picks[picks].T).float()
        enough = torch.from_numpy(needed).to(self._device) - self._error
        least = torch.maximum(enough, cosines.amax(dim=1) - (rounding + 2 * self._error))
        left, right = torch.nonzero(cosines >= least[:, None], as_tuple=True)
        return left.cpu().numpy(), right.cpu().numpy()

    def _load(self, vectors: npt.NDArray[np.floating]) -> torch.Tensor:
        return torch.from_numpy(np.array(vectors)).to(self._device).to(self._dtype)
