"""A change feed, or two states of a keyed table, in, one net operation for each key out.

The column `_op` is "upsert" or "delete" if it comes from a feed, and "insert", "update" or "delete" if it is what a
table needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import and_
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame
    from pyspark.sql.types import DataType


def fold_changes(feed: DataFrame, *, key: str, before: str | None = None) -> DataFrame:
    """Fold many versions of a key into its last one.

    Args:
        feed: Delta's change feed: rows with `_change_type`, `_commit_version` and `_commit_timestamp`.
        key: the table's key column.
        before: a column whose value before the first change is wanted as well.

    Returns:
        One row for each key: the feed's data columns with the last values, and `_op` upsert or delete. A key that was
        inserted and deleted inside the feed is a delete: the reader may have seen it in an earlier, interrupted
        attempt. With `before`, `_before` is that column's value when the feed began, null for a key that did not exist
        then.
    """
    from pyspark.sql import functions as F

    data = [c for c in feed.columns if c not in ("_change_type", "_commit_version", "_commit_timestamp")]
    # One commit can hold a delete and an insert of the same key (an overwrite does): the insert counts as later.
    order = F.struct("_commit_version", (~F.col("_change_type").isin("delete", "update_preimage")).alias("_is_after"))
    op = F.when(F.col("_change_type") == "delete", "delete").otherwise("upsert").alias("_op")
    row = F.struct(*map(named, data), op)
    last = F.max_by(row, F.when(F.col("_change_type") != "update_preimage", order)).alias("_row")
    if before is None:
        return feed.groupBy(named(key)).agg(last).select("_row.*")
    held = F.when(F.col("_change_type") != "insert", named(before))
    return (
        feed.groupBy(named(key))
        .agg(last, F.min_by(F.struct(held.alias("_before")), order).alias("_first"))
        .select("_row.*", "_first._before")
    )


def net_changes(
    current: DataFrame, desired: DataFrame, *, key: str | Sequence[str], compare: Sequence[str]
) -> DataFrame:
    """The operations that turn `current` into `desired`; there is none for rows that are equal in `compare`.

    Args:
        current: rows of the target, with at least the columns `key` and `compare`, of the same scope as `desired`.
        desired: whole rows of the target, at most one for each key.
        key: one key column, which is never null, or several, which may be null.
        compare: two rows are equal if they are equal in these columns; null equals null.

    Returns:
        The columns of `desired` and `_op` insert, update or delete. A delete has only its key; the rest is null.
    """
    from pyspark.sql import functions as F

    keys = {k: f"_key_{n}" for n, k in enumerate([key] if isinstance(key, str) else key)}
    before = current.select(
        *[named(k).alias(was) for k, was in keys.items()],
        comparable(current, compare).alias("_was"),
        F.lit(True).alias("_is_held"),
    )

    def same(k: str, was: str) -> Column:
        # A null-safe join carries twice the keys, which a key of one column (never null) does not need.
        return named(k).eqNullSafe(F.col(was)) if len(keys) > 1 else named(k) == F.col(was)

    on = reduce(and_, [same(k, was) for k, was in keys.items()])
    joined = desired.withColumn("_is_wanted", F.lit(True)).join(before, on, "full_outer")
    op = (
        F.when(F.col("_is_wanted").isNull(), "delete")
        .when(F.col("_is_held").isNull(), "insert")
        .when(~F.col("_was").eqNullSafe(comparable(desired, compare)), "update")
    )
    columns = [F.coalesce(named(c), keys[c]).alias(c) if c in keys else named(c) for c in desired.columns]
    return joined.select(*columns, op.alias("_op")).where("_op IS NOT NULL")


def comparable(rows: DataFrame, columns: Sequence[str]) -> Column:
    """A struct of `columns` that can be compared and ordered; a map, which Spark cannot compare, is sorted entries."""
    from pyspark.sql import functions as F

    return F.struct(*[_without_maps(named(c), rows.schema[c].dataType).alias(c) for c in columns])


def named(column: str) -> Column:
    """The column of exactly this name: without the quotes Spark would take a dot in it for a field of a struct."""
    from pyspark.sql import functions as F

    return F.col("`" + column.replace("`", "``") + "`")


def _without_maps(value: Column, of: DataType) -> Column:
    from pyspark.sql import functions as F
    from pyspark.sql.types import ArrayType, MapType, StructType

    if "map<" not in of.simpleString():
        return value
    if isinstance(of, MapType):

        def entry(pair: Column) -> Column:
            return F.struct(pair.getField("key"), _without_maps(pair.getField("value"), of.valueType))

        return F.array_sort(F.transform(F.map_entries(value), entry))
    if isinstance(of, ArrayType):
        return F.transform(value, lambda item: _without_maps(item, of.elementType))
    assert isinstance(of, StructType)
    fields = [_without_maps(value.getField(f.name), f.dataType).alias(f.name) for f in of.fields]
    return F.when(value.isNotNull(), F.struct(*fields))
