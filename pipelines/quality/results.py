"""Shows the last results of every rule, and validates the stored tables."""

from __future__ import annotations

from typing import Any

from expectations.rules.rules import with_failed_rules
from expectations.rules.table_rules import judge_table
from expectations.tables.stored import TableExpectations, table_expectations
from pipelines.flow.stage import Context, Versions
from pipelines.lakehouse.selection import LastOf
from pipelines.lakehouse.tables import Head, Lakehouse
from pipelines.models.embedders import chunk_limits
from pipelines.quality.data_docs import page_of, validate
from pipelines.quality.quarantine import waiting
from pipelines.quality.rule_results import OF_ONE_RULE, RULE_RESULTS, record, row_results
from transformations.errors import LakeloopError


def describe(context: Context) -> tuple[dict[str, Any], str]:
    """The last results as a dictionary, and the same as text. Needs no JVM if tables are folders."""
    settings = context.settings
    results = last_results(context.lake)
    aside = {table: count for table, count in waiting(context).items() if table != RULE_RESULTS}
    page = page_of(settings.path(settings.quality))
    failed = [f"{r['table_name']}: {r['rule']}" for r in results if r["level"] == "fail" and not r["is_kept"]]
    facts = {
        "results": results,
        "failed": failed,
        "quarantine": aside,
        "data_docs": str(page) if page.is_file() else None,
    }
    lines = [_line(result) for result in results] or ["no rule has been judged yet: lakeloop run"]
    lines += [f"{table}: {count} set aside; why, and what to do: lakeloop quarantine" for table, count in aside.items()]
    lines += [f"BROKEN, level fail: {name}" for name in failed]
    lines.append(f"Data Docs: {page}" if page.is_file() else "Data Docs: none yet; lakeloop quality --validate")
    return facts, "\n".join(lines)


def last_results(lake: Lakehouse) -> list[dict[str, Any]]:
    """The newest row of monitoring.rule_results for each table, rule and stage, in that order."""
    rows = lake.read_arrow(RULE_RESULTS, which=LastOf(OF_ONE_RULE, by="computed_at")).to_pylist()
    return sorted(rows, key=lambda row: [row[column] for column in OF_ONE_RULE])


def validate_tables(context: Context) -> dict[str, int]:
    """Judge every existing table as a whole, record the results, and build the Data Docs.

    Returns:
        Table → the number of rules that are broken.

    Raises:
        MissingDependencyError: Great Expectations is not installed.
        LakeloopError: Great Expectations and our own evaluation of the same rules disagree.
    """
    lake, settings = context.lake, context.settings
    max_tokens, max_characters = chunk_limits(settings)
    expected = table_expectations(max_tokens=max_tokens, max_characters=max_characters)
    found = {}
    for table, expectations in expected.items():
        head = lake.head(table)
        if head is not None and all(lake.head(r.other) for r in expectations.table_rules if r.other):
            found[table] = _validate(context, table, expectations, head)
    return found


def _validate(context: Context, table: str, expectations: TableExpectations, head: Head) -> int:
    from pyspark.sql import functions as F

    lake, rules = context.lake, expectations.rules
    others = {rule.other for rule in expectations.table_rules if rule.other}
    rows = context.frames.hold(lake.read(table, version=head.version))
    try:
        judged = with_failed_rules(rows, rules=rules, table=table)
        breaks = [F.count_if(F.array_contains("failed_rules", rule.name)) for rule in rules]
        counted = judged.agg(F.count("*"), *breaks).first()
        assert counted is not None
        checked, *by_rule = counted
        results = row_results(table, rules, checked, dict(zip([r.name for r in rules], by_rule, strict=True)))
        for verdict in judge_table(
            rows,
            rules=expectations.table_rules,
            now=context.now(),
            others={other: lake.read(other) for other in others},
            table=table,
        ):
            results.append(
                {
                    "table_name": table,
                    "rule": verdict.rule.name,
                    "kind": verdict.rule.kind,
                    "level": verdict.rule.level,
                    "definition_id": verdict.rule.definition_id,
                    "is_kept": verdict.is_kept,
                    "checked_rows": verdict.checked_rows,
                    "failed_rows": verdict.failed_rows,
                    "failed_ratio": verdict.failed_rows / verdict.checked_rows if verdict.checked_rows else None,
                    "value": verdict.value,
                }
            )
        theirs = validate(
            context.settings.path(context.settings.quality),
            table,
            rows,
            expectations=expectations,
            others={other: lake.identifier(other) for other in others},
        )
    finally:
        context.frames.release(rows)
    broken = {row["rule"] for row in results if not row["is_kept"]}
    if broken != {rule for rule, count in theirs.items() if count}:
        raise LakeloopError(
            f"two judges of {table} disagree: our own finds {sorted(broken) or 'nothing'} broken, Great Expectations "
            f"{sorted(r for r, n in theirs.items() if n) or 'nothing'}. Was the table written meanwhile? Run again."
        )
    record(context, results, versions=Versions(None, head.version, head.table_id), source=table, stage="quality")
    return len(broken)


def _line(result: dict[str, Any]) -> str:
    state = "kept" if result["is_kept"] else result["level"]
    if result["kind"] in ("row", "unique", "references"):
        counted = f"{result['failed_rows']} of {result['checked_rows']} rows break it"
    else:
        counted = (
            f"{'nothing' if result['value'] is None else round(result['value'], 4)} of {result['checked_rows']} rows"
        )
    return (
        f"{state:<10} {result['table_name']:<18} {result['rule']:<22} {counted:<28} "
        f"{result['stage']}, {result['computed_at']:%Y-%m-%d %H:%M:%S} UTC"
    )
