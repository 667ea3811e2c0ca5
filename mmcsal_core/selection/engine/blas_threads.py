"""One BLAS thread a matrix product: parallelism is over shards.

BLAS threads of several shards get in each other's way: two on shared cores ran five times slower than one.
"""

from contextlib import AbstractContextManager
from functools import cache
from typing import Any

from threadpoolctl import ThreadpoolController


def use_one_blas_thread() -> AbstractContextManager[Any]:
    """Limit numpy's matrix products to one thread in a `with` block."""
    limit: AbstractContextManager[Any] = _find_libraries().limit(limits=1, user_api="blas")
    return limit


@cache
def _find_libraries() -> ThreadpoolController:
    """Look for the libraries once, which takes milliseconds."""
    return ThreadpoolController()
