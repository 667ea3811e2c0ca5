"""The rules of published features, checked on one shard after the other."""

import numpy as np
import pyarrow as pa

from mmcsal_core.schema import feature_column, hidden_column


class FeatureInspector:
    """Looks at one shard of features after the other, and keeps nothing of them."""

    def __init__(self) -> None:
        self._problems: list[str] = []

    def inspect(self, table: pa.Table) -> None:
        """Look at the next shard."""
        for field in table.schema:
            if field.name.endswith(feature_column("")):
                self._problems += _find_problems(field, table[field.name], pa.float32())
            if field.name.endswith(hidden_column("")):
                self._problems += _find_problems(field, table[field.name], pa.float16())

    def find_problems(self) -> list[str]:
        """Return what was wrong in the shards seen so far, each problem once."""
        return list(dict.fromkeys(self._problems))


def _find_problems(field: pa.Field, column: pa.ChunkedArray, precision: pa.DataType) -> list[str]:
    kind = field.type
    if not (pa.types.is_fixed_size_list(kind) and kind.value_type == precision):
        return [f"{field.name} is {kind}, not a fixed-size list of {precision}"]
    if not all(np.isfinite(chunk.flatten().to_numpy()).all() for chunk in column.chunks):
        return [f"{field.name} holds values that are not finite"]
    return []
