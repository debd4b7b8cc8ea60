"""Values in; the SQL texts that delta-rs takes as predicates out. Values are quoted, never spliced in as they are."""

from __future__ import annotations

from collections.abc import Mapping


def all_equal(where: Mapping[str, str]) -> str:
    """A predicate for delta-rs over columns of ours."""
    return " AND ".join(f"{column} = {literal(value)}" for column, value in where.items())


def literal(value: str) -> str:
    """A SQL text: only a quote has a meaning in one."""
    return "'" + value.replace("'", "''") + "'"
