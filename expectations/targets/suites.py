"""Rules in, a Great Expectations suite of the same rules out.

Every rule is an UnexpectedRowsExpectation: a query over `{batch}` that returns what breaks the rule. So Spark judges,
by the same SQL as everywhere else. A suite reads whole tables: run it after a batch, not within it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from expectations.rules.predicates import holds_sql
from expectations.rules.rules import Rule
from expectations.rules.table_rules import TableRule, verdict_query
from transformations.errors import MissingDependencyError

if TYPE_CHECKING:
    from great_expectations import ExpectationSuite

_SEVERITY = {"warn": "info", "quarantine": "warning", "fail": "critical"}


def suite(
    name: str,
    *,
    rules: Sequence[Rule] = (),
    table_rules: Sequence[TableRule] = (),
    key: Sequence[str] = (),
    others: Mapping[str, str] | None = None,
    now: datetime | None = None,
) -> ExpectationSuite:
    """A suite named `name`. Each expectation's `meta` has the rule's `rule`, `level` and `kind`.

    Args:
        key: the columns of a broken row that a result may show; empty: no value of the table gets into the results.
        others: the table that a rule refers to → its identifier in SQL.
        now: for rules of freshness; None: the moment of the validation.

    Raises:
        MissingDependencyError: Great Expectations is not installed.
        ConfigurationError: a rule is a Column (`expectations.rules.predicates.in_sql` writes it as SQL), or a table
            that a rule refers to is not in `others`.
    """
    gx = great_expectations()
    expectations = []
    shown = ", ".join(f"`{column}`" for column in key) or "1 AS is_broken"
    for rule in rules:
        query = f"SELECT {shown} FROM {{batch}} WHERE NOT {_literal(holds_sql(rule))}"
        expectations.append(_expectation(gx, query, rule.name, rule.level, "row", str(rule.predicate)))
    for rule_of_table in table_rules:
        # Only `{batch}` may look like a field of the query, so it takes the place of a stand-in at the end.
        other = (others or {}).get(rule_of_table.other or "", "")
        without_table = verdict_query(rule_of_table, table="", other=other, now=now)
        stand_in = "lakeloop_batch"
        while stand_in in without_table:  # the rule's own SQL must not have that name
            stand_in += "_"
        query = _literal(verdict_query(rule_of_table, table=stand_in, other=other, now=now))
        query = f"SELECT * FROM ({query.replace(stand_in, '{batch}')}) WHERE NOT is_kept"
        facts = (rule_of_table.name, rule_of_table.level, rule_of_table.kind, rule_of_table.definition)
        expectations.append(_expectation(gx, query, *facts))
    made: ExpectationSuite = gx.ExpectationSuite(name=name, expectations=expectations)
    return made


def great_expectations() -> Any:
    """The library, imported; this takes seconds."""
    try:
        import great_expectations
    except ImportError:
        raise MissingDependencyError.for_extra("great_expectations", "quality") from None
    return great_expectations


def _expectation(gx: Any, query: str, name: str, level: str, kind: str, definition: str) -> Any:
    return gx.expectations.UnexpectedRowsExpectation(
        unexpected_rows_query=query,
        description=f"{name} ({level}): {_literal(definition)}",
        severity=_SEVERITY[level],
        meta={"rule": name, "level": level, "kind": kind},
    )


def _literal(sql: str) -> str:
    """`sql` with its braces doubled: the library reads single ones as fields."""
    return sql.replace("{", "{{").replace("}", "}}")
