"""Finds what an index must be told: from the change feed, by comparing, or all of it.

Four ways, from cheap to dear: the change feed since the index's version; ids and hashes of table against index where
the feed is of no use; everything where the index is empty; and the few rows that an audit names.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.flow.changed_rows import held_if_few
from pipelines.flow.rows import Rows, as_table, selected, to_pylist, where_in, with_values
from pipelines.flow.stage import Context, Versions
from pipelines.lakehouse.schemas import INDEX_SCHEMA
from pipelines.lakehouse.table_log import news_since
from pipelines.stores import Store
from transformations.tables import few_rows
from transformations.tables.changes import fold_changes, net_changes

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

SOURCE = "gold.chunk_index"
IDS = pa.schema([("chunk_id", pa.string()), ("row_hash", pa.string())])
_ROWS_AT_ONCE = 20_000


@dataclass
class Changes:
    """The net changes of one sync.

    Attributes:
        mode: "changes", "difference" or "everything": how they were found.
        upserts, inserts, deletes, skipped: how many; inserts are those of the upserts that the index did not have.
        vanished: deletes that a mass-delete limit counts: chunks of documents of which nothing is left to serve.
        moved: how many of these say what a new row of another document says; counted where it matters only.
        held: rows of the index, where the index was read.
        batches: the rows to upsert, as a stream on the driver.
        frame: the same rows on Spark, where Spark has them.
        gone: ids to delete, where `keys` does not tell them.
        doubled: ids that are there more than once: to be deleted before they are written.
        is_exact: whether `hashes` tells all that the index loses and gains.
    """

    mode: str
    upserts: int
    inserts: int
    deletes: int
    skipped: int
    vanished: int
    held: int
    batches: Callable[[], Iterator[pa.RecordBatch]]
    frame: DataFrame | None = None
    keys: Rows | None = None
    is_exact: bool = False
    committed_at: datetime | None = None
    doubled: Sequence[str] = ()
    gone: Sequence[str] = ()
    moved: Callable[[], int] = lambda: 0
    cached: list[DataFrame] = field(default_factory=list)

    def deleted_ids(self) -> list[str]:
        if not self.deletes or self.keys is None:
            return list(self.gone)
        return [row["chunk_id"] for row in to_pylist(selected(where_in(self.keys, "_op", ["delete"]), ["chunk_id"]))]

    def hashes(self) -> tuple[list[str], list[str]]:
        """Row hashes that the index gains and loses."""
        assert self.keys is not None
        if not self.upserts and not self.deletes:
            return [], []
        rows = to_pylist(selected(self.keys, ["_op", "row_hash", "_before"]))
        added = [row["row_hash"] for row in rows if row["_op"] == "upsert"]
        return added, [row["_before"] for row in rows if row["_before"] is not None]

    def judged(self, ids: Sequence[str]) -> set[str]:
        """Which of `ids` were decided upon: all, where everything was compared."""
        if self.mode != "changes":
            return set(ids)
        if self.keys is None or not ids:
            return set()
        return {row["chunk_id"] for row in to_pylist(selected(where_in(self.keys, "chunk_id", ids), ["chunk_id"]))}

    def lag_seconds(self, now: datetime) -> float | None:
        """From the oldest commit that the index lacked until `now`."""
        return None if self.committed_at is None else (now - self.committed_at).total_seconds()

    def close(self) -> None:
        for frame in self.cached:
            frame.unpersist()


def changes_since(
    context: Context, versions: Versions, *, model: str, is_clean: bool, also: Sequence[str] = ()
) -> Changes:
    """The feed of these versions, folded; rows whose hash is what it was are skipped.

    Not so after a sync that stopped half-way (`is_clean` false): the index may hold what the table took back since.
    """
    few = _few_changes_since(context, versions, model=model, is_clean=is_clean, also=also)
    if few is not None:
        return few
    from pyspark.sql import functions as F

    assert versions.since is not None
    lake = context.lake
    if versions.since < versions.until:
        feed = lake.read_changes(SOURCE, after=versions.since, until=versions.until).where(F.col("model") == model)
        folded = held_if_few(context, fold_changes(feed, key="chunk_id", before="row_hash"))
    else:
        folded = lake.read_keys(SOURCE, "chunk_id", []).withColumns({"_op": F.lit("upsert"), "_before": F.lit("")})
    if also:
        more = lake.read_keys(SOURCE, "chunk_id", also).where(F.col("model") == model)
        more = more.join(F.broadcast(folded.select("chunk_id")), "chunk_id", "left_anti")
        more = more.withColumns({"_op": F.lit("upsert"), "_before": F.lit(None).cast("string")})
        folded = folded.unionByName(more)
    is_same = F.col("_before").eqNullSafe(F.when(F.col("_op") == "upsert", F.col("row_hash")))
    folded = folded.withColumn("_is_skipped", is_same if is_clean else F.lit(False))
    net = folded.where("NOT _is_skipped")
    kept = F.max(F.when(F.col("_op") == "upsert", 1).otherwise(0))
    by_document = folded.groupBy("document_id").agg(
        kept.alias("is_kept"),
        F.sum(F.when((F.col("_op") == "delete") & ~F.col("_is_skipped"), 1).otherwise(0)).alias("deletes"),
        F.sum(F.when((F.col("_op") == "upsert") & ~F.col("_is_skipped"), 1).otherwise(0)).alias("upserts"),
        F.sum(
            F.when((F.col("_op") == "upsert") & ~F.col("_is_skipped") & F.col("_before").isNull(), 1).otherwise(0)
        ).alias("inserts"),
        F.sum(F.col("_is_skipped").cast("int")).alias("skipped"),
    )
    totals = by_document.agg(
        *(F.coalesce(F.sum(c), F.lit(0)).alias(c) for c in ("deletes", "upserts", "inserts", "skipped")),
        F.coalesce(F.sum(F.when(F.col("is_kept") == 0, F.col("deletes"))), F.lit(0)).alias("vanished"),
    ).first()
    assert totals is not None
    upserts = net.where("_op = 'upsert'")
    return Changes(
        mode="changes",
        upserts=totals["upserts"],
        inserts=totals["inserts"],
        deletes=totals["deletes"],
        skipped=totals["skipped"],
        vanished=totals["vanished"],
        moved=lambda: _moved(folded),
        held=0,
        batches=lambda: _stream(upserts, count=totals["upserts"], columns=INDEX_SCHEMA.names),
        frame=upserts,
        keys=net.select("chunk_id", "_op", "row_hash", "_before"),
        is_exact=is_clean,
        committed_at=_first_commit(context, versions),
    )


def _few_changes_since(
    context: Context, versions: Versions, *, model: str, is_clean: bool, also: Sequence[str]
) -> Changes | None:
    """The same without Spark; None where the feed is not few rows in a folder."""
    assert versions.since is not None
    again = context.lake.few_keys(SOURCE, "chunk_id", also)
    feed = context.lake.few_changes(SOURCE, after=versions.since, until=versions.until)
    if feed is None or again is None:
        return None
    feed, again = (as_table(where_in(rows, "model", [model])) for rows in (feed, again))
    folded = few_rows.fold_changes(feed, key="chunk_id", before="row_hash")
    again = again.filter(pc.invert(pc.is_in(again["chunk_id"], folded["chunk_id"].combine_chunks())))
    again = as_table(with_values(again, _op="upsert")).append_column("_before", pa.nulls(len(again), pa.string()))
    folded = pa.concat_tables([folded, again.select(folded.column_names).cast(folded.schema)])
    rows = folded.drop_columns("vector").to_pylist()
    is_skipped = [is_clean and row["_before"] == (row["row_hash"] if row["_op"] == "upsert" else None) for row in rows]
    net = folded.filter(pa.array([not skipped for skipped in is_skipped], pa.bool_()))
    stays = {row["document_id"] for row in rows if row["_op"] == "upsert"}
    kept = [row for row, skipped in zip(rows, is_skipped, strict=True) if not skipped]
    gone = [row for row in kept if row["_op"] == "delete"]
    new = [row for row in kept if row["_op"] == "upsert"]

    def moved() -> int:
        """As `_moved`."""
        vanished = Counter(r["text_hash"] for r in rows if r["_op"] == "delete" and r["document_id"] not in stays)
        came = Counter(r["text_hash"] for r in rows if r["_op"] == "upsert" and r["_before"] is None)
        return (vanished & came).total()

    return Changes(
        mode="changes",
        upserts=len(new),
        inserts=sum(row["_before"] is None for row in new),
        deletes=len(gone),
        skipped=sum(is_skipped),
        vanished=sum(row["document_id"] not in stays for row in gone),
        moved=moved,
        held=0,
        batches=lambda: iter(as_table(selected(where_in(net, "_op", ["upsert"]), INDEX_SCHEMA.names)).to_batches()),
        keys=net.select(["chunk_id", "_op", "row_hash", "_before"]),
        is_exact=is_clean,
        committed_at=_first_commit(context, versions),
    )


def _first_commit(context: Context, versions: Versions) -> datetime | None:
    """When the oldest commit was made that the index lacks."""
    assert versions.since is not None
    return min((commit["at"] for commit in news_since(context.lake, SOURCE, versions.since)), default=None)


def everything(context: Context, versions: Versions, *, model: str) -> Changes:
    """All rows of the table, for an index that holds none. Folders need no Spark for it."""
    lake = context.lake
    where = {"model": model}
    count = sum(
        batch.num_rows for batch in lake.read_batches(SOURCE, columns=["model"], where=where, version=versions.until)
    )
    is_local = str(context.settings.spark.master).startswith("local") and lake.is_local
    frame = None
    if not is_local:
        from pyspark.sql import functions as F

        frame = lake.read(SOURCE, version=versions.until).where(F.col("model") == model)
    return Changes(
        mode="everything",
        upserts=count,
        inserts=count,
        deletes=0,
        skipped=0,
        vanished=0,
        held=0,
        batches=lambda: lake.read_batches(SOURCE, columns=INDEX_SCHEMA.names, where=where, version=versions.until),
        frame=frame,
    )


def difference(context: Context, store: Store, versions: Versions, *, model: str) -> Changes:
    """What differs between the table and what was last written to the index, by id and hash."""
    from pyspark.sql import functions as F

    lake = context.lake
    ids = pa.Table.from_batches(store.ids_with_hashes(), schema=IDS)
    held = lake.frame(ids)
    wanted = lake.read(SOURCE, version=versions.until).where(F.col("model") == model).select("chunk_id", "row_hash")
    changes = net_changes(held, wanted, key="chunk_id", compare=["row_hash"])
    op = F.when(F.col("_op") == "delete", "delete").otherwise("upsert")
    keys = changes.withColumns({"_is_new": F.col("_op") == "insert", "_op": op}).persist()
    counts = {(row["_op"], row["_is_new"]): row["count"] for row in keys.groupBy("_op", "_is_new").count().collect()}
    inserts, deletes = counts.get(("upsert", True), 0), sum(n for (o, _), n in counts.items() if o == "delete")
    upserts = inserts + counts.get(("upsert", False), 0)
    frame = lake.read(SOURCE, version=versions.until).where(F.col("model") == model)
    frame = frame.join(keys.where("_op = 'upsert'").select("chunk_id"), "chunk_id", "left_semi")

    def batches() -> Iterator[pa.RecordBatch]:
        wanted_ids = keys.where("_op = 'upsert'").select("chunk_id").toArrow()["chunk_id"].combine_chunks()
        yield from rows_of(context, wanted_ids, model=model, version=versions.until)

    return Changes(
        mode="difference",
        upserts=upserts,
        inserts=inserts,
        deletes=deletes,
        skipped=ids.num_rows - deletes - (upserts - inserts),
        # What new rows stand for was replaced, as by a document that was renamed.
        vanished=max(deletes - inserts, 0),
        held=ids.num_rows,
        batches=batches,
        frame=frame,
        keys=keys,
        cached=[keys],
    )


def rows_of(context: Context, ids: pa.Array, *, model: str, version: int) -> Iterator[pa.RecordBatch]:
    """The table's rows with these ids, streamed past: whatever their number, memory stays small."""
    columns, where = INDEX_SCHEMA.names, {"model": model}
    for batch in context.lake.read_batches(SOURCE, columns=columns, where=where, version=version):
        found = batch.filter(pc.is_in(batch.column("chunk_id"), ids))
        if found.num_rows:
            yield found


def _moved(folded: DataFrame) -> int:
    """Rows of documents that vanish whose texts come in under other documents, as when a folder was renamed."""
    from pyspark.sql import functions as F

    kept = F.max((F.col("_op") == "upsert").cast("int")).alias("is_kept")
    vanished = folded.groupBy("document_id").agg(kept).where("is_kept = 0")
    gone = folded.where("_op = 'delete'").join(vanished, "document_id", "left_semi").groupBy("text_hash")
    new = folded.where("_op = 'upsert' AND _before IS NULL").groupBy("text_hash")
    both = gone.agg(F.count("*").alias("gone")).join(new.agg(F.count("*").alias("new")), "text_hash")
    row = both.agg(F.sum(F.least("gone", "new")).alias("moved")).first()
    return int(row["moved"] or 0) if row is not None else 0


def _stream(rows: DataFrame, *, count: int, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    from pyspark.sql import functions as F

    slices = -(-count // _ROWS_AT_ONCE)
    for number in range(slices):
        part = rows if slices == 1 else rows.where(F.pmod(F.xxhash64("chunk_id"), F.lit(slices)) == number)
        yield from part.select(*columns).toArrow().to_batches()
