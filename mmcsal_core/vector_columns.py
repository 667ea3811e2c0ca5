"""Vectors between Arrow and numpy: a FixedSizeList column is a matrix, and a matrix is a FixedSizeList column."""

import numpy as np
import numpy.typing as npt
import pyarrow as pa


def stack_vectors(table: pa.Table, column: str) -> npt.NDArray[np.float32]:
    """Return a FixedSizeList column as a matrix (rows, dim) float32."""
    return np.ascontiguousarray(stack_lists(table, column), dtype=np.float32)


def stack_lists(table: pa.Table, column: str) -> npt.NDArray[np.floating]:
    """Return a FixedSizeList column as a matrix (rows, dim) in its own precision."""
    size = table.schema.field(column).type.list_size
    values = table[column].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return np.asarray(values.reshape(-1, size))


def list_vectors(matrix: npt.NDArray[np.floating]) -> pa.FixedSizeListArray:
    """Return a matrix (rows, dim) as a FixedSizeList column of its own precision."""
    return pa.FixedSizeListArray.from_arrays(pa.array(matrix.reshape(-1)), matrix.shape[1])
