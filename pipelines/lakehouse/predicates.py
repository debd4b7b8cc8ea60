"""SQL predicates for delta-rs, with all names and values quoted.

Only names are for Spark too: in its texts a backslash has a meaning. For Spark, build columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def all_in(where: Mapping[str, Sequence[str] | Sequence[int]]) -> str:
    """True for rows in which each column has one of its values. Each column needs at least one value."""
    return " AND ".join(f"{quoted(column)} IN ({', '.join(map(literal, values))})" for column, values in where.items())


def same(key: str, *, nulls: bool) -> str:
    """True if a row (`target`) and a change (`changes`) have the same value of `key`.

    With `nulls`, null equals null. Without, the comparison is a plain =, for which delta-rs can skip files.
    """
    # In brackets: without them IS NOT DISTINCT FROM would include an AND that follows.
    return f"(target.{quoted(key)} {'IS NOT DISTINCT FROM' if nulls else '='} changes.{quoted(key)})"


def quoted(column: str) -> str:
    """The quoted name of a column, for Spark too; without quotes delta-rs would read it as lower case."""
    return "`" + column.replace("`", "``") + "`"


def literal(value: str | int) -> str:
    """The value in SQL: a number, or a text, in which only the quote needs to be escaped."""
    return str(value) if isinstance(value, int) else "'" + value.replace("'", "''") + "'"
