"""A condition on metadata columns in SQL: which pairs a selection is about.

DuckDB evaluates it, so the words, functions and treatment of NULL are those of its SQL, written down at
https://duckdb.org/docs/stable/sql/expressions/overview. It sees one table and nothing else: files, the network, Python
objects, extensions and further statements are out of its reach, and its settings are locked. What answers differently
from call to call, such as `random()` or `now()`, is refused: equal input must give equal picks. A parser of our own was
not chosen, nor `DataFrame.eval`, which can call Python.
"""

import json
from collections.abc import Container, Iterator, MutableMapping
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from mmcsal_core.errors import ConfigError

_LOCKS = (
    "TimeZone = 'UTC'",
    "python_enable_replacements = false",
    "autoinstall_known_extensions = false",
    "autoload_known_extensions = false",
    "enable_external_access = false",
    "lock_configuration = true",
)

_CLOCK_WORDS = frozenset({"current_date", "current_time", "current_timestamp", "localtime", "localtimestamp"})
"""What reads the clock without brackets, where no column is named so."""

_UNMARKED = frozenset({"age", "current_localtime", "current_localtimestamp", "current_setting"})
"""What reads the clock or the settings and is CONSISTENT for some DuckDB; `age` does with one date, up to today."""

_SAMPLE = "SAMPLE"


def match_rows(table: pa.Table, condition: str) -> npt.NDArray[np.bool_]:
    """Say for which rows a condition is true; where it is NULL it is not.

    Args:
        table: N rows of metadata; a column of a type that DuckDB does not read cannot be named.
        condition: e.g. `category IN ('cat', 'dog') AND width >= 256`.

    Returns:
        (N,) bool.

    Raises:
        ConfigError: it is no condition on the columns of a row, or one whose answer changes from call to call.
    """
    with duckdb.connect(":memory:") as connection:
        for lock in _LOCKS:
            connection.execute(f"SET {lock}")
        seen = _keep_readable(connection, table)
        try:
            column = duckdb.SQLExpression(condition).alias("is_match")
            _refuse_changing(connection, condition, seen.column_names)
            result = connection.from_arrow(seen).select(column)
            kinds, found = [str(kind) for kind in result.types], result.to_arrow_table().column(0)
        except duckdb.Error as error:
            raise ConfigError(_explain(condition, str(error), table, seen.column_names)) from error
    if len(kinds) != 1:
        raise ConfigError(f"where must be one condition, {condition!r} is {len(kinds)}; join them with AND or OR")
    if kinds != ["BOOLEAN"]:
        raise ConfigError(
            f"where must be true or false for each pair, {condition!r} is {kinds[0]}; compare it: ... = ..."
        )
    if len(found) != table.num_rows:
        raise ConfigError(f"where must judge each pair by itself, {condition!r} sums over pairs; take the sum out")
    return np.asarray(found.fill_null(False).to_numpy(), dtype=bool)


def _keep_readable(connection: duckdb.DuckDBPyConnection, table: pa.Table) -> pa.Table:
    """Return the columns that DuckDB reads; half floats are widened."""
    for place, field in enumerate(table.schema):
        if pa.types.is_float16(field.type):
            table = table.set_column(place, field.name, pc.cast(table[place], pa.float32()))
    return table.select([field.name for field in table.schema if _can_read(connection, field)])


def _can_read(connection: duckdb.DuckDBPyConnection, field: pa.Field) -> bool:
    try:
        connection.from_arrow(pa.schema([field]).empty_table())
    except duckdb.NotSupportedError:
        return False
    return True


def _refuse_changing(connection: duckdb.DuckDBPyConnection, condition: str, columns: list[str]) -> None:
    found = connection.execute(
        "SELECT function_name, macro_definition FROM duckdb_functions() "
        "WHERE stability <> 'CONSISTENT' OR function_type = 'macro'"
    ).fetchall()
    changing = {name for name, body in found if body is None} | _UNMARKED | _CLOCK_WORDS | {_SAMPLE}
    macros: dict[str, list[str]] = {}
    for name, body in found:
        if body is not None:
            macros.setdefault(name, []).append(body)
    culprit = _find_changing(connection, condition, {name.lower() for name in columns}, changing, macros)
    if culprit is not None:
        raise ConfigError(
            f"where must give the same answer at every call, {condition!r} uses {culprit}; write the value itself, "
            "e.g. DATE '2026-01-31', or md5(pair_id) < '8' for half of the pairs by chance"
        )


def _find_changing(
    connection: duckdb.DuckDBPyConnection,
    expression: str,
    columns: Container[str],
    changing: Container[str],
    macros: MutableMapping[str, list[str]],
) -> str | None:
    """Return what makes an expression change from call to call, if anything; macros are looked into once each."""
    for name in _list_calls(connection, expression, columns):
        bodies = macros.pop(name, [])
        if name in changing or any(_find_changing(connection, body, columns, changing, macros) for body in bodies):
            return name
    return None


def _list_calls(connection: duckdb.DuckDBPyConnection, expression: str, columns: Container[str]) -> Iterator[str]:
    """Yield the functions that an expression in SQL names, and what else is not a function of a row."""
    ((tree,),) = connection.execute("SELECT json_serialize_sql(?)", [f"SELECT {expression}"]).fetchall()
    parsed = json.loads(tree)
    if parsed["error"]:
        raise duckdb.ParserException(parsed["error_message"])
    for node in _walk(parsed):
        name = node.get("function_name", "").lower()
        arguments = node.get("arguments", node.get("children", ()))  # of DuckDB 2 and of DuckDB 1
        words = [word.lower() for word in node.get("column_names", [])]
        if name and not (name == "age" and len(arguments) == 2):
            yield name
        if len(words) == 1 and words[0] in _CLOCK_WORDS and words[0] not in columns:
            yield words[0]
        if node.get("sample"):
            yield _SAMPLE


def _walk(node: Any) -> Iterator[dict[str, Any]]:
    """Yield every object of a tree of JSON."""
    if isinstance(node, dict):
        yield node
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from _walk(child)


def _explain(condition: str, problem: str, table: pa.Table, columns: list[str]) -> str:
    first = " ".join(problem.split("\n\nLINE", maxsplit=1)[0].split())
    lacking = [f"{field.name} ({field.type})" for field in table.schema if field.name not in columns]
    unread = f"; of types that DuckDB does not read: {', '.join(lacking)}" if lacking else ""
    return (
        f"where must be a condition in SQL, got {condition!r} ({first}); the columns are {', '.join(columns)}{unread}"
    )
