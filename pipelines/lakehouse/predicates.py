"""SQL predicates for delta-rs. Names and values are quoted, never spliced as they are.

Spark reads other texts: a backslash has a meaning in them. For Spark, build columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def all_in(where: Mapping[str, Sequence[str]]) -> str:
    """Rows whose columns each hold one of the texts; at least one text each."""
    return " AND ".join(f"{name(column)} IN ({', '.join(map(literal, of))})" for column, of in where.items())


def same(key: str, *, nulls: bool) -> str:
    """The key of a change is that of a row; with `nulls`, null is null. A plain = leaves other files unread."""
    # In brackets: IS NOT DISTINCT FROM would take in an AND that follows.
    return f"(target.{name(key)} {'IS NOT DISTINCT FROM' if nulls else '='} changes.{name(key)})"


def name(column: str) -> str:
    """A column's name; without quotes it would be read in lower case."""
    return "`" + column.replace("`", "``") + "`"


def literal(value: str) -> str:
    """A SQL text: only a quote has a meaning in one."""
    return "'" + value.replace("'", "''") + "'"
