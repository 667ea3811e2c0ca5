"""A cost budget: picks may not cost more together than there is."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmcsal_core.errors import ConfigError, DataError
from mmcsal_core.neighbors.vectors import Floats, Rows

ROUNDING = 1e-9
"""Share of the cost budget that sums of costs may pass it by, so that ten times 0.1 is 1."""


def read_costs(column: str, values: pa.ChunkedArray, ids: pa.ChunkedArray) -> Floats:
    """Return the cost of every row.

    Args:
        column: name of the metadata column.
        values: (N,) its values.
        ids: (N,) pair ids, for the message.

    Raises:
        ConfigError: the column holds no numbers.
        DataError: a cost is missing, not finite, or not above 0.
    """
    kind = values.type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)):
        raise ConfigError(f"cost_column must hold numbers, {column!r} holds {kind}; choose another column")
    costs: Floats = pc.cast(values, pa.float64(), safe=False).to_numpy().astype(np.float64)
    wrong = np.flatnonzero(~(np.isfinite(costs) & (costs > 0)))
    if len(wrong):
        row = int(wrong[0])
        raise DataError(
            f"a cost is a number above 0, but {column} of pair {ids[row].as_py()!r} is {values[row].as_py()} "
            f"({len(wrong)} such pairs); correct it, or leave such pairs out with where"
        )
    return costs


class CostBudget:
    """The rule that closes for good what costs more than is left.

    Args:
        costs: (N,) above 0.
        budget: what there is to spend.
    """

    def __init__(self, costs: Floats, budget: float) -> None:
        self._costs = costs
        self._left = budget * (1 + ROUNDING)
        self._falling = np.argsort(-costs, kind="stable").astype(np.int64)
        self._rising = costs[self._falling[::-1]]
        self._num_closed = 0

    def close_at_start(self) -> Rows:
        """Return the rows that cost more than the whole budget."""
        return self._close()

    def close_after(self, row: int) -> Rows:
        """Pay for a pick; return the rows that cost more than is left."""
        self._left -= float(self._costs[row])
        return self._close()

    def _close(self) -> Rows:
        start = self._num_closed
        num_affordable = int(np.searchsorted(self._rising, self._left, side="right"))
        self._num_closed = max(start, len(self._rising) - num_affordable)
        return self._falling[start : self._num_closed]
