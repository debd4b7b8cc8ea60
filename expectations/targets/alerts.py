"""Rules and a table's name in, the SQL of an alert, and the alert as a Databricks resource, out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from expectations.rules.predicates import holds_sql
from expectations.rules.rules import Rule
from expectations.rules.table_rules import TableRule, verdict_query

_EVERY_HOUR = "0 0 * * * ?"


def alert_query(table: str, *, rules: Sequence[Rule], where: str = "true") -> str:
    """SQL that gives one row: how many rows of `table` break a rule, and how many break each rule.

    Args:
        table: an identifier as SQL takes it; it is not quoted here.
        where: SQL that restricts the rows, for example to the last day.

    Returns:
        SQL with the columns `failed_rows` (rows that break a rule of any level, each counted once; the alert compares
        this), `checked_rows`, and `failed_rows_<rule>` for each rule. If a rule is null for a row, the row breaks it.
    """
    broken = [f"count_if(NOT {holds_sql(rule)}) AS failed_rows_{rule.name}" for rule in rules]
    any_broken = " OR ".join(f"NOT {holds_sql(rule)}" for rule in rules) or "false"
    columns = [f"count_if({any_broken}) AS failed_rows", "count(*) AS checked_rows", *broken]
    return f"SELECT {', '.join(columns)}\nFROM {table}\nWHERE {where}"


def table_alert_query(table: str, *, rule: TableRule, other: str = "") -> str:
    """SQL that gives one row about a rule of the whole table: `failed_rows` (0 if it is kept, else at least 1),
    `checked_rows` and `value`.

    Args:
        other: the identifier of the table that the rule refers to, if it refers to one.
    """
    return (
        "SELECT CASE WHEN is_kept THEN 0 ELSE greatest(failed_rows, 1) END AS failed_rows, checked_rows, value\n"
        f"FROM ({verdict_query(rule, table=table, other=other)})"
    )


def alert_resource(
    name: str, query: str, *, warehouse_id: str = "${var.warehouse_id}", schedule: str = _EVERY_HOUR
) -> dict[str, Any]:
    """An entry of `resources.alerts` of a bundle (alerts v2): triggered while `failed_rows` is more than 0.

    The fields have the names of monitoring.alerts: `source`, `comparison_operator`, `threshold`.
    """
    return {
        "display_name": name,
        "query_text": query,
        "warehouse_id": warehouse_id,
        "evaluation": {
            "comparison_operator": "GREATER_THAN",
            "empty_result_state": "ERROR",  # the query always gives one row
            "source": {"name": "failed_rows", "aggregation": "MAX"},
            "threshold": {"value": {"double_value": 0}},
            "notification": {"notify_on_ok": True},
        },
        "schedule": {"quartz_cron_schedule": schedule, "timezone_id": "UTC", "pause_status": "UNPAUSED"},
    }
