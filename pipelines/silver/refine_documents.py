"""refine-documents: bronze.documents becomes silver.documents as the folder now is, its history, and a quarantine.

An arrival is judged once, also where its document has changed again since. A version begins with its arrival and ends
with the next one: another text, a deletion, or an edition that is refused. The history is written first, and what is
current in it is silver.documents; each write compares, so that a run that repeats it changes nothing.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pyarrow.compute as pc

from expectations.tables.documents import document_rules
from pipelines.documents.clusters import COLUMNS as CLUSTER_COLUMNS
from pipelines.documents.clusters import with_clusters
from pipelines.documents.contents import KEY
from pipelines.documents.describe import DESCRIBED_DDL, PersonalData, describe_batches
from pipelines.documents.parse import Limits, parse_batches
from pipelines.flow.changed_rows import apply_changes, held_if_few, partitions, touched
from pipelines.flow.stage import Context, Counts, Stage, Versions, Work, moved, nothing_new
from pipelines.lakehouse.delta_folder import files_between
from pipelines.quality.split import Split
from transformations.tables.changes import net_changes
from transformations.tables.history import VALIDITY, history_changes

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

SOURCE, TARGET, QUARANTINE = "bronze.documents", "silver.documents", "silver.documents_quarantine"
SPLIT = Split(
    "refine-documents",
    SOURCE,
    TARGET,
    QUARANTINE,
    key="document_id",
    same=("content_hash", "reason"),
    scope="document_id",
)
HISTORY = "silver.documents_history"
# What makes another version of a document.
_COMPARE = ["title", "text", "format", "encoding", "metadata", "language", "language_confidence"]
_COMPARE += ["pii_spans", "content_hash"]


def look(context: Context) -> Work | None:
    """The arrivals that were not read, and the documents that were refused for a limit which has been raised since."""
    again = refused_for_limits(context)
    due = moved(STAGE, context) or (nothing_new(STAGE, context) if again else None)
    return None if due is None else replace(due, found=again)


def work(context: Context, due: Work) -> Counts:
    """Counts: documents insert, update, delete, and set_aside (refused in these versions, and not repaired since)."""
    lake, refine, versions = context.lake, context.settings.refine, due.first
    again: list[str] = refused_for_limits(context) if due.found is None else due.found
    rules = document_rules(
        languages=refine.languages,
        language_level=refine.other_languages,
        allow_personal_data=refine.pii != "quarantine",
    )
    for table in (TARGET, HISTORY):
        lake.ensure(table)
    arrivals = _arrivals(context, versions, again=again)
    with context.progress.step("refine-documents"):
        first = arrivals.where("op <> 'delete' AND _ingested_at = _first_at").drop("op", "_is_last", "_first_at")
        files = None
        if (folder := lake.folder(SOURCE)) is not None:
            since = None if again else versions.since
            files = files_between(folder, after=since, until=versions.until)
        else:
            first = first.join(_contents(context, versions, again=again), list(KEY))
        parse = parse_batches(Limits.of(context.settings.parse), files=files)
        describe = describe_batches(parse, personal_data=PersonalData.of(refine))
        described = first.transform(partitions).mapInArrow(describe, DESCRIBED_DDL)
        judged = SPLIT.judge(context, described, rules=rules, versions=versions)
        if versions.since is None:
            context.persisted.append(arrivals.persist())
        keys = arrivals.select("document_id").distinct().persist()
        context.persisted.append(keys)
        refused = judged.refused
        if judged.refused_rows:
            refused = _of_last_arrivals(refused, arrivals)
        count = refused.count() if judged.refused_rows else 0
        SPLIT.set_aside(context, refused, count=count, scope=keys, versions=versions)

        changes = history_changes(
            touched(context, HISTORY, keys, versions=versions, key="document_id"),
            _said(context, arrivals, judged.valid),
            key=["document_id"],
            order_by="_ingested_at",
            compare=_COMPARE,
            replaces="everything" if versions.since is None else "same instants",
        )
        apply_changes(context, HISTORY, changes)
        dated = touched(context, HISTORY, keys, versions=versions, key="document_id")
        desired = dated.where("is_current").drop(*VALIDITY)
        current = touched(context, TARGET, keys, versions=versions, key="document_id")
        current, desired = with_clusters(context, current, desired, keys=keys, versions=versions)
        desired = desired.select(*lake.spec(TARGET).columns)
        compare = [*_COMPARE, *CLUSTER_COLUMNS]
        counts = apply_changes(context, TARGET, net_changes(current, desired, key="document_id", compare=compare))
        return {**counts, "set_aside": count}


def refused_for_limits(context: Context) -> list[str]:
    """The documents that were refused for a limit of parsing which has been raised since."""
    limits = Limits.of(context.settings.parse)
    rows = context.lake.read_arrow(QUARANTINE, columns=["document_id", "reason", "replayed_at"])
    rows = rows.filter(pc.and_(pc.is_null(rows["replayed_at"]), pc.is_valid(rows["reason"])))
    told = zip(rows["document_id"].to_pylist(), rows["reason"].to_pylist(), strict=True)
    return sorted(document for document, reason in told if limits.allow_more_than(reason))


def _rows(context: Context, versions: Versions, *, columns: list[str], again: list[str]) -> DataFrame:
    """The rows of these versions, and all rows of the documents that are tried again."""
    from pyspark.sql import functions as F

    lake = context.lake
    if versions.since is None:
        return lake.read(SOURCE, version=versions.until).select(*columns)
    # Spark's functions come after the first reading: a session that nobody has needed so far begins with it.
    if versions.since < versions.until:
        # A row that `forget` removed is in the feed as well, and is no arrival.
        rows = lake.read_changes(SOURCE, after=versions.since, until=versions.until).where("_change_type = 'insert'")
    else:
        rows = lake.read(SOURCE).limit(0)
    rows = rows.select(*columns)
    if not again:
        return rows
    is_again = F.col("document_id").isin(again)
    older = lake.read(SOURCE, version=versions.until).where(is_again).select(*columns)
    return rows.where(~is_again).unionByName(older)


def _contents(context: Context, versions: Versions, *, again: list[str]) -> DataFrame:
    """The bytes of the arrived files, where Spark alone can read the table: a big row is in no sort and no cache."""
    return _rows(context, versions, columns=[*KEY, "content"], again=again)


def _arrivals(context: Context, versions: Versions, *, again: list[str]) -> DataFrame:
    """The arrivals of these versions, one a document and instant, with `_is_last` (of its document, among them) and
    `_first_at`: when the same document first arrived with the same content. Their bytes stay where they are.
    """
    from pyspark.sql import Window as Rows
    from pyspark.sql import functions as F

    columns = [c for c in context.lake.spec(SOURCE).columns if c != "content"]
    rows = _rows(context, versions, columns=columns, again=again)
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
    return rows if versions.since is None else held_if_few(context, rows)


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


STAGE = Stage(
    "refine-documents",
    "bronze.documents → silver.documents, its history and its quarantine.",
    look,
    work,
    sources=(SOURCE,),
    targets=(TARGET, HISTORY, QUARANTINE),
    code_version=6,
    decided_by=lambda context: (
        f"{context.settings.refine.model_dump_json(exclude={'near_duplicates'})} "
        f"clusters={context.settings.refine.near_duplicates != 'off'}"
    ),
)
