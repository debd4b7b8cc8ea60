"""Rows and their rules in; valid and refused rows, judged once, and the counts in monitoring.quality_metrics, out.

How a stage uses it:

    judged = judge(context, TARGET, rows, rules=RULES, versions=versions, source=SOURCE, stage=COMMAND, key=KEY)
    set_aside(context, QUARANTINE, judged.refused, count=judged.refused_rows, scope=keys, versions=versions, same=…)
    desired = judged.valid …

The one action in `judge` counts everything, and the judged rows stay persisted until the stage ends: the caller neither
persists its rows nor counts the refused ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc

from expectations.rules.rules import Rule, is_refused, judged_sides, with_failed_rules
from pipelines.flow.stage import Context, Versions
from transformations.errors import ConfigurationError, ExpectationFailedError

if TYPE_CHECKING:
    from pyspark.errors import PySparkException
    from pyspark.sql import DataFrame

QUALITY_METRICS = "monitoring.quality_metrics"
_SHOWN_KEYS = 5


@dataclass(frozen=True)
class Judged:
    """The two sides of a split, and what was counted; `broken` is rule → rows that break it."""

    valid: DataFrame
    refused: DataFrame
    checked_rows: int
    refused_rows: int
    broken: Mapping[str, int]


def judge(
    context: Context,
    table: str,
    rows: DataFrame,
    *,
    rules: Sequence[Rule],
    versions: Versions,
    source: str,
    stage: str,
    key: str,
) -> Judged:
    """Judge the rows that a stage is about to write into `table`.

    The counts are recorded first, one row a rule; the same counts of the same versions are recorded once, and nothing
    is where no row was judged.

    Args:
        source: the table that `versions` are of.
        key: the column whose values name a few broken rows in the error.

    Raises:
        ExpectationFailedError: a row breaks a rule of level fail. Nothing but the counts was written.
        ConfigurationError: a rule cannot be judged of these rows, as in `expectations.rules.rules.check_rules`, or of
            one of them: its predicate raises where another would be null.
    """
    from pyspark.errors import PySparkException
    from pyspark.sql import functions as F

    judged = with_failed_rules(rows, rules=rules, table=table).persist()
    context.persisted.append(judged)
    try:
        checked_rows, refused_rows, broken = _counted(judged, rules)
    except PySparkException as error:
        raise _unjudgeable(error, rows, rules=rules, table=table) from None
    if checked_rows:
        found = row_results(table, rules, checked_rows, broken)
        record(context, found, versions=versions, source=source, stage=stage)
    for rule in rules:
        if rule.level == "fail" and broken[rule.name]:
            which = judged.where(F.array_contains("failed_rules", rule.name)).select(key).limit(_SHOWN_KEYS)
            shown = ", ".join(repr(row[key]) for row in which.collect())
            raise ExpectationFailedError(
                f"{stage}: rule {rule.name!r} (level fail) is broken by {broken[rule.name]} of {checked_rows} rows for "
                f"{table}, {key} {shown}. Nothing was written to {table}. Repair the rows in {source or 'the source'} "
                "and run again; the counts are in monitoring.quality_metrics (lakeloop quality)."
            )
    valid, refused = judged_sides(judged, rules=rules)
    return Judged(valid, refused, checked_rows, refused_rows, broken)


def _counted(judged: DataFrame, rules: Sequence[Rule]) -> tuple[int, int, dict[str, int]]:
    """All rows, refused rows, and rule → rows that break it, in one action."""
    from pyspark.sql import functions as F

    # One list of words a row, and no column a rule: a table of 5,000 columns has as many rules.
    words = F.concat(
        F.array(F.lit("*")), F.when(is_refused(rules), F.array(F.lit("!"))).otherwise(F.array()), "failed_rules"
    )
    counted = {row[0]: row[1] for row in judged.select(F.explode(words)).groupBy("col").count().collect()}
    return counted.get("*", 0), counted.get("!", 0), {rule.name: counted.get(rule.name, 0) for rule in rules}


def _unjudgeable(error: PySparkException, rows: DataFrame, *, rules: Sequence[Rule], table: str) -> Exception:
    """An error that names the rule whose predicate raises; `error` itself where it is not for a rule's sake."""
    if not (error.getSqlState() or "").startswith("22"):  # a data exception: a cast, a division, an overflow
        return error
    raising = [rule for rule in rules if _raises(rows, rule)]
    if len(raising) in (0, len(rules)) and len(rules) > 1:
        return error
    message = " ".join((error.getMessage() or str(error)).split("SQLSTATE")[0].split())
    return ConfigurationError(
        f"rule {raising[0].name!r} cannot be judged of every row for {table}: {message} Nothing was written. A "
        "predicate must not raise: write try_cast, try_divide and the like, whose null breaks the rule."
    )


def _raises(rows: DataFrame, rule: Rule) -> bool:
    from pyspark.errors import PySparkException

    try:
        rows.where(rule.column).count()
    except PySparkException:
        return True
    return False


def row_results(
    table: str, rules: Sequence[Rule], checked_rows: int, broken: Mapping[str, int]
) -> list[dict[str, Any]]:
    """The columns of monitoring.quality_metrics that tell of a rule; `broken` is rule → rows that break it."""
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
    """Append results to monitoring.quality_metrics, but for those that it has already: running twice changes nothing.

    Args:
        found: as `row_results` gives them.
    """
    whence = {
        "source_table": source,
        "source_id": versions.table_id,
        "source_version_from": versions.since,
        "source_version_to": versions.until,
    }
    told = ("table_name", "rule", "definition_id", "level", "checked_rows", "failed_rows", "is_kept")
    same = (*told, *whence)
    tables = {row["table_name"] for row in found}
    known = set()
    for table in tables:
        rows = context.lake.read_arrow(QUALITY_METRICS, columns=list(same), where={"table_name": table})
        rows = rows.filter(pc.equal(rows["source_version_to"], versions.until))
        known |= {tuple(row[c] for c in same) for row in rows.to_pylist()}
    new = [row | whence for row in found]
    new = [row for row in new if tuple(row[c] for c in same) not in known]
    written = {"stage": stage, "computed_at": context.now(), "_run_id": context.run_id}
    if new:
        context.lake.append_arrow(QUALITY_METRICS, [row | written for row in new])
