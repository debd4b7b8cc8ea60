"""A rule in, its predicate as SQL that is never null, for declared expectations, alerts and suites, out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from expectations.rules.rules import Rule
from transformations.errors import ConfigurationError

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


def holds_sql(rule: Rule) -> str:
    """SQL that is TRUE or FALSE of a row, never null: no platform has to decide what null means.

    Raises:
        ConfigurationError: the rule's predicate is a Column; `in_sql` writes it as SQL.
    """
    if not isinstance(rule.predicate, str):
        raise ConfigurationError(
            f"rule {rule.name!r} is a Column, and SQL is needed here. Pass the rules through in_sql(rules, rows=…), "
            "or write the predicate as SQL."
        )
    # The predicate stands on lines of its own, since it may end in a comment.
    return f"coalesce((\n{rule.predicate}\n), false)"


def in_sql(rules: Sequence[Rule], *, rows: DataFrame) -> tuple[Rule, ...]:
    """The same rules with SQL predicates: one that is SQL stays as it is, and Spark itself writes a Column as SQL.

    Args:
        rows: a frame with the columns that the rules name; no row of it is read.

    Raises:
        ConfigurationError: the SQL of a Column does not read back as the same expression (a lambda, a Python
            function), or the session is one of Spark Connect, which cannot write SQL.
    """
    return tuple(rule if isinstance(rule.predicate, str) else _in_sql(rule, rows) for rule in rules)


def _in_sql(rule: Rule, rows: DataFrame) -> Rule:
    from pyspark.errors import PySparkException
    from pyspark.sql import functions as F

    plain = rows.sparkSession.createDataFrame([], rows.schema)  # its columns do not carry the name of a table
    if not hasattr(plain, "_jdf"):
        raise ConfigurationError(
            f"rule {rule.name!r} is a Column, and Spark Connect cannot write it as SQL. Write the predicate as SQL."
        )

    def condition(of: DataFrame) -> object:
        return of._jdf.queryExecution().analyzed().condition()

    written = condition(plain.where(rule.column))
    sql = written.sql()  # type: ignore[attr-defined]
    try:
        is_same = written.semanticEquals(condition(plain.where(F.expr(sql))))  # type: ignore[attr-defined]
    except PySparkException:
        is_same = False
    if not is_same:
        raise ConfigurationError(
            f"rule {rule.name!r} is a Column that Spark cannot write as SQL ({sql}). Write the predicate as SQL."
        )
    return replace(rule, predicate=sql)
