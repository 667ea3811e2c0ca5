"""A condition on metadata columns in SQL: which pairs a selection is about.

DuckDB evaluates it, so the words, functions and treatment of NULL are those of its SQL, written down at
https://duckdb.org/docs/stable/sql/expressions/overview. It sees one table and nothing else: files, the network, Python
objects, extensions and further statements are out of its reach, and its settings are locked. A parser of our own was
not chosen, nor `DataFrame.eval`, which can call Python.
"""

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mmcsal_core.errors import ConfigError

_LOCKS = (
    "python_enable_replacements = false",
    "autoinstall_known_extensions = false",
    "autoload_known_extensions = false",
    "enable_external_access = false",
    "lock_configuration = true",
)


def match_rows(table: pa.Table, condition: str) -> npt.NDArray[np.bool_]:
    """Say for which rows a condition is true; where it is NULL it is not.

    Args:
        table: N rows of metadata.
        condition: e.g. `category IN ('cat', 'dog') AND width >= 256`.

    Returns:
        (N,) bool.

    Raises:
        ConfigError: it is no condition on the columns of a row.
    """
    with duckdb.connect(":memory:") as connection:
        for lock in _LOCKS:
            connection.execute(f"SET {lock}")
        try:
            column = duckdb.SQLExpression(condition).alias("is_match")
            result = connection.from_arrow(table).select(column)
            kind, found = str(result.types[0]), result.to_arrow_table()["is_match"]
        except duckdb.Error as error:
            raise ConfigError(_explain(condition, str(error), table)) from error
    if kind != "BOOLEAN":
        raise ConfigError(f"where must be true or false for each pair, {condition!r} is {kind}; compare it: ... = ...")
    if len(found) != table.num_rows:
        raise ConfigError(f"where must judge each pair by itself, {condition!r} sums over pairs; take the sum out")
    return np.asarray(found.fill_null(False).to_numpy(), dtype=bool)


def _explain(condition: str, problem: str, table: pa.Table) -> str:
    first = " ".join(problem.split("\n\nLINE", maxsplit=1)[0].split())
    return (
        f"where must be a condition in SQL, got {condition!r} ({first}); the columns are "
        f"{', '.join(table.column_names)}"
    )
