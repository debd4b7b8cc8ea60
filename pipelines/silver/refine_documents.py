"""Arrivals of bronze.documents in; silver.documents as the folder now is, its history, and a quarantine of the refused,
out.

An arrival is judged once, also where its document has changed again since. A version begins with its arrival and ends
with the next one: another text, a deletion, or an edition that is refused. The history is written first, and what is
current in it is silver.documents; each write compares, so that a run that repeats it changes nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow.compute as pc

from expectations.documents import document_rules
from pipelines.delta_folder import files_between
from pipelines.quality import judge
from pipelines.silver.cluster import COLUMNS as CLUSTER_COLUMNS
from pipelines.silver.cluster import with_clusters
from pipelines.silver.contents import KEY
from pipelines.silver.describe import DESCRIBED_DDL, PersonalData, describe_batches
from pipelines.silver.parse import Limits, parse_batches
from pipelines.silver.set_aside import set_aside
from pipelines.stage import Context, Counts, Window, apply_changes, held_if_few, partitions, touched
from pipelines.stage import due as due_by_arrivals
from transformations.changes import net_changes
from transformations.history import VALIDITY, history_changes

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

SOURCE, TARGET, QUARANTINE = "bronze.documents", "silver.documents", "silver.documents_quarantine"
HISTORY = "silver.documents_history"
# What makes another version of a document.
_COMPARE = ["title", "text", "format", "encoding", "metadata", "language", "language_confidence"]
_COMPARE += ["pii_spans", "content_hash"]


def run(context: Context, window: Window) -> Counts:
    """Counts: documents insert, update, delete, and set_aside (refused in this window, and not repaired since)."""

    lake, refine = context.lake, context.settings.refine
    rules = document_rules(
        languages=refine.languages,
        language_level=refine.other_languages,
        allow_personal_data=refine.pii != "quarantine",
    )
    for table in (TARGET, HISTORY):
        lake.ensure(table)
    again = refused_for_limits(context)
    arrivals = _arrivals(context, window, again=again)
    with context.progress.step("refine-documents"):
        first = arrivals.where("op <> 'delete' AND _ingested_at = _first_at").drop("op", "_is_last", "_first_at")
        files = None
        if lake.is_local:
            since = None if again else window.since
            files = files_between(lake.folder(SOURCE), after=since, until=window.until)
        else:
            first = first.join(_contents(context, window, again=again), list(KEY))
        parse = parse_batches(Limits.of(context.settings.parse), files=files)
        describe = describe_batches(parse, personal_data=PersonalData.of(refine))
        described = first.transform(partitions).mapInArrow(describe, DESCRIBED_DDL)
        judged = judge(
            context,
            TARGET,
            described,
            rules=rules,
            window=window,
            source=SOURCE,
            stage="refine-documents",
            key="document_id",
        )
        if window.since is None:
            context.persisted.append(arrivals.persist())
        keys = arrivals.select("document_id").distinct().persist()
        context.persisted.append(keys)
        refused = judged.refused
        if judged.refused_rows:
            refused = _of_last_arrivals(refused, arrivals)
        count = refused.count() if judged.refused_rows else 0
        set_aside(context, QUARANTINE, refused, count=count, scope=keys, window=window, same=["content_hash", "reason"])

        changes = history_changes(
            touched(context, HISTORY, keys, window=window, key="document_id"),
            _said(context, arrivals, judged.valid),
            key=["document_id"],
            order_by="_ingested_at",
            compare=_COMPARE,
            replaces="everything" if window.since is None else "same instants",
        )
        apply_changes(context, HISTORY, changes)
        versions = touched(context, HISTORY, keys, window=window, key="document_id")
        desired = versions.where("is_current").drop(*VALIDITY)
        current = touched(context, TARGET, keys, window=window, key="document_id")
        current, desired = with_clusters(context, current, desired, keys=keys, window=window)
        desired = desired.select(*lake.spec(TARGET).columns)
        compare = [*_COMPARE, *CLUSTER_COLUMNS]
        counts = apply_changes(context, TARGET, net_changes(current, desired, key="document_id", compare=compare))
        return {**counts, "set_aside": count}


def due(context: Context) -> Window | None:
    """The arrivals that were not read; an empty window where only refused documents are tried again. Needs no JVM."""
    from pipelines.run import stage_named

    window = due_by_arrivals(stage_named("refine-documents"), context)
    arrived = context.lake.head(SOURCE)
    if window is not None or arrived is None or not refused_for_limits(context):
        return window
    return Window(arrived.version, arrived.version, arrived.table_id)


def refused_for_limits(context: Context) -> list[str]:
    """The documents that were refused for a limit of parsing which has been raised since."""
    limits = Limits.of(context.settings.parse)
    rows = context.lake.read_arrow(QUARANTINE, columns=["document_id", "reason", "replayed_at"])
    rows = rows.filter(pc.and_(pc.is_null(rows["replayed_at"]), pc.is_valid(rows["reason"])))
    told = zip(rows["document_id"].to_pylist(), rows["reason"].to_pylist(), strict=True)
    return sorted(document for document, reason in told if limits.allow_more_than(reason))


def _rows(context: Context, window: Window, *, columns: list[str], again: list[str]) -> DataFrame:
    """The rows of the window, and all rows of the documents that are tried again."""
    from pyspark.sql import functions as F

    lake = context.lake
    if window.since is None:
        return lake.read(SOURCE, version=window.until).select(*columns)
    # Spark's functions come after the first reading: a session that nobody has needed so far begins with it.
    if window.since < window.until:
        # A row that `forget` removed is in the feed as well, and is no arrival.
        rows = lake.read_changes(SOURCE, after=window.since, until=window.until).where("_change_type = 'insert'")
    else:
        rows = lake.read(SOURCE).limit(0)
    rows = rows.select(*columns)
    if not again:
        return rows
    is_again = F.col("document_id").isin(again)
    older = lake.read(SOURCE, version=window.until).where(is_again).select(*columns)
    return rows.where(~is_again).unionByName(older)


def _contents(context: Context, window: Window, *, again: list[str]) -> DataFrame:
    """The bytes of the window's files, where Spark alone can read the table: a big row is in no sort and no cache."""
    return _rows(context, window, columns=[*KEY, "content"], again=again)


def _arrivals(context: Context, window: Window, *, again: list[str]) -> DataFrame:
    """The window's arrivals, one a document and instant, with `_is_last` (of its document, in the window) and
    `_first_at`: when the same document first arrived with the same content. Their bytes stay where they are.
    """
    from pyspark.sql import Window as Rows
    from pyspark.sql import functions as F

    columns = [c for c in context.lake.spec(SOURCE).columns if c != "content"]
    rows = _rows(context, window, columns=columns, again=again)
    newest_first = Rows.partitionBy("document_id").orderBy(
        F.desc("_ingested_at"), F.desc("content_hash"), F.desc("_rescued"), F.desc("path")
    )
    same_content = Rows.partitionBy("document_id", "content_hash", "_rescued")
    rows = (
        rows.withColumn("_next_at", F.lag("_ingested_at").over(newest_first))
        .where("_next_at IS NULL OR _next_at > _ingested_at")
        .withColumn("_is_last", F.isnull("_next_at"))
        .withColumn("_first_at", F.min("_ingested_at").over(same_content))
        .drop("_next_at")
    )
    return rows if window.since is None else held_if_few(context, rows)


def _of_last_arrivals(refused: DataFrame, arrivals: DataFrame) -> DataFrame:
    """Those refused contents that their documents still have: the others have been repaired, or are gone."""
    last = arrivals.where("_is_last AND op <> 'delete'").select(
        "document_id", arrivals["_ingested_at"].alias("_last_at"), arrivals["_first_at"].alias("_ingested_at")
    )
    rows = refused.join(last, ["document_id", "_ingested_at"])
    return rows.withColumn("_ingested_at", rows["_last_at"]).drop("_last_at")


def _said(context: Context, arrivals: DataFrame, valid: DataFrame) -> DataFrame:
    """What each arrival says of its document: a version, or that it has none from here on."""
    from pyspark.sql import functions as F

    of_arrival = ["document_id", "path", "source", "size", "modified_at", "_ingested_at"]
    contents = valid.drop("path", "source", "size", "modified_at", "reason").withColumnRenamed(
        "_ingested_at", "_first_at"
    )
    rows = arrivals.select(*of_arrival, "_first_at").join(
        contents.withColumn("_is_valid", F.lit(True)), ["document_id", "_first_at"], "left"
    )
    columns = [c for c in context.lake.spec(HISTORY).columns if c not in (*VALIDITY, "_run_id")]
    op = F.when(F.isnull("_is_valid"), "delete").otherwise("upsert").alias("_op")
    return rows.select(*columns, F.lit(context.run_id).alias("_run_id"), op)
