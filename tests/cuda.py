"""What needs a CUDA device, and is skipped where there is none: no package brings one."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

_skip = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def needs_cuda(test: Callable[..., Any]) -> Callable[..., Any]:
    """Mark a test `gpu`."""
    marked: Callable[..., Any] = pytest.mark.gpu(_skip(test))
    return marked
