"""The rules of a published selection, checked on its table."""

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from mmcsal_core.schema import COST_COLUMN, PAIR_ID, prototype_column, selection_schema
from mmcsal_core.validation_suspicion import find_witness_problems

SCHEMA_KEYS = ("run_id", "seed", "encoder_sha256", "config_sha256", "code_version", "schema_version")
"""Schema metadata that a selection carries."""

TERM_TOLERANCE = 1e-5
"""Largest allowed difference between a gain and the sum of its terms."""

FLAT_TOLERANCE = 1e-6
"""Rise of a gain, relative to its size, that counts as rounding."""

TERMS = ("coverage_term", "diversity_term", "alignment_term")


def find_selection_problems(table: pa.Table, num_pool: int | None) -> list[str]:
    """Return what breaks the contract of `selection/`, in words; nothing where all is well.

    Args:
        table: all rows of the selection, in their published order.
        num_pool: pairs that could be picked, None where that is not known.
    """
    problems = _find_schema_problems(table.schema)
    if problems:
        return problems
    problems = _find_rank_problems(table) + _find_gain_problems(table) + _find_nearest_problems(table)
    problems += find_witness_problems(table)
    total = pc.sum(table["cluster_weight"]).as_py()
    if num_pool is not None and total != num_pool:
        problems.append(f"cluster_weight adds up to {total}, the pool has {num_pool} pairs")
    return problems


def _find_schema_problems(schema: pa.Schema) -> list[str]:
    expected = selection_schema(_list_modalities(schema), _list_carried_fields(schema))
    if schema.names != expected.names:
        return [f"columns are {schema.names}, not {expected.names}"]
    problems = [
        f"column {field.name} is {found.type}, not {field.type}"
        for field, found in zip(expected, schema, strict=True)
        if found.type != field.type
    ]
    carried = {field.name for field in _list_carried_fields(schema)}
    problems += [
        f"column {field.name} carries no comment"
        for field in schema
        if field.name not in carried and not (field.metadata or {}).get(b"comment")
    ]
    metadata = schema.metadata or {}
    missing = [key for key in SCHEMA_KEYS if key.encode() not in metadata]
    cost_column = metadata.get(COST_COLUMN.encode(), b"").decode()
    if cost_column and cost_column not in schema.names:
        problems.append(f"schema metadata names the cost column {cost_column}, which is not there")
    return problems + ([f"schema metadata lacks {', '.join(missing)}"] if missing else [])


def _list_modalities(schema: pa.Schema) -> list[str]:
    prefix = prototype_column("")
    start = len(selection_schema((), ()).names) - 2
    names = []
    for name in schema.names[start:]:
        if not name.startswith(prefix):
            break
        names.append(name.removeprefix(prefix))
    return names


def _list_carried_fields(schema: pa.Schema) -> list[pa.Field]:
    start = len(selection_schema((), ()).names) - 2 + len(_list_modalities(schema))
    return [schema.field(i) for i in range(start, max(start, len(schema) - 2))]


def _find_rank_problems(table: pa.Table) -> list[str]:
    problems = []
    if table["rank"].to_pylist() != list(range(table.num_rows)):
        problems.append("rank does not count 0, 1, 2, ... in the order of the rows")
    if pc.count_distinct(table[PAIR_ID]).as_py() != table.num_rows:
        problems.append(f"{PAIR_ID} is not unique")
    return problems


def _find_gain_problems(table: pa.Table) -> list[str]:
    gain, phases = _floats(table, "gain"), table["phase"].to_numpy()
    problems = []
    terms = np.sum([_floats(table, name) for name in TERMS], axis=0)
    if not np.isfinite(gain).all() or np.abs(gain - terms).max(initial=0) > TERM_TOLERANCE:
        problems.append(f"gain is not the sum of {', '.join(TERMS)} at every rank")
    ordered, name = _divide_by_cost(table, gain)
    rises = np.diff(ordered) > FLAT_TOLERANCE * np.maximum(1, np.abs(ordered[:-1]))
    rises &= phases[1:] == phases[:-1]
    if rises.any():
        problems.append(f"{name} rises within a phase at rank {int(np.argmax(rises)) + 1}")
    return problems


def _divide_by_cost(table: pa.Table, gain: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], str]:
    """Return what orders the picks, and its name: the gain, or the gain by cost where the metadata says so."""
    column = (table.schema.metadata or {}).get(COST_COLUMN.encode())
    if column is None:
        return gain, "gain"
    costs: npt.NDArray[np.float64] = pc.cast(table[column.decode()], pa.float64(), safe=False).to_numpy()
    return gain / costs, f"gain by {column.decode()}"


def _find_nearest_problems(table: pa.Table) -> list[str]:
    ranks = {pair_id: rank for rank, pair_id in enumerate(table[PAIR_ID].to_pylist())}
    nearest, distances = table["nearest_selected_id"].to_pylist(), table["nearest_selected_distance"].to_pylist()
    if table.num_rows and (nearest[0] is not None or distances[0] is not None):
        return ["rank 0 has no earlier pick, so nearest_selected_id and its distance must be null"]
    late = [rank for rank, name in enumerate(nearest) if rank and ranks.get(name, rank) >= rank]
    if late:
        return [f"nearest_selected_id is not an earlier pick at rank {late[0]}"]
    wrong = [rank for rank, value in enumerate(distances) if rank and (value is None or not 0 <= value <= 2.001)]
    return [f"nearest_selected_distance is not in 0 to 2 at rank {wrong[0]}"] if wrong else []


def _floats(table: pa.Table, name: str) -> npt.NDArray[np.float64]:
    values: npt.NDArray[np.float64] = table[name].to_numpy().astype(np.float64)
    return values
