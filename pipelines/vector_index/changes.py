"""Finds the changes that an index needs.

There are three ways: the change feed since the index's version; a comparison of ids and hashes of table and index, if
the feed cannot be used; and all rows, if the index is empty. (A repair makes a `Changes` of what an audit has found.)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
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
        mode: how they were found: "changes", "difference", "everything" or "repair".
        upserts, inserts, deletes, skipped: how many; inserts are the upserts of rows that the index did not have.
        vanished: how many deletes the limit on mass deletes counts: chunks of documents of which nothing is left.
        moved: counts those of `vanished` whose text is also in a new row of another document; called only if the limit
            is exceeded.
        held: the number of rows in the index, if the index was read; else 0.
        batches: the rows to upsert, as a stream on the driver.
        frame: the same rows on Spark, if Spark has them.
        keys: chunk_id, `_op`, row_hash and `_before` (the hash before) of each change, if they are known.
        gone: ids to delete, if `keys` does not have them.
        doubled: ids that the index has more than once; they are deleted before they are written.
        is_exact: whether `hashes` gives everything that the index loses and gains.
        committed_at: when the oldest commit was made that the index lacks; None if it is not known.
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

    def deleted_ids(self) -> list[str]:
        if not self.deletes or self.keys is None:
            return list(self.gone)
        return [row["chunk_id"] for row in to_pylist(selected(where_in(self.keys, "_op", ["delete"]), ["chunk_id"]))]

    def hashes(self) -> tuple[list[str], list[str]]:
        """The row hashes that the index gains, and those that it loses."""
        assert self.keys is not None
        if not self.upserts and not self.deletes:
            return [], []
        rows = to_pylist(selected(self.keys, ["_op", "row_hash", "_before"]))
        added = [row["row_hash"] for row in rows if row["_op"] == "upsert"]
        return added, [row["_before"] for row in rows if row["_before"] is not None]

    def judged(self, ids: Sequence[str]) -> set[str]:
        """Those of `ids` that these changes decide about: all of them, unless the changes come from the feed."""
        if self.mode != "changes":
            return set(ids)
        if self.keys is None or not ids:
            return set()
        return {row["chunk_id"] for row in to_pylist(selected(where_in(self.keys, "chunk_id", ids), ["chunk_id"]))}

    def lag_seconds(self, now: datetime) -> float | None:
        """Seconds from the oldest commit that the index lacked until `now`; None if that commit is not known."""
        return None if self.committed_at is None else (now - self.committed_at).total_seconds()


def changes_since(
    context: Context, versions: Versions, *, model: str, is_clean: bool, also: Sequence[str] = ()
) -> Changes:
    """The folded feed of these versions; rows whose hash has not changed are skipped.

    Args:
        is_clean: whether the last sync came to its end. If not, no row is skipped: the index may hold a state that the
            table has reverted since.
        also: ids to write again, whether they have changed or not.
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
    """Like `changes_since`, without Spark; None unless the feed is a few rows of a table in a folder."""
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
        """Like `_moved`."""
        vanished = Counter(r["text_hash"] for r in rows if r["_op"] == "delete" and r["document_id"] not in stays)
        inserted = Counter(r["text_hash"] for r in rows if r["_op"] == "upsert" and r["_before"] is None)
        return (vanished & inserted).total()

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
    """When the oldest commit that the index lacks was made."""
    assert versions.since is not None
    return min((commit["at"] for commit in news_since(context.lake, SOURCE, versions.since)), default=None)


def everything(context: Context, versions: Versions, *, model: str) -> Changes:
    """All rows of the table, for an index that holds none. If tables are folders, this needs no Spark."""
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
    """The differences, by id and hash, between the table and the rows that were last written to the index."""
    from pyspark.sql import functions as F

    lake = context.lake
    ids = pa.Table.from_batches(store.ids_with_hashes(), schema=IDS)
    held = lake.frame(ids)
    wanted = lake.read(SOURCE, version=versions.until).where(F.col("model") == model).select("chunk_id", "row_hash")
    changes = net_changes(held, wanted, key="chunk_id", compare=["row_hash"])
    op = F.when(F.col("_op") == "delete", "delete").otherwise("upsert")
    keys = context.frames.hold(changes.withColumns({"_is_new": F.col("_op") == "insert", "_op": op}))
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
        # New rows replace as many deleted ones, as when a document was renamed.
        vanished=max(deletes - inserts, 0),
        held=ids.num_rows,
        batches=batches,
        frame=frame,
        keys=keys,
    )


def rows_of(context: Context, ids: pa.Array, *, model: str, version: int) -> Iterator[pa.RecordBatch]:
    """The table's rows with these ids, as a stream: memory stays small, however many rows the table has."""
    columns, where = INDEX_SCHEMA.names, {"model": model}
    for batch in context.lake.read_batches(SOURCE, columns=columns, where=where, version=version):
        found = batch.filter(pc.is_in(batch.column("chunk_id"), ids))
        if found.num_rows:
            yield found


def _moved(folded: DataFrame) -> int:
    """How many rows of vanished documents have a text that new rows of other documents have, as when a folder was
    renamed."""
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
