"""Where a worker computes: on a GPU where it may and there is one, else on the CPU; how exactly, on what threads."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from threadpoolctl import threadpool_limits

_log = logging.getLogger(__name__)


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
