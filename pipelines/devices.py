"""Where a worker computes: on a GPU where it may and there is one, else on the CPU; how exactly, on what threads."""

import ctypes
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from threadpoolctl import threadpool_limits

_log = logging.getLogger(__name__)

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # of glibc's malloc.h
_MAX_INT = 2**31 - 1
_HEAP_BYTES = 2**26
"""What glibc takes at a time for threads other than the first, and the most that it keeps for them in one piece."""


def choose_device(num_gpus: float) -> str:
    """Return `cuda`, or `cpu` where no GPU was reserved for this worker or, as its log then says, torch finds none.

    Args:
        num_gpus: reserved for this worker.
    """
    if num_gpus == 0:
        return "cpu"
    import torch  # noqa: PLC0415  slow to load

    if torch.cuda.is_available():
        return "cuda"
    _log.warning(
        "a worker with %g GPUs must find a CUDA device, torch %s finds none and computes on the CPU; install a build "
        "of torch for the node's driver, or set gpus_per_actor and selection_gpus to 0",
        num_gpus,
        torch.__version__,
    )
    return "cpu"


def find_multiplier(num_gpus: float) -> str | None:
    """Return the device on which k-center multiplies in this process, None for numpy; as `choose_device` else."""
    device = choose_device(num_gpus)
    return None if device == "cpu" else device


def settle_arithmetic() -> None:
    """Let convolutions on a GPU keep the bits of float32 (no TF32) and add in the same order each time.

    So a GPU's results stay within 1e-5 of the CPU's and are equal from run to run. Products of matrices do by default.
    """
    import torch  # noqa: PLC0415  slow to load

    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.deterministic = True


def keep_freed_memory() -> None:
    """Let this process keep the memory that it frees, so that its next allocations find it there.

    A backbone frees tens of megabytes a layer and asks for as many again. By default glibc gives them back to the
    kernel, which has to clear every page anew: up to two thirds of all time (docs/decisions/0023). Nothing changes
    where the C library is another one.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if set_option is not None:
        set_option(_M_MMAP_MAX, 0)
        set_option(_M_TRIM_THRESHOLD, _MAX_INT)
        set_option(_M_TOP_PAD, _HEAP_BYTES)


@contextmanager
def limit_threads(num_threads: int) -> Iterator[None]:
    """Compute on so many threads in this process while the block runs, as a worker of its own does."""
    torch = sys.modules.get("torch")  # what is not loaded is not used
    num_before = torch.get_num_threads() if torch else 0
    try:
        with threadpool_limits(num_threads):
            yield
    finally:
        if torch:
            torch.set_num_threads(num_before)
