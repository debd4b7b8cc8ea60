"""The arrivals in some versions of bronze.documents, and the versions of documents that follow from them.

An arrival here is its row without `content`: the bytes are read only where they are parsed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.documents.contents import KEY
from pipelines.flow.changed_rows import held_if_few
from pipelines.flow.rows import Rows, as_frame
from pipelines.flow.stage import Context, Versions
from transformations.tables.history import VALIDITY

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

SOURCE, HISTORY = "bronze.documents", "silver.documents_history"
_OF_ARRIVAL = ("document_id", "path", "source", "size", "modified_at", "_ingested_at")


def arrivals_of(context: Context, versions: Versions, *, again: Sequence[str]) -> Rows:
    """The arrivals of these versions, and all arrivals of the documents in `again`, which are tried again.

    Grain: one row per document and instant. Added columns: `_is_last`, whether it is the document's last one among
    these rows; `_first_at`, when the document first arrived with the same content among these rows.
    """
    columns = [c for c in context.lake.spec(SOURCE).columns if c != "content"]
    few = _few(context, versions, columns=columns, again=again)
    if few is not None:
        return _ordered(few)

    from pyspark.sql import Window
    from pyspark.sql import functions as F

    rows = _rows(context, versions, columns=columns, again=again)
    newest_first = Window.partitionBy("document_id").orderBy(
        F.desc("_ingested_at"), F.desc("content_hash"), F.desc("_rescued"), F.desc("path")
    )
    same_content = Window.partitionBy("document_id", "content_hash", "_rescued")
    rows = (
        rows.withColumn("_next_at", F.lag("_ingested_at").over(newest_first))
        .where("_next_at IS NULL OR _next_at > _ingested_at")
        .withColumn("_is_last", F.isnull("_next_at"))
        .withColumn("_first_at", F.min("_ingested_at").over(same_content))
        .drop("_next_at")
    )
    if versions.since is not None:
        return held_if_few(context, rows)
    return context.frames.hold(rows)


def _few(context: Context, versions: Versions, *, columns: list[str], again: Sequence[str]) -> pa.Table | None:
    """The rows of `_rows` in memory, read without Spark; None if Spark must read them."""
    lake = context.lake
    if versions.since is None:
        return lake.few_rows(SOURCE, version=versions.until, columns=columns)
    if again:
        return None
    feed = lake.few_changes(SOURCE, after=versions.since, until=versions.until, columns=columns)
    # The feed also has the rows that `forget` deleted, which are not arrivals.
    return None if feed is None else feed.filter(pc.equal(feed["_change_type"], "insert")).select(columns)


def _ordered(rows: pa.Table) -> pa.Table:
    """The result of `arrivals_of`, for rows in memory."""
    names = ["document_id", "_ingested_at", "content_hash", "_rescued", "path"]
    found = rows.select(names).to_pylist()

    def rank(place: int) -> tuple[Any, ...]:
        return tuple((found[place][name] is not None, found[place][name] or "") for name in names)

    next_of: dict[str, Any] = {}
    places, is_last = [], []
    first_at: dict[tuple[Any, ...], Any] = {}
    for place in sorted(range(len(found)), key=rank, reverse=True):
        document, at = found[place]["document_id"], found[place]["_ingested_at"]
        if document in next_of and next_of[document] <= at:
            continue  # another arrival at the same instant was taken already
        places.append(place)
        is_last.append(document not in next_of)
        next_of[document] = at
        first_at[_content(found[place])] = at  # newest first, so the earliest one is written last
    at_type = rows.schema.field("_ingested_at").type
    first = pa.array([first_at[_content(found[place])] for place in places], at_type)
    rows = rows.take(pa.array(places, pa.int64()))
    return rows.append_column("_is_last", pa.array(is_last, pa.bool_())).append_column("_first_at", first)


def _content(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["document_id"], row["content_hash"], row["_rescued"]


def first_of_content(arrivals: Rows) -> Rows:
    """The first arrival of each content of a document, without deletes: a content is parsed only once."""
    names = ("op", "_is_last", "_first_at")
    if isinstance(arrivals, pa.Table):
        is_first = pc.equal(arrivals["_ingested_at"], arrivals["_first_at"])
        return arrivals.filter(pc.and_(pc.not_equal(arrivals["op"], "delete"), is_first)).drop_columns(list(names))
    return arrivals.where("op <> 'delete' AND _ingested_at = _first_at").drop(*names)


def of_last_arrivals(context: Context, refused: Rows, arrivals: Rows) -> Rows:
    """The refused contents that are still the last ones of their documents; the others were repaired, or are gone.

    `_ingested_at` of the result is that of the last arrival, not of the first one with this content.
    """
    if isinstance(arrivals, pa.Table) and isinstance(refused, pa.Table):
        rows = arrivals.filter(pc.and_(arrivals["_is_last"], pc.not_equal(arrivals["op"], "delete")))
        last_of = dict(zip(_pairs(rows, "_first_at"), rows["_ingested_at"].to_pylist(), strict=True))
        last_at = [last_of.get(pair) for pair in _pairs(refused, "_ingested_at")]
        at = refused.schema.get_field_index("_ingested_at")
        of_type = refused.schema.field(at)
        refused = refused.set_column(at, of_type, pa.array(last_at, of_type.type))
        return refused.filter(pc.is_valid(refused["_ingested_at"]))
    arrived = as_frame(context, arrivals)
    last = arrived.where("_is_last AND op <> 'delete'").select(
        "document_id", arrived["_ingested_at"].alias("_last_at"), arrived["_first_at"].alias("_ingested_at")
    )
    joined = as_frame(context, refused).join(last, ["document_id", "_ingested_at"])
    return joined.withColumn("_ingested_at", joined["_last_at"]).drop("_last_at")


def versions_said(context: Context, arrivals: Rows, valid: Rows) -> Rows:
    """One row per arrival for the history: with `_op` "upsert" a version of the document, with "delete" its end.

    An arrival without a valid content (a deletion, or a refused file) ends the document's version.

    Args:
        valid: the valid parsed contents; their `_ingested_at` is when the content first arrived.
    """
    schema = context.lake.spec(HISTORY).schema
    columns = [c for c in schema.names if c not in (*VALIDITY, "_run_id")]
    if isinstance(arrivals, pa.Table) and isinstance(valid, pa.Table):
        known = {pair: place for place, pair in enumerate(_pairs(valid, "_ingested_at"))}
        places = pa.array([known.get(pair) for pair in _pairs(arrivals, "_first_at")], pa.int64())
        versions_table = pa.table(
            [(arrivals[c] if c in _OF_ARRIVAL else valid[c].take(places)).cast(schema.field(c).type) for c in columns],
            schema=pa.schema([schema.field(c) for c in columns]),
        )
        run_ids = pa.array([context.run_id] * versions_table.num_rows, pa.string())
        op = pc.if_else(pc.is_null(places), "delete", "upsert").cast(pa.string())
        return versions_table.append_column("_run_id", run_ids).append_column("_op", op)

    from pyspark.sql import functions as F

    contents = as_frame(context, valid).drop("path", "source", "size", "modified_at", "reason")
    contents = contents.withColumnRenamed("_ingested_at", "_first_at").withColumn("_is_valid", F.lit(True))
    rows = as_frame(context, arrivals).select(*_OF_ARRIVAL, "_first_at")
    rows = rows.join(contents, ["document_id", "_first_at"], "left")
    of_frame = F.when(F.isnull("_is_valid"), "delete").otherwise("upsert").alias("_op")
    return rows.select(*columns, F.lit(context.run_id).alias("_run_id"), of_frame)


def _pairs(rows: pa.Table, at: str) -> list[tuple[Any, ...]]:
    return list(zip(rows["document_id"].to_pylist(), rows[at].cast(pa.int64()).to_pylist(), strict=True))


def contents_of(context: Context, versions: Versions, *, again: Sequence[str]) -> DataFrame:
    """The bytes of the arrived files, read by Spark. They are joined late, so that no sort or cache holds them."""
    return _rows(context, versions, columns=[*KEY, "content"], again=again)


def _rows(context: Context, versions: Versions, *, columns: list[str], again: Sequence[str]) -> DataFrame:
    """The rows that these versions added, and all rows of the documents in `again`."""
    lake = context.lake
    if versions.since is None:
        return lake.read(SOURCE, version=versions.until).select(*columns)
    if versions.since < versions.until:
        feed = lake.read_changes(SOURCE, after=versions.since, until=versions.until, columns=columns)
        rows = feed.where("_change_type = 'insert'")
    else:
        rows = lake.read(SOURCE).limit(0)
    rows = rows.select(*columns)
    if not again:
        return rows
    # Spark's functions need a session; the read above has started it.
    from pyspark.sql import functions as F

    is_again = F.col("document_id").isin(list(again))
    older = lake.read(SOURCE, version=versions.until).where(is_again).select(*columns)
    return rows.where(~is_again).unionByName(older)
