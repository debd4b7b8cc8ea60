"""monitor: computes the profile, quality and retrieval metrics of days with new calls or new labels.

If the log of a day has grown, or one of its requests was labelled, the whole day is computed again; only rows that
differ are written. Labels arrive late, so the log and the labels are two sources, and each has its own version.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import date, datetime, time, timezone
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.flow.changed_rows import apply_changes
from pipelines.flow.stage import Context, Counts, Stage, Versions, Work, moved
from transformations.metrics.answer_metrics import llm_quality, retrieval_quality
from transformations.metrics.profile import DEFINITION_ID, profile
from transformations.tables.changes import net_changes

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

log = logging.getLogger(__name__)

COMMAND = "monitor"
LOG, LABELS, CHUNKS = "inference.inference_log", "inference.labels", "gold.chunk_index"
PROFILE = "monitoring.inference_log_profile_metrics"
QUALITY, RETRIEVAL = "monitoring.llm_quality_metrics", "monitoring.retrieval_metrics"
GRANULARITY = "1 day"
# Columns that say when and from which versions a row was computed; they are not compared.
_PROVENANCE = ("computed_at", "logging_table_commit_version", "source_version_from", "source_version_to")


def look(context: Context) -> Work | None:
    """The versions of the log and of the labels that were not read yet."""
    return moved(STAGE, context)


def work(context: Context, due: Work) -> Counts:
    """Compute the days that changed. Counts: windows (days) computed, and rows written to each table."""
    versions, labels_read = due.versions
    lake = context.lake
    for table in (PROFILE, QUALITY, RETRIEVAL):
        lake.create(table)
    lake.create(LABELS)
    days = _touched_days(context, versions, labels_read)
    counts = {"windows": len(days), "profile_rows": 0, "quality_rows": 0, "retrieval_rows": 0}
    if days:
        from pyspark.sql import functions as F

        calls = lake.read(LOG, version=versions.until).where(F.col("request_date").isin(days))
        labels = lake.read(LABELS, version=labels_read.until)
        with context.progress.step(COMMAND, total=3) as step:
            rows = profile(
                calls,
                labels=labels,
                granularity=GRANULARITY,
                computed_at=context.now(),
                version_from=versions.since,
                version_to=versions.until,
            )
            counts["profile_rows"] = _write(context, PROFILE, rows, days=days)
            step.advance()
            counts["quality_rows"] = _write(context, QUALITY, llm_quality(calls, granularity=GRANULARITY), days=days)
            step.advance()
            chunks = _retrieved_chunks(context, calls)
            rows = retrieval_quality(calls, labels=labels, chunks=chunks, granularity=GRANULARITY)
            counts["retrieval_rows"] = _write(context, RETRIEVAL, rows, days=days)
            step.advance()
    return counts


def _touched_days(context: Context, versions: Versions, labels_read: Versions) -> list[date]:
    """The UTC dates whose calls or labels changed in these versions; in the first run, all."""
    from pyspark.sql import functions as F

    lake = context.lake
    calls = lake.read(LOG, version=versions.until)
    if versions.since is None:
        return [row[0] for row in calls.select("request_date").distinct().sort("request_date").collect()]
    days: set[date] = set()
    if versions.since < versions.until:
        # Rows of the log are appended or forgotten, and never changed. A day whose calls are all forgotten is gone. If
        # as many came as went, the newest call is another one.
        measured = [F.struct(F.count("*"), F.max("request_time")).alias("measured")]
        now = calls.groupBy("request_date").agg(*measured)
        before = lake.read(LOG, version=versions.since).groupBy("request_date").agg(*measured)
        both = now.join(before.withColumnRenamed("measured", "was"), "request_date", "full_outer")
        days.update(row[0] for row in both.where("NOT measured <=> was").select("request_date").collect())
    if labels_read.since != labels_read.until:
        labels = lake.read(LABELS, version=labels_read.until)
        if labels_read.since is not None:
            labels = labels.exceptAll(lake.read(LABELS, version=labels_read.since))
        labelled = calls.join(labels.select("request_id").distinct(), "request_id", "left_semi")
        days.update(row[0] for row in labelled.select("request_date").distinct().collect())
    return sorted(days)


def _retrieved_chunks(context: Context, calls: DataFrame) -> DataFrame:
    """chunk_id, path and heading_path of every chunk that was retrieved, also of chunks that were deleted since.

    A chunk_id always stands for the same document and text, so an old day can be scored with deleted chunks, which are
    read from the change feed. If the feed is gone, these chunks are left out.
    """
    from pyspark.sql import functions as F

    lake = context.lake
    version = lake.ensure(CHUNKS).version
    columns = ["chunk_id", "path", "heading_path"]
    needed = calls.select(F.explode("retrieved.chunk_id").alias("chunk_id")).distinct()
    known = lake.read(CHUNKS, version=version).select(*columns)
    # One small row for each chunk, held in memory, so that Spark does not compute them again for each use.
    found = needed.join(known, "chunk_id", "left").toArrow()
    missing = found.filter(pc.is_null(found["path"]))
    if missing.num_rows:
        try:
            feed = lake.read_changes(CHUNKS, after=-1, until=version, columns=columns).select(*columns)
            gone = feed.join(lake.spark.createDataFrame(missing.select(["chunk_id"])), "chunk_id", "left_semi")
            found = pa.concat_tables([found, gone.dropDuplicates(["chunk_id"]).toArrow().cast(found.schema)])
        except Exception as error:  # files of the feed are gone; a metric of fewer rows is better than none
            log.warning("monitor: the history of %s is gone; deleted chunks are not scored (%s)", CHUNKS, error)
    # As rows, because Spark refuses an Arrow table without rows.
    rows = found.filter(pc.is_valid(found["path"])).to_pylist()
    return lake.spark.createDataFrame(rows, "chunk_id STRING, path STRING, heading_path ARRAY<STRING>")


def _write(context: Context, table: str, rows: DataFrame, *, days: Sequence[date]) -> int:
    """Make the rows of these days in `table` equal to `rows`. Returns how many rows were changed."""
    from pyspark.sql import functions as F

    spec = context.lake.spec(table)
    starts = [datetime.combine(day, time(), tzinfo=timezone.utc) for day in days]
    current = context.lake.read(table).where(F.col("window.start").isin(starts) & (F.col("granularity") == GRANULARITY))
    if "definition_id" in spec.key:
        current = current.where(F.col("definition_id") == DEFINITION_ID)
    compare = [c for c in spec.columns if c not in spec.key and c not in _PROVENANCE]
    changes = net_changes(current, rows.select(*spec.columns), key=spec.key, compare=compare)
    return sum(apply_changes(context, table, changes).values())


STAGE = Stage(
    COMMAND,
    "inference.inference_log and inference.labels → profile and quality metrics.",
    look,
    work,
    sources=(LOG, LABELS),
    targets=(PROFILE, QUALITY, RETRIEVAL),
)
