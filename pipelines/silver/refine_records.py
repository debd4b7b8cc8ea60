"""refine-records: bronze.records_NAME → silver.records_NAME (now), its history and its quarantine.

silver.records_NAME_history is built from all changes that keep the contract; a late change is put where it belongs in
time (transformations/tables/history.py). silver.records_NAME has the last row of each key in the history, unless that
is a delete. Records that break the contract are in silver.records_NAME_quarantine.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipelines.flow.changed_rows import apply_changes
from pipelines.flow.stage import Context, Counts, Stage, Versions, Work, moved
from pipelines.flow.states import STAGE_RUNS
from pipelines.quality.split import Judged, Split
from pipelines.records.source import (
    ARRIVAL,
    RecordSource,
    are_there,
    evolved,
    follow,
    of_keys,
    refining,
    source_subjects,
    write_anew,
)
from transformations.tables.canonical import said_hash, values_hash
from transformations.tables.changes import net_changes
from transformations.tables.history import history, history_changes
from transformations.tables.records import INSTANT_AS_JSON, recovered

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

log = logging.getLogger(__name__)
COMMAND = "refine-records"
_PLACE = frozenset(name for name, _ in ARRIVAL)
# The columns of bronze that say which of two arrivals is the later one.
ORDER = ("_ingested_at", "_source_version", "_offset")


def look(context: Context) -> Work | None:
    """The arrivals of the source that were not read yet."""
    return moved(STAGE, context)


def work(context: Context, due: Work) -> Counts:
    """Refine the arrivals. Counts: records insert, update, delete (in the table of now), intervals (rows of the history
    that changed), set_aside.

    Raises:
        ExpectationFailedError: a rule of level fail is broken; nothing was written.
        ConfigurationError: a column's type cannot become that of the contract (see `follow`).
    """
    lake, versions = context.lake, due.first
    source = evolved(lake, context.about(RecordSource))
    is_rebuilt = versions.since is None and _has_another_key(context, source)
    if not is_rebuilt:
        for table in (source.silver, source.history):
            follow(lake, table)
    with context.progress.step(COMMAND):
        arrivals = _arrivals(context, source, versions)
        rows, gone = records_of(source, arrivals, earlier=_earlier(context, source, arrivals))
        judged = _split(source).judge(context, rows, rules=source.contract.rules, versions=versions)
        ids = judged.valid.select("_record_id").union(judged.refused.select("_record_id")).union(gone)
        ids = ids.withColumnRenamed("_record_id", "record_id")
        set_aside = _set_aside(context, source, judged, scope=ids, versions=versions)
        changes = changes_of(source, judged.valid)
        if is_rebuilt:
            counts = _rebuild(context, source, changes)
            return {**counts, "set_aside": set_aside}
        found = _history_changes(context, source, changes, versions=versions)
        history_rows = context.frames.hold(found, is_repeatable=True)
        intervals = apply_changes(context, source.history, history_rows)
        counts = _bring_now(context, source, changes, versions=versions)
        return {**counts, "intervals": sum(intervals.values()), "set_aside": set_aside}


def _split(source: RecordSource) -> Split:
    return Split(
        COMMAND,
        source.bronze,
        source.silver,
        source.quarantine,
        key="_record_id",
        same=("content_hash",),
        scope="record_id",
        is_repeatable=True,
    )


def _arrivals(context: Context, source: RecordSource, versions: Versions) -> DataFrame:
    """The rows that these versions added to bronze; all rows if `versions.since` is None."""
    lake = context.lake
    if versions.since is None:
        return lake.read(source.bronze, version=versions.until)
    feed = lake.read_changes(source.bronze, after=versions.since, until=versions.until)
    return feed.where("_change_type = 'insert'").drop("_change_type", "_commit_version", "_commit_timestamp")


def records_of(
    source: RecordSource, arrivals: DataFrame, *, earlier: Mapping[str, Sequence[str]] | None = None
) -> tuple[DataFrame, DataFrame]:
    """Arrivals read under the contract, with `_record_id`, before any rule has judged them; see `_without_ended`.

    Args:
        earlier: for a column that was renamed, the columns of bronze that hold its values under earlier names.
    """
    is_text = source.settings.format in ("csv", "json", "kafka")
    rows = recovered(
        arrivals,
        columns=source.contract.columns,
        readings=source.settings.readings,
        is_text=is_text,
        earlier=earlier,
    )
    return _without_ended(_identified(rows, source), source)


def _identified(rows: DataFrame, source: RecordSource) -> DataFrame:
    """Add `_record_id`, by which the quarantine identifies a change.

    It is a hash of the key and `order_by`, so that the same change, if it arrives repaired, closes its row in the
    quarantine. If one of these columns is null, it is a hash of the whole record. This includes `_op`, except for a
    Delta table, in which a row has the same id when it is added and when it is deleted.
    """
    from pyspark.sql import functions as F

    which = [*source.settings.key, *source.settings.order_by]
    all_of_it = [*source.contract.columns, "_rescued", *([] if source.settings.format == "delta" else ["_op"])]
    change = F.when(are_there(which), values_hash(rows, which)).otherwise(said_hash(rows, all_of_it))
    return rows.withColumn("_record_id", change.substr(1, 32))


def _without_ended(rows: DataFrame, source: RecordSource) -> tuple[DataFrame, DataFrame]:
    """Leave out the rows of a Delta table with a null in their key that the table no longer has, and their deletes.

    Such rows are set aside as long as the table has them, and belong to no key that their end could change. Returns the
    other rows, and the `_record_id` of the rows that are gone. For other sources, all rows are returned.
    """
    from pyspark.sql import Window as Over
    from pyspark.sql import functions as F

    if source.settings.format != "delta":
        return rows, rows.select("_record_id").limit(0)
    has_key = are_there(source.settings.key)
    place = F.struct("_changed_at", "_source_version", "_offset")
    without = rows.where(~has_key)
    last = F.max_by("_op", place).over(Over.partitionBy("_record_id"))
    without = without.withColumn("_last", last).withColumn("_is_gone", F.col("_last") == "delete")
    gone = without.where("_is_gone").select("_record_id")
    still = without.where("NOT _is_gone AND _op <> 'delete'").drop("_last", "_is_gone")
    return rows.where(has_key).unionByName(still), gone


def _set_aside(context: Context, source: RecordSource, judged: Judged, *, scope: DataFrame, versions: Versions) -> int:
    """Bring the quarantine up to date. Returns how many refused records wait for repair."""
    rows = still_refused(source, judged.valid, judged.refused)
    count = 0
    if judged.refused_rows:
        rows = context.frames.hold(rows, is_repeatable=True)
        count = rows.count()
    _split(source).set_aside(context, rows, count=count, scope=scope, versions=versions)
    return count


def still_refused(source: RecordSource, valid: DataFrame, refused: DataFrame) -> DataFrame:
    """The rows of the quarantine for refused records: of each `_record_id` the last one.

    A record that arrived valid after that is left out: it is repaired, though both arrived in one delivery. Rows that
    a Delta table has side by side in one version have no order: there, the refused one stays.
    """
    from pyspark.sql import functions as F

    repaired = valid.groupBy(F.col("_record_id").alias("record_id")).agg(F.max(F.struct(*ORDER)).alias("_repaired_at"))
    rows = _last_refused(source, refused).join(repaired, "record_id", "left")
    is_open = F.col("_repaired_at").isNull() | (F.col("_repaired_at") <= F.struct(*ORDER))
    return rows.where(is_open).drop("_repaired_at")


def _last_refused(source: RecordSource, refused: DataFrame) -> DataFrame:
    from pyspark.sql import functions as F

    rescued = "_rescued"
    reason = F.coalesce(
        F.get_json_object(rescued, "$.hint"),
        F.concat(F.lit("unreadable: "), F.substring(F.get_json_object(rescued, "$.unreadable"), 1, 300)),
        F.concat(F.lit("wrong type: "), F.substring(F.get_json_object(rescued, "$.wrong_type"), 1, 300)),
        F.concat(F.lit("unknown: "), F.substring(F.get_json_object(rescued, "$.unknown"), 1, 300)),
        F.concat(F.lit("missing: "), F.get_json_object(rescued, "$.missing")),
    )
    recorded = [*source.contract.columns, "_op", "_rescued"]
    place = [c for c in source.specs()[source.quarantine].columns if c in _PLACE]
    rows = refused.select(
        F.col("_record_id").alias("record_id"),
        F.to_json(F.struct(*recorded), {"timestampFormat": INSTANT_AS_JSON}).alias("record"),
        "failed_rules",
        reason.alias("reason"),
        # With the rules: the same record refused by other rules is another refusal.
        said_hash(refused, [*recorded, "failed_rules"]).alias("content_hash"),
        *place,
    )
    rank = F.struct(*ORDER, "content_hash")
    return rows.groupBy("record_id").agg(F.max_by(F.struct(*rows.columns), rank).alias("_row")).select("_row.*")


def changes_of(source: RecordSource, valid: DataFrame) -> DataFrame:
    """Valid rows as changes for the history: the columns of the history except the intervals, and `_op`."""
    from pyspark.sql import functions as F

    carried = ["_changed_at", "_ingested_at", "_run_id"]
    ordered = [] if source.settings.order_by else ["_source_version", "_offset"]
    known = [F.coalesce(c, F.lit(-1)).cast("bigint").alias(c) for c in ordered]
    return valid.select(*source.contract.columns, *known, *carried, "_op")


def _history_changes(context: Context, source: RecordSource, changes: DataFrame, *, versions: Versions) -> DataFrame:
    """The net changes of the history; if `versions.since` is None, the whole history is computed and compared."""
    from pyspark.sql import functions as F

    lake, key = context.lake, list(source.settings.key)
    order_by, then_by, compare = source.order_by, source.then_by, source.compared
    if versions.since is None:
        desired = history(changes, key=key, order_by=order_by, compare=compare, then_by=then_by)
        same = [*compare, *then_by, "valid_to", "is_current", "_marks"]
        found = net_changes(lake.read(source.history), desired, key=[*key, "valid_from"], compare=same)
    else:
        before = of_keys(lake.read(source.history), changes, key=key)
        found = history_changes(before, changes, key=key, order_by=order_by, compare=compare, then_by=then_by)
    found = found.select(*lake.spec(source.history).columns, "_op")
    found = found.where((F.col("_op") != "insert") | is_needed(source))
    return found.withColumn("_run_id", F.lit(context.run_id))


def is_needed(source: RecordSource) -> Column:
    """True for a row of the history that the table must keep.

    Without `order_by`, records are ordered by their arrival, and none can arrive late. Then the mark of a record that
    was repeated unchanged is not needed.
    """
    from pyspark.sql import functions as F

    return F.lit(True) if source.settings.order_by else ~F.col("_marks").eqNullSafe("repeat")


def _has_another_key(context: Context, source: RecordSource) -> bool:
    """Whether the tables were made with another key or order than the settings have now, or with an unknown one."""
    head = context.lake.head(source.silver)
    if head is None or head.version == 0:
        return False
    state = STAGE.state(context)
    if state is None or all(mark.table_id != head.table_id for mark in state.targets):
        return True
    was = _refining(state.definition)
    return (was["key"], was["order_by"]) != (list(source.settings.key), list(source.settings.order_by))


def _refining(definition: str) -> dict[str, Any]:
    """The settings (see `refining`) that a definition of this stage contains."""
    said: dict[str, Any] = json.loads(definition.partition(" ")[2])
    return said


def _earlier(context: Context, source: RecordSource, arrivals: DataFrame) -> dict[str, list[str]]:
    """Columns that were renamed in lakeloop.yml: name → columns of bronze that were read from the same source column.

    Earlier arrivals have their values there. A column of bronze that was read from several source columns is not used.
    The key of a Delta table is left out: if it is renamed, the whole table is read again.
    """
    declared = {name.lower() for name in source.settings.columns} | _PLACE
    others = [c for c in arrivals.columns if c.lower() not in declared]
    head = context.lake.head(source.bronze)
    if not others or head is None:
        return {}
    called: dict[str, set[str]] = {c.lower(): set() for c in others}
    runs = context.lake.read_arrow(STAGE_RUNS, columns=["definition", "source_id"], where={"stage": COMMAND})
    for definition in {row["definition"] for row in runs.to_pylist() if row["source_id"] == head.table_id}:
        made = _refining(definition)
        for name, column in made["columns"].items():
            called.setdefault(name.lower(), set()).add((column["source"] or name).lower())
    earlier = {
        name: [c for c in others if (called[c.lower()] or {c.lower()}) == {(column.source or name).lower()}]
        for name, column in source.settings.columns.items()
        if not (source.settings.format == "delta" and name in source.settings.key)
    }
    return {name: found for name, found in earlier.items() if found}


def _rebuild(context: Context, source: RecordSource, changes: DataFrame) -> dict[str, int]:
    """Replace the history and the table of now by what the changes give. Their old rows have other keys."""
    from pyspark.sql import functions as F

    lake, key = context.lake, list(source.settings.key)
    log.warning(
        "%s: the key or the order of %s is another one than its tables were made by; they are written anew",
        COMMAND,
        source.name,
    )
    rows = history(changes, key=key, order_by=source.order_by, compare=source.compared, then_by=source.then_by)
    rows = rows.where(is_needed(source)).withColumn("_run_id", F.lit(context.run_id))
    rows = context.frames.hold(rows, is_repeatable=True)
    lake.create(source.history)
    write_anew(lake, source.history, rows.select(*lake.spec(source.history).columns))
    now = last_of(rows, key=key).select(*lake.spec(source.silver).columns)
    write_anew(lake, source.silver, now)
    return {"insert": now.count(), "update": 0, "delete": 0, "intervals": rows.count()}


def last_of(rows: DataFrame, *, key: list[str]) -> DataFrame:
    """The last row of each key in a history, without keys whose last row is a delete."""
    from pyspark.sql import functions as F

    last = rows.groupBy(*key).agg(F.max_by(F.struct(*rows.columns), "valid_from").alias("_row")).select("_row.*")
    return last.where("NOT _marks <=> 'delete'")


def _bring_now(context: Context, source: RecordSource, changes: DataFrame, *, versions: Versions) -> dict[str, int]:
    """Make the table of now equal to the last row of the history, for each key that has changes. Returns the counts.

    A key whose last row is a delete is removed. If a record was repeated unchanged, the last repetition counts.
    """
    lake, key = context.lake, list(source.settings.key)
    columns = lake.spec(source.silver).columns
    if versions.since is None:
        was, now = lake.read(source.silver), lake.read(source.history)
    else:
        was = of_keys(lake.read(source.silver), changes, key=key)
        now = of_keys(lake.read(source.history), changes, key=key)
    desired = last_of(now, key=key).select(*columns)
    same = [c for c in source.contract.columns if c not in key]
    return apply_changes(context, source.silver, net_changes(was, desired, key=key, compare=same or key))


STAGE = Stage(
    COMMAND,
    "bronze.records_* → silver.records_*, their history and their quarantine.",
    look,
    work,
    sources=("bronze.records_*",),
    targets=("silver.records_*", "silver.records_*_history", "silver.records_*_quarantine"),
    code_version=5,
    decided_by=lambda context: refining(context.about(RecordSource).settings),
    subjects=source_subjects,
)
