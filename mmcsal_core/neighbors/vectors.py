"""Checks and blocks that every computation on vectors shares."""

from collections.abc import Iterator, Mapping
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from mmcsal_core.errors import DataError

Vectors: TypeAlias = npt.NDArray[np.float32]
Floats: TypeAlias = npt.NDArray[np.float64]
Rows: TypeAlias = npt.NDArray[np.int64]

BLOCK_ROWS = 4096
"""Rows that are checked and scaled together."""

MAX_UNIT_ERROR = 1e-6
"""Lengths this near to one are one: float32 cannot come much nearer."""


def iter_blocks(num_rows: int, block_rows: int) -> Iterator[slice]:
    """Yield slices that cover `num_rows` rows in order."""
    for start in range(0, num_rows, block_rows):
        yield slice(start, min(start + block_rows, num_rows))


def check_matrices(matrices: Mapping[str, npt.NDArray[np.floating]], kind: str) -> None:
    """Refuse matrices that are not two-dimensional, finite and of one length.

    Args:
        matrices: (N, dim) by modality; dim may differ.
        kind: what they are, for the message, e.g. `embedding`.

    Raises:
        DataError: a rule is broken; the message names the modality and the row.
    """
    lengths = {name: matrix.shape for name, matrix in matrices.items()}
    if any(len(shape) != 2 or 0 in shape for shape in lengths.values()) or len({s[0] for s in lengths.values()}) > 1:
        raise DataError(
            f"each modality's {kind} is a matrix (pairs, dim) with the same number of pairs, got {lengths}; "
            "stack one row a pair"
        )
    for name, matrix in matrices.items():
        blocks = [np.isfinite(matrix[block]).all(axis=1) for block in iter_blocks(len(matrix), BLOCK_ROWS)]
        _refuse_rows(~np.concatenate(blocks), f"NaN or infinity in the {name} {kind}")


def scale_to_unit(matrices: Mapping[str, npt.NDArray[np.floating]]) -> dict[str, Vectors]:
    """Scale every row to length one; a row that has it already, up to rounding, keeps its bits.

    A matrix of which every row keeps its bits is returned itself, without a copy, where it is float32.

    Args:
        matrices: (N, dim) by modality; never changed.

    Returns:
        (N, dim) float32 by modality.

    Raises:
        DataError: a row is NaN, infinite or zero; the message names the modality and the row.
    """
    check_matrices(matrices, "embedding")
    return {name: _scale_rows(matrix, name) for name, matrix in matrices.items()}


def _scale_rows(matrix: npt.NDArray[np.floating], name: str) -> Vectors:
    norms = np.empty(len(matrix))
    for block in iter_blocks(len(matrix), BLOCK_ROWS):
        rows = matrix[block].astype(np.float64)
        with np.errstate(over="ignore"):
            norms[block] = np.sqrt(np.einsum("nd,nd->n", rows, rows))
    _refuse_rows(norms == 0, f"a zero {name} embedding")
    _refuse_rows(~np.isfinite(norms), f"values too large to measure in the {name} embedding")
    norms[np.abs(norms - 1) <= MAX_UNIT_ERROR] = 1.0
    if matrix.dtype == np.float32 and matrix.flags.c_contiguous and (norms == 1).all():
        return matrix
    units: Vectors = np.empty(matrix.shape, dtype=np.float32)
    for block in iter_blocks(len(matrix), BLOCK_ROWS):
        units[block] = matrix[block] / norms[block, None]
    return units


def _refuse_rows(is_wrong: npt.NDArray[np.bool_], finding: str) -> None:
    rows = np.flatnonzero(is_wrong)
    if len(rows):
        raise DataError(
            f"vectors must be finite and not zero, but row {rows[0]} has {finding} ({len(rows)} such rows); "
            "reject these pairs before selection"
        )
