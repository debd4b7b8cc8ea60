"""What changed of a table, as frames: the rows that a stage is to look at, and the merge of what came out.

What is few is held in a frame of its own, so that each later step costs nothing but its own work.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import add
from typing import TYPE_CHECKING

from pipelines.flow.stage import Context, Versions
from pipelines.lakehouse.delta_folder import FEW_BYTES
from pipelines.lakehouse.session import parallelism
from pipelines.lakehouse.tables import FEW_ROWS
from transformations.tables.changes import fold_changes

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame


def apply_changes(context: Context, table: str, changes: DataFrame, *, within: str = "TRUE") -> dict[str, int]:
    """Merge net changes into `table`; no commit where there are none. Returns rows by operation.

    Args:
        within: what all keys fulfil, as SQL on `target`: other files are left unread.
    """
    from pyspark.sql import functions as F

    changes = changes.persist()
    try:
        counts = {"insert": 0, "update": 0, "delete": 0}
        found = changes.groupBy("_op").agg(F.count("*").alias("rows"), _text_bytes(changes).alias("bytes")).collect()
        counts.update({row["_op"]: row["rows"] for row in found})
        if any(counts.values()):
            is_small = sum(row["bytes"] or 0 for row in found) <= FEW_BYTES
            context.lake.merge(table, changes, rows=sum(counts.values()) if is_small else None, within=within)
        return counts
    finally:
        changes.unpersist()


def changed(
    context: Context, table: str, *, versions: Versions, key: str, also: Sequence[str] = ()
) -> tuple[DataFrame, DataFrame]:
    """What versions of a keyed table say: the rows to apply, and the keys that are judged (the deleted ones, too).

    Args:
        also: keys whose rows are wanted although nothing says that they changed.
    """
    from pyspark.sql import functions as F

    if versions.since is None:
        rows = context.lake.read(table, version=versions.until)
        return rows, rows.select(key)
    if versions.since < versions.until:
        feed = context.lake.read_changes(table, after=versions.since, until=versions.until)
        folded = held_if_few(context, fold_changes(feed, key=key))
        rows, keys = folded.where("_op = 'upsert'").drop("_op"), folded.select(key)
        if not also:
            return rows, keys
        more = context.lake.read_keys(table, key, also).join(F.broadcast(keys), key, "left_anti")
        return rows.unionByName(more.select(*rows.columns)), keys.union(more.select(key))
    rows = context.lake.read_keys(table, key, also)
    return rows, rows.select(key)


def stamped(context: Context, rows: DataFrame, *, versions: Versions) -> DataFrame:
    """`rows` with the run that writes them and the version of the source that they were computed from."""
    from pyspark.sql import functions as F

    return rows.withColumns({"_run_id": F.lit(context.run_id), "_source_version": F.lit(versions.until).cast("bigint")})


def held_if_few(context: Context, rows: DataFrame) -> DataFrame:
    """`rows` as a frame that holds them, where they are few: each later step then costs nothing but its own work."""
    from pyspark.sql import functions as F

    rows = rows.persist()
    first = rows.limit(FEW_ROWS + 1)
    # Few rows may still be more than this process should hold: only what has long texts is asked for their size.
    sized = first.agg(F.count("*"), _text_bytes(rows)).first() if "text" in rows.columns else None
    found = first.toArrow() if sized is None or (sized[0] <= FEW_ROWS and (sized[1] or 0) <= FEW_BYTES) else None
    if found is None or found.num_rows > FEW_ROWS:
        context.persisted.append(rows)
        return rows
    rows.unpersist()
    return context.lake.frame(found)


def _text_bytes(rows: DataFrame) -> Column:
    """The bytes of all texts of some rows: what they weigh, where they weigh much."""
    from pyspark.sql import functions as F
    from pyspark.sql import types as T

    texts = [f.name for f in rows.schema.fields if isinstance(f.dataType, T.StringType | T.BinaryType)]
    weights = [F.coalesce(F.octet_length(F.col(f"`{name}`")), F.lit(0)).cast("bigint") for name in texts]
    return F.sum(reduce(add, weights, F.lit(0).cast("bigint")))


def touched(context: Context, table: str, keys: DataFrame, *, versions: Versions, key: str) -> DataFrame:
    """The rows of `table` whose `key` is in `keys`; all rows where the versions are everything."""
    from pyspark.sql import functions as F

    if versions.since is None:
        return context.lake.read(table)
    return few_of(context, table, keys, key=key).join(F.broadcast(keys.select(key).distinct()), key, "left_semi")


def few_of(context: Context, table: str, keys: DataFrame, *, key: str) -> DataFrame:
    """The rows of `table` whose `key` is in `keys` where those are few, else all rows: a filter worth its cost."""
    values = [row[key] for row in keys.select(key).limit(FEW_ROWS + 1).collect()]
    return context.lake.read(table) if len(values) > FEW_ROWS else context.lake.read_keys(table, key, values)


def partitions(rows: DataFrame) -> DataFrame:
    """`rows` spread over as many partitions as may work at once: a small table is one file, so one partition."""
    return rows.repartition(parallelism(rows.sparkSession))
