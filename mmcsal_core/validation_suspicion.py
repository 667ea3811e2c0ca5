"""The rules of `neighbors/suspicion.parquet`, and of the columns that a selection takes from it."""

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from mmcsal_core.artifacts import Artifact, Manifest
from mmcsal_core.errors import ArtifactError
from mmcsal_core.schema import CONSISTENCY, OUT_OF_FOLD_ALIGNMENT, PAIR_ID, SUSPICION, SUSPICION_FILE, suspicion_schema

ROUNDING = 1e-5
"""How far a cosine may lie outside of [-1, 1]."""


def find_suspicion_problems(neighbors: Artifact, manifest: Manifest) -> list[str]:
    """Return what breaks the contract of `neighbors/suspicion.parquet`, in words; nothing where all is well.

    Args:
        neighbors: finished.
        manifest: of `neighbors`.
    """
    if SUSPICION_FILE not in {record.name for record in manifest.files}:
        return [f"{SUSPICION_FILE} is not in the manifest; run the stage '{neighbors.stage}' again"]
    try:
        table = neighbors.store.read_table(SUSPICION_FILE)
    except ArtifactError as error:
        return [str(error)]
    if not table.schema.equals(suspicion_schema(), check_metadata=True):
        return [f"columns of {SUSPICION_FILE} are {table.schema.names}, not {suspicion_schema().names} as documented"]
    problems = find_witness_problems(table)
    if table.num_rows != manifest.pairs_out:
        problems.append(f"{SUSPICION_FILE} speaks of {table.num_rows} pairs, not of {manifest.pairs_out}")
    ids = table[PAIR_ID].combine_chunks()
    if not pc.all(pc.less(ids.slice(0, len(ids) - 1), ids.slice(1))).as_py():
        problems.append(f"{SUSPICION_FILE} is not sorted by {PAIR_ID}, or holds one twice")
    return problems


def find_witness_problems(table: pa.Table) -> list[str]:
    """Return which columns of `schema.witness_fields` hold values that cannot be, in words."""
    limits = {OUT_OF_FOLD_ALIGNMENT: (-1 - ROUNDING, 1 + ROUNDING), CONSISTENCY: (0.0, 1.0), SUSPICION: (0.0, 1.0)}
    return [
        f"{name} holds values that are not in {round(low)} to {round(high)}"
        for name, (low, high) in limits.items()
        if _is_outside(table[name].drop_null().to_numpy(), low, high)
    ]


def _is_outside(values: npt.NDArray[np.float32], low: float, high: float) -> bool:
    return not bool(((values >= low) & (values <= high)).all())
