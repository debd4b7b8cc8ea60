"""New calls in the inference log, and new labels, in; the profile, quality and retrieval rows of their days out.

A day is computed anew as a whole when its log has grown or a request of it was labelled; what comes out as it was is
not written. Labels arrive late, so this stage has two sources: how far it has read the labels is part of its counts.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import date, datetime, time, timezone
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.stage import STAGE_RUNS, Context, Counts, Window
from pipelines.stage import due as due_by_log
from transformations.changes import net_changes
from transformations.profile import DEFINITION_ID, profile
from transformations.quality import llm_quality, retrieval_quality

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

log = logging.getLogger(__name__)

COMMAND = "monitor"
LOG, LABELS, CHUNKS = "inference.inference_log", "inference.labels", "gold.chunk_index"
PROFILE = "monitoring.inference_log_profile_metrics"
QUALITY, RETRIEVAL = "monitoring.llm_quality_metrics", "monitoring.retrieval_metrics"
GRANULARITY = "1 day"
_READ_LABELS = "labels_version"
# What says when and from which versions a row was computed does not make it another row.
_PROVENANCE = ("computed_at", "logging_table_commit_version", "source_version_from", "source_version_to")


def due(context: Context) -> Window | None:
    """The versions of the log that have not been monitored; an empty window where only labels are new. Needs no JVM."""
    from pipelines.run import stage_named

    window = due_by_log(stage_named(COMMAND), context)
    if window is not None:
        return window
    calls, labels = context.lake.head(LOG), context.lake.head(LABELS)
    if calls is None or labels is None or labels.version == _labels_read(context):
        return None
    return Window(calls.version, calls.version, calls.table_id)


def run(context: Context, window: Window) -> Counts:
    """Counts: windows computed, rows written to each table, and the version of the labels that was read."""
    lake = context.lake
    for table in (PROFILE, QUALITY, RETRIEVAL):
        lake.ensure(table)
    labels_version = lake.ensure(LABELS).version
    days = _touched_days(context, window, labels_version=labels_version)
    counts = {"windows": len(days), "profile_rows": 0, "quality_rows": 0, "retrieval_rows": 0}
    if days:
        from pyspark.sql import functions as F

        calls = lake.read(LOG, version=window.until).where(F.col("request_date").isin(days))
        labels = lake.read(LABELS, version=labels_version)
        with context.progress.step(COMMAND, total=3) as step:
            rows = profile(
                calls,
                labels=labels,
                granularity=GRANULARITY,
                computed_at=context.now(),
                version_from=window.since,
                version_to=window.until,
            )
            counts["profile_rows"] = _write(context, PROFILE, rows, days=days)
            step.advance()
            counts["quality_rows"] = _write(context, QUALITY, llm_quality(calls, granularity=GRANULARITY), days=days)
            step.advance()
            chunks = _retrieved_chunks(context, calls)
            rows = retrieval_quality(calls, labels=labels, chunks=chunks, granularity=GRANULARITY)
            counts["retrieval_rows"] = _write(context, RETRIEVAL, rows, days=days)
            step.advance()
    return counts | {_READ_LABELS: labels_version}


def _labels_read(context: Context) -> int | None:
    """The version of the labels that the last run of this stage read; None where there was none."""
    runs = context.lake.read_arrow(STAGE_RUNS, columns=["stage", "started_at", "counts"])
    runs = runs.filter(pc.equal(runs["stage"], COMMAND)).sort_by("started_at")
    return dict(runs["counts"][-1].as_py()).get(_READ_LABELS) if runs.num_rows else None


def _touched_days(context: Context, window: Window, *, labels_version: int) -> list[date]:
    """The UTC dates whose log has grown or whose requests were labelled since the last run; all of them at first."""
    from pyspark.sql import functions as F

    lake = context.lake
    calls = lake.read(LOG, version=window.until)
    if window.since is None:
        return [row[0] for row in calls.select("request_date").distinct().sort("request_date").collect()]
    days: set[date] = set()
    if window.since < window.until:
        # The log is only appended to, so a day has changed exactly where it has more rows. It is partitioned by day:
        # this reads no column of it.
        now = calls.groupBy("request_date").count()
        before = lake.read(LOG, version=window.since).groupBy("request_date").agg(F.count("*").alias("_before"))
        grown = now.join(before, "request_date", "left").where("_before IS NULL OR count <> _before")
        days.update(row[0] for row in grown.select("request_date").collect())
    labels_since = _labels_read(context)
    if labels_since != labels_version:
        labels = lake.read(LABELS, version=labels_version)
        if labels_since is not None and labels_since < labels_version:
            labels = labels.exceptAll(lake.read(LABELS, version=labels_since))
        labelled = calls.join(labels.select("request_id").distinct(), "request_id", "left_semi")
        days.update(row[0] for row in labelled.select("request_date").distinct().collect())
    return sorted(days)


def _retrieved_chunks(context: Context, calls: DataFrame) -> DataFrame:
    """chunk_id, path and heading_path of every chunk that was retrieved, also of those that were deleted since.

    A chunk_id stands for the same document and text for ever, so that an old window can be scored against chunks that
    only the change feed remembers. Where the feed is gone, these chunks stay unknown, and are scored as that.
    """
    from pyspark.sql import functions as F

    lake = context.lake
    version = lake.ensure(CHUNKS).version
    columns = ["chunk_id", "path", "heading_path"]
    needed = calls.select(F.explode("retrieved.chunk_id").alias("chunk_id")).distinct()
    known = lake.read(CHUNKS, version=version).select(*columns)
    # One small row a chunk: kept here, so that Spark does not look them up again at every use.
    found = needed.join(known, "chunk_id", "left").toArrow()
    missing = found.filter(pc.is_null(found["path"]))
    if missing.num_rows:
        try:
            feed = lake.read_changes(CHUNKS, after=-1, until=version).select(*columns)
            gone = feed.join(lake.spark.createDataFrame(missing.select(["chunk_id"])), "chunk_id", "left_semi")
            found = pa.concat_tables([found, gone.dropDuplicates(["chunk_id"]).toArrow().cast(found.schema)])
        except Exception as error:  # whatever the feed's files lack: a metric over fewer rows is better than none
            log.warning("monitor: the history of %s is gone; deleted chunks are not scored (%s)", CHUNKS, error)
    # Rows, not Arrow: Spark refuses an Arrow table that has no rows.
    rows = found.filter(pc.is_valid(found["path"])).to_pylist()
    return lake.spark.createDataFrame(rows, "chunk_id STRING, path STRING, heading_path ARRAY<STRING>")


def _write(context: Context, table: str, rows: DataFrame, *, days: Sequence[date]) -> int:
    """Make the rows of these days in `table` equal to `rows`. Returns how many rows that took."""
    from pyspark.sql import functions as F

    spec = context.lake.spec(table)
    starts = [datetime.combine(day, time(), tzinfo=timezone.utc) for day in days]
    current = context.lake.read(table).where(F.col("window.start").isin(starts) & (F.col("granularity") == GRANULARITY))
    if "definition_id" in spec.key:
        current = current.where(F.col("definition_id") == DEFINITION_ID)
    compare = [c for c in spec.columns if c not in spec.key and c not in _PROVENANCE]
    # Fields of structs are compared null-safe, so a key of several columns, some of them null, is a key of one.
    key = F.struct(*spec.key)
    net = net_changes(current.withColumn("_group", key), rows.withColumn("_group", key), key="_group", compare=compare)
    columns = [F.col(f"_group.{c}").alias(c) if c in spec.key else F.col(c) for c in spec.columns]
    changes = net.select(*columns, "_op").toArrow()
    if changes.num_rows == 0:
        return 0
    if pc.all(pc.equal(changes["_op"], "insert")).as_py():
        context.lake.append_arrow(table, changes.drop_columns(["_op"]).cast(spec.schema))  # seconds less than a MERGE
    else:
        context.lake.merge(table, context.lake.spark.createDataFrame(changes))
    return int(changes.num_rows)
