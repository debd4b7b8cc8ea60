"""Rules of a whole table in, one verdict for each rule out: as a query, or evaluated over a frame.

A table rule names no row that could be set aside, so its level is warn or fail. Each is one SQL query over the table.
That query is evaluated here, run by a Great Expectations suite (suites.py), and asked by an alert (alerts.py).
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Literal

from expectations.rules.predicates import holds_sql
from expectations.rules.rules import Rule, check_name, check_rules
from transformations.errors import ConfigurationError

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

_NOW = "current_timestamp()"


@dataclass(frozen=True)
class TableRule:
    """What must be true of a table. The functions below make such rules.

    Attributes:
        name: snake_case.
        kind: unique, row_count, fresh, references or share.
        definition: the rule in words.
        measure: (table, now, other) as SQL → SQL that gives one row: `checked_rows`, `failed_rows` and `value`.
        is_kept: SQL over those three that is TRUE if the rule is kept; null breaks it.
        level: warn (counted) or fail.
        other: the table that the rule refers to, if it refers to one.
        row_rule: for `share`, the rule whose rows are counted; else None.
    """

    name: str
    kind: str
    definition: str
    measure: Callable[[str, str, str], str] = field(repr=False, compare=False)
    is_kept: str
    level: Literal["warn", "fail"] = "fail"
    other: str | None = None
    row_rule: Rule | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_name(self.name)
        if self.level not in ("warn", "fail"):
            raise ConfigurationError(
                f"rule {self.name!r} has the level {self.level!r}. A rule of a whole table names no row that could be "
                "set aside: use warn or fail."
            )

    @property
    def definition_id(self) -> str:
        return hashlib.sha256(f"{self.definition} {self.is_kept}".encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Verdict:
    """The result of one rule for one table.

    Attributes:
        value: what was measured: rows, a share, seconds; None for the share or the age of an empty table.
    """

    rule: TableRule
    is_kept: bool
    checked_rows: int
    failed_rows: int
    value: float | None


def unique(*key: str, name: str = "has_unique_key", level: Literal["warn", "fail"] = "fail") -> TableRule:
    """No two rows have the same key, and no part of a key is null. All rows with a shared or null key have failed."""
    columns, nulls = ", ".join(map(_quoted, key)), " OR ".join(f"{_quoted(c)} IS NULL" for c in key)
    return TableRule(
        name,
        "unique",
        f"{', '.join(key)} is unique and never null",
        lambda table, now, other: (
            "SELECT coalesce(sum(n), 0) AS checked_rows, "
            "coalesce(sum(CASE WHEN n > 1 OR has_null THEN n END), 0) AS failed_rows, "
            "cast(coalesce(sum(CASE WHEN n > 1 OR has_null THEN n END), 0) AS double) AS value "
            f"FROM (SELECT count(*) AS n, bool_or({nulls}) AS has_null FROM {table} GROUP BY {columns})"
        ),
        "failed_rows = 0",
        level,
    )


def row_count(
    *,
    at_least: int = 0,
    at_most: int | None = None,
    name: str = "has_enough_rows",
    level: Literal["warn", "fail"] = "fail",
) -> TableRule:
    """The table has from `at_least` to `at_most` rows, both included; None: no upper limit."""
    upper = f" AND value <= {int(at_most)}" if at_most is not None else ""
    return TableRule(
        name,
        "row_count",
        f"at least {int(at_least)} rows" + (f", at most {int(at_most)}" if at_most is not None else ""),
        lambda table, now, other: (
            "SELECT count(*) AS checked_rows, cast(0 AS bigint) AS failed_rows, cast(count(*) AS double) AS value "
            f"FROM {table}"
        ),
        f"value >= {int(at_least)}{upper}",
        level,
    )


def fresh(
    column: str, *, within: timedelta, name: str = "is_fresh", level: Literal["warn", "fail"] = "fail"
) -> TableRule:
    """The newest instant is at most `within` old. Instants in the future do not count; an empty table is not fresh."""
    instant = _quoted(column)
    return TableRule(
        name,
        "fresh",
        f"the newest {column} is at most {within} old",
        lambda table, now, other: (
            f"SELECT count(*) AS checked_rows, cast(0 AS bigint) AS failed_rows, (unix_micros({now}) - unix_micros(max("
            f"CASE WHEN {instant} <= {now} THEN cast({instant} AS timestamp) END))) / 1e6D AS value FROM {table}"
        ),
        f"value <= {within.total_seconds()}D",
        level,
    )


def references(
    *columns: str, table: str, name: str = "has_its_reference", level: Literal["warn", "fail"] = "fail"
) -> TableRule:
    """For every row, `table` has one with the same `columns`. A row with a null among them refers to nothing, and is
    kept."""
    on = " AND ".join(f"r.{_quoted(c)} = o.{_quoted(c)}" for c in columns)
    named = " AND ".join(f"r.{_quoted(c)} IS NOT NULL" for c in columns)
    return TableRule(
        name,
        "references",
        f"{', '.join(columns)} is one of {table}",
        lambda here, now, other: (
            "SELECT count(*) AS checked_rows, count_if(is_lost) AS failed_rows, "
            "cast(count_if(is_lost) AS double) AS value FROM (SELECT ("
            f"{named}) AND o._is_there IS NULL AS is_lost FROM {here} r LEFT JOIN (SELECT DISTINCT "
            f"{', '.join(map(_quoted, columns))}, true AS _is_there FROM {other}) o ON {on})"
        ),
        "failed_rows = 0",
        level,
        table,
    )


def share(
    predicate: str, *, reference: float, tolerance: float, name: str, level: Literal["warn", "fail"] = "warn"
) -> TableRule:
    """The share of rows for which `predicate` (SQL) is TRUE is within `tolerance` of `reference`, both ends included.

    An empty table has no share and breaks the rule. Shares are compared to nine digits.
    """
    row_rule = Rule(name, predicate)
    holds = holds_sql(row_rule)
    return TableRule(
        name,
        "share",
        f"the share of rows with {predicate} is {reference:g} ± {tolerance:g}",
        lambda table, now, other: (
            "SELECT count(*) AS checked_rows, cast(0 AS bigint) AS failed_rows, "
            f"count_if({holds}) / cast(nullif(count(*), 0) AS double) AS value FROM {table}"
        ),
        f"round(abs(value - {float(reference)!r}D), 9) <= {float(tolerance)!r}D",
        level,
        row_rule=row_rule,
    )


def verdict_query(rule: TableRule, *, table: str, other: str = "", now: datetime | None = None) -> str:
    """SQL that gives one row about `table`: rule, is_kept (never null), checked_rows, failed_rows, value.

    Args:
        table, other: identifiers as SQL takes them; they are not quoted here.
        now: for `fresh`, UTC if it has no zone; None: the moment of the query.

    Raises:
        ConfigurationError: the rule refers to another table, and `other` is not given.
    """
    if rule.other and not other:
        raise ConfigurationError(f"rule {rule.name!r} refers to {rule.other}: say where that is (other=…)")
    instant = _NOW if now is None else f"timestamp_micros({round(_utc(now).timestamp() * 1_000_000)})"
    return (
        f"SELECT '{rule.name}' AS rule, coalesce({rule.is_kept}, false) AS is_kept, "
        f"checked_rows, failed_rows, value FROM ({rule.measure(table, instant, other)})"
    )


def judge_table(
    rows: DataFrame,
    *,
    rules: Sequence[TableRule],
    now: datetime,
    others: Mapping[str, DataFrame] | None = None,
    table: str = "these rows",
) -> list[Verdict]:
    """Evaluate every rule over `rows` in one action; the verdicts are in the order of the rules.

    Args:
        others: the tables that rules refer to, by name.
        table: the name of the rows in an error.

    Raises:
        ConfigurationError: two rules have the same name, a table that a rule refers to is not in `others`, or Spark
            refuses a query.
    """
    from pyspark.errors import AnalysisException, ParseException

    names = [rule.name for rule in rules]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigurationError(f"{table} has two rules named {', '.join(twice)}. Give each a name of its own.")
    lacking = sorted({rule.other for rule in rules if rule.other and rule.other not in (others or {})})
    if lacking:
        raise ConfigurationError(f"the rules of {table} refer to {', '.join(lacking)}: pass it in others={{…}}")
    if not rules:
        return []
    check_rules(rows, rules=[rule.row_rule for rule in rules if rule.row_rule is not None], table=table)
    views = {name: f"_lakeloop_{uuid.uuid4().hex}" for name in ("", *(others or {}))}
    rows.createOrReplaceTempView(views[""])
    for name, frame in (others or {}).items():
        frame.createOrReplaceTempView(views[name])
    spark, rule = rows.sparkSession, rules[0]
    try:
        verdicts = []
        for rule in rules:
            query = verdict_query(rule, table=views[""], other=views.get(rule.other or "", ""), now=now)
            verdicts.append(spark.sql(query))
            verdicts[-1].schema  # noqa: B018 - Spark Connect resolves names only when it is asked for them
        together = verdicts[0]
        for verdict in verdicts[1:]:
            together = together.unionAll(verdict)
        found = {row["rule"]: row for row in together.collect()}
    except (AnalysisException, ParseException) as error:
        message = " ".join((error.getMessage() or str(error)).split("SQLSTATE")[0].split())
        raise ConfigurationError(
            f"rule {rule.name!r} ({rule.definition}) cannot be judged of {table}: {message} The columns there are "
            f"{', '.join(rows.columns)}."
        ) from None
    finally:
        for view in views.values():
            spark.catalog.dropTempView(view)
    return [
        Verdict(rule, row["is_kept"], row["checked_rows"], row["failed_rows"], row["value"])
        for rule in rules
        for row in [found[rule.name]]
    ]


def _quoted(column: str) -> str:
    return "`" + column.replace("`", "``") + "`"


def _utc(instant: datetime) -> datetime:
    return instant if instant.tzinfo else instant.replace(tzinfo=timezone.utc)
