"""Arrivals of bronze.records_NAME in; the records as they are now, as they were, and those that are refused, out.

silver.records_NAME is what is open in silver.records_NAME_history, which is built from every change that keeps the
contract, late ones in their place (transformations/history.py). What breaks it is in silver.records_NAME_quarantine.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipelines.lakehouse import FEW_ROWS
from pipelines.quality import judge
from pipelines.records import RecordSource, evolved, follow, record_source
from pipelines.silver.set_aside import set_aside
from pipelines.stage import Context, Counts, Window, apply_changes
from transformations.changes import net_changes
from transformations.history import history, history_changes
from transformations.records import recovered

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

COMMAND = "refine-records"


def run(context: Context, window: Window) -> Counts:
    """Counts: records insert, update, delete (now), intervals (written to the history), set_aside.

    Raises:
        ExpectationFailedError: a rule of level fail is broken; nothing was written.
    """
    lake = context.lake
    source = evolved(lake, record_source(context.settings, next(iter(context.settings.records))))
    for table in (source.silver, source.history):
        follow(lake, table)
    columns = source.contract.columns
    with context.progress.step(COMMAND):
        arrivals = _arrivals(context, source, window)
        is_text = source.settings.format in ("csv", "json", "kafka")
        rows = recovered(arrivals, columns=columns, readings=source.settings.readings, is_text=is_text)
        rows = _identified(rows, source)
        judged = judge(
            context,
            source.silver,
            rows,
            rules=source.contract.rules,
            window=window,
            source=source.bronze,
            stage=COMMAND,
            key="record_id",
        )
        ids = judged.valid.select("record_id").union(judged.refused.select("record_id"))
        _set_aside(context, source, judged.refused, scope=ids, count=judged.refused_rows, window=window)
        changes = _changes(source, judged.valid)
        told = _history_changes(context, source, changes, window=window).persist()
        context.persisted.append(told)
        intervals = apply_changes(context, source.history, told)
        counts = _bring_now(context, source, changes, window=window)
        return {**counts, "intervals": sum(intervals.values()), "set_aside": judged.refused_rows}


def _arrivals(context: Context, source: RecordSource, window: Window) -> DataFrame:
    """The rows of bronze that the window brought; all, where it says so."""
    lake = context.lake
    if window.since is None:
        return lake.read(source.bronze, version=window.until)
    feed = lake.read_changes(source.bronze, after=window.since, until=window.until)
    return feed.where("_change_type = 'insert'").drop("_change_type", "_commit_version", "_commit_timestamp")


def _identified(rows: DataFrame, source: RecordSource) -> DataFrame:
    """Add what the quarantine tells rows apart by.

    `record_id` is one change: the key and what orders it, so that the same change, repaired, closes its row. What has
    no whole key is told apart by all that it says.
    """
    from pyspark.sql import functions as F

    said = F.to_json(F.struct(*source.contract.columns, "_op", "_rescued"))
    which = [*source.settings.key, *source.settings.order_by]
    has_all = F.lit(True)
    for column in which:
        has_all = has_all & F.col(column).isNotNull()
    change = F.when(has_all, F.to_json(F.struct(*which))).otherwise(said)
    return rows.withColumn("record_id", F.sha2(change, 256).substr(1, 32))


def _set_aside(
    context: Context, source: RecordSource, refused: DataFrame, *, scope: DataFrame, count: int, window: Window
) -> None:
    """Tell the quarantine of the refused rows, the last one of each change."""
    from pyspark.sql import functions as F

    rescued = "_rescued"
    reason = F.coalesce(
        F.get_json_object(rescued, "$.hint"),
        F.concat(F.lit("unreadable: "), F.substring(F.get_json_object(rescued, "$.unreadable"), 1, 300)),
        F.concat(F.lit("wrong type: "), F.substring(F.get_json_object(rescued, "$.wrong_type"), 1, 300)),
        F.concat(F.lit("unknown: "), F.substring(F.get_json_object(rescued, "$.unknown"), 1, 300)),
        F.concat(F.lit("missing: "), F.get_json_object(rescued, "$.missing")),
    )
    told = refused.withColumn("record", F.to_json(F.struct(*source.contract.columns, "_op", "_rescued")))
    # Refused for other rules is another refusal.
    told = told.withColumns({"reason": reason, "content_hash": F.sha2(F.concat_ws("|", "record", "failed_rules"), 256)})
    place = F.struct("_ingested_at", "_source_version", "_offset", "content_hash")
    last = told.groupBy("record_id").agg(F.max_by(F.struct(*told.columns), place).alias("_row")).select("_row.*")
    set_aside(
        context,
        source.quarantine,
        last,
        scope=scope,
        window=window,
        same="content_hash",
        count=count,
        scope_key="record_id",
    )


def _changes(source: RecordSource, valid: DataFrame) -> DataFrame:
    """Valid rows as the change set of a history: the columns of its table but the intervals, and `_op`."""
    from pyspark.sql import functions as F

    carried = ["_changed_at", "_ingested_at", "_run_id"]
    ordered = [] if source.settings.order_by else ["_source_version", "_offset"]
    known = [F.coalesce(c, F.lit(-1)).cast("bigint").alias(c) for c in ordered]
    return valid.select(*source.contract.columns, *known, *carried, "_op")


def _history_changes(context: Context, source: RecordSource, changes: DataFrame, *, window: Window) -> DataFrame:
    """What the changes make of the history; all of it is compared where the window is everything."""
    from pyspark.sql import functions as F

    lake, key = context.lake, list(source.settings.key)
    order_by, then_by, compare = source.order_by, source.then_by, source.compared
    if window.since is None:
        desired = history(changes, key=key, order_by=order_by, compare=compare, then_by=then_by)
        same = [*compare, *then_by, "valid_to", "is_current", "_marks"]
        told = net_changes(lake.read(source.history), desired, key=[*key, "valid_from"], compare=same)
    else:
        before = _of_keys(context, source, source.history, changes)
        told = history_changes(before, changes, key=key, order_by=order_by, compare=compare, then_by=then_by)
    told = told.select(*lake.spec(source.history).columns, "_op")
    if not source.settings.order_by:
        # Nothing arrives late by its own arrival, so that a record that came again as it was needs no mark.
        told = told.where(~((F.col("_op") == "insert") & F.col("_marks").eqNullSafe("repeat")))
    return told.withColumn("_run_id", F.lit(context.run_id))


def _bring_now(context: Context, source: RecordSource, changes: DataFrame, *, window: Window) -> dict[str, int]:
    """Make the current table what was said last of each key that has changes, deletes left out.

    That is what is open in the history; where a record came again and only its order moved, the last of them.
    """
    from pyspark.sql import functions as F

    lake, key = context.lake, list(source.settings.key)
    columns = lake.spec(source.silver).columns
    if window.since is None:
        was, now = lake.read(source.silver), lake.read(source.history)
    else:
        was = _of_keys(context, source, source.silver, changes)
        now = _of_keys(context, source, source.history, changes)
    last = now.groupBy(*key).agg(F.max_by(F.struct(*now.columns), "valid_from").alias("_row")).select("_row.*")
    desired = last.where("NOT _marks <=> 'delete'").select(*columns)
    same = [c for c in source.contract.columns if c not in key]
    return apply_changes(context, source.silver, net_changes(was, desired, key=key, compare=same or key))


def _of_keys(context: Context, source: RecordSource, table: str, changes: DataFrame) -> DataFrame:
    """The rows of a table whose keys are among those of the changes."""
    from pyspark.sql import functions as F

    key = list(source.settings.key)
    keys = changes.select(*key).distinct()
    first: Sequence[object] = [row[0] for row in keys.select(key[0]).distinct().limit(FEW_ROWS + 1).collect()]
    rows = context.lake.read(table)
    if len(first) <= FEW_ROWS:  # few enough to pass over files by their statistics
        few: Column = F.col(key[0]).isin(list(first)) if first else F.lit(False)
        rows = rows.where(few)
    return rows.join(F.broadcast(keys) if len(first) <= FEW_ROWS else keys, key, "left_semi")
