"""Checks and blocks that every computation on vectors shares."""

from collections.abc import Iterator, Mapping
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from mmcsal_core.errors import DataError

Vectors: TypeAlias = npt.NDArray[np.float32]
Floats: TypeAlias = npt.NDArray[np.float64]
Rows: TypeAlias = npt.NDArray[np.int64]


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
        _refuse_rows(~np.isfinite(matrix).all(axis=1), f"NaN or infinity in the {name} {kind}")


def scale_to_unit(matrices: Mapping[str, npt.NDArray[np.floating]]) -> dict[str, Vectors]:
    """Scale every row to length one.

    Args:
        matrices: (N, dim) by modality.

    Returns:
        (N, dim) float32 by modality.

    Raises:
        DataError: a row is NaN, infinite or zero; the message names the modality and the row.
    """
    check_matrices(matrices, "embedding")
    units = {}
    for name, matrix in matrices.items():
        norms = np.linalg.norm(matrix.astype(np.float64), axis=1)
        _refuse_rows(norms == 0, f"a zero {name} embedding")
        units[name] = np.ascontiguousarray(matrix / norms[:, None], dtype=np.float32)
    return units


def _refuse_rows(is_wrong: npt.NDArray[np.bool_], finding: str) -> None:
    rows = np.flatnonzero(is_wrong)
    if len(rows):
        raise DataError(
            f"vectors must be finite and not zero, but row {rows[0]} has {finding} ({len(rows)} such rows); "
            "reject these pairs before selection"
        )
