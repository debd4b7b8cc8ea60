"""Records the results of rules in monitoring.rule_results, each once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from expectations.rules.rules import Rule
from pipelines.flow.stage import Context, Versions

RULE_RESULTS = "monitoring.rule_results"
# Judgements of these are told apart; the last one counts.
OF_ONE_RULE = ("table_name", "stage", "rule")


def row_results(
    table: str, rules: Sequence[Rule], checked_rows: int, broken: Mapping[str, int]
) -> list[dict[str, Any]]:
    """One result for each rule, with its columns of monitoring.rule_results; `broken` is rule → rows that break it."""
    return [
        {
            "table_name": table,
            "rule": rule.name,
            "kind": "row",
            "level": rule.level,
            "definition_id": rule.definition_id,
            "is_kept": not broken[rule.name],
            "checked_rows": checked_rows,
            "failed_rows": broken[rule.name],
            "failed_ratio": broken[rule.name] / checked_rows if checked_rows else None,
            "value": float(broken[rule.name]),
        }
        for rule in rules
    ]


def record(context: Context, found: list[dict[str, Any]], *, versions: Versions, source: str, stage: str) -> None:
    """Append results to monitoring.rule_results, except those that it has already: a second run changes nothing.

    Args:
        found: as `row_results` gives them.
    """
    source_columns = {
        "source_table": source,
        "source_id": versions.table_id,
        "source_version_from": versions.since,
        "source_version_to": versions.until,
    }
    result_columns = ("table_name", "rule", "definition_id", "level", "checked_rows", "failed_rows", "is_kept")
    identity = (*result_columns, *source_columns)
    tables = {row["table_name"] for row in found}
    known = set()
    for table in tables:
        where = {"table_name": table, "source_version_to": versions.until}
        rows = context.lake.read_arrow(RULE_RESULTS, columns=list(identity), where=where)
        known |= {tuple(row[c] for c in identity) for row in rows.to_pylist()}
    new = [row | source_columns for row in found]
    new = [row for row in new if tuple(row[c] for c in identity) not in known]
    written = {"stage": stage, "computed_at": context.now(), "_run_id": context.run_id}
    if new:
        context.lake.append_arrow(RULE_RESULTS, [row | written for row in new])
