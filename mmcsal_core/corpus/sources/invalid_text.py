"""Text of a Parquet file that is no UTF-8: Arrow takes the writer's word for it, and whoever reads it as text fails."""

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc


def blank_invalid_text(column: pa.ChunkedArray) -> tuple[pa.ChunkedArray, npt.NDArray[np.bool_]]:
    """Replace values that are no UTF-8 by null.

    Args:
        column: of any type; only plain text is looked at, since Arrow looks at dictionaries of text as it reads them.

    Returns:
        The column, of the same type, and which of its rows were replaced.
    """
    is_text = pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
    if not is_text or _is_valid(column):
        return column, np.zeros(len(column), np.bool_)
    values = pc.cast(column, pa.large_binary()).to_pylist()
    invalid = np.array([not _is_utf8(value) for value in values], np.bool_)
    kept = [None if is_bad else value for value, is_bad in zip(values, invalid, strict=True)]
    return pa.chunked_array([pa.array(kept, pa.large_binary())]).cast(column.type), invalid


def _is_valid(column: pa.ChunkedArray) -> bool:
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _is_utf8(value: bytes | None) -> bool:
    try:
        if value is not None:
            value.decode()
    except UnicodeDecodeError:
        return False
    return True
