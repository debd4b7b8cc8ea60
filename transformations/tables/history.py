"""Changes of keyed rows in, the time for which each version was true, and the changes of a history table, out.

A history (SCD2) has a row for each version of a key with `valid_from`, `valid_to` (null: still true) and `is_current`.
An interval is half-open, [valid_from, valid_to), and the intervals of a key never overlap, so that one comparison gives
the state at any instant (`state_at`).

A late change can split an interval. What follows it then depends on changes that made no difference before: a row that
came again unchanged, or a delete of a row that was not there. Intervals alone do not hold those changes, and would give
another result than the same changes in order. So a history table keeps each of them as a *marker*: a row of its own
with `_marks` "repeat" or "delete" instead of null, and with `valid_to` = `valid_from`, an empty interval that no
instant falls into. Versions and markers together hold every change of a key, at most one row for each instant. So the
history does not depend on the order in which changes come, nor on how they are batched.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, Literal

from transformations.errors import ConfigurationError
from transformations.tables.changes import comparable, named, net_changes

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

Replaced = Literal["nothing", "same instants", "everything"]
VALIDITY = ("valid_from", "valid_to", "is_current", "_marks")


def intervals(
    changes: DataFrame,
    *,
    key: Sequence[str],
    order_by: str,
    compare: Sequence[str],
    op: str = "_op",
    then_by: Sequence[str] = (),
) -> DataFrame:
    """When each version of each key was true: `history`, with the same arguments, but without its markers.

    Returns:
        Grain: one row for each version of a key. The columns of `changes` without `op`, then valid_from, valid_to,
        is_current.
    """
    rows = history(changes, key=key, order_by=order_by, compare=compare, op=op, then_by=then_by)
    return rows.where("_marks IS NULL").drop("_marks")


def history(
    changes: DataFrame,
    *,
    key: Sequence[str],
    order_by: str,
    compare: Sequence[str],
    op: str = "_op",
    then_by: Sequence[str] = (),
) -> DataFrame:
    """The versions that `changes` make, and the markers that are needed if a change comes late.

    Consecutive changes that are equal in `compare` are one version, the first of them. A value that comes back after a
    delete or after another value is a new version. A delete ends the current version, if there is one.

    Args:
        changes: in any order, and with duplicates. Columns that are not named here are carried along.
        key: the key columns.
        order_by: the column that orders the changes of a key, an instant or a sequence number; it becomes `valid_from`.
        compare: the columns in which two versions differ; null equals null. In a delete they become null.
        op: the column that says "delete"; every other value is an upsert.
        then_by: decides between changes of the same key and `order_by`: the greatest wins. Without it, or if it is
            equal, an upsert wins over a delete, and then the greater values win. If a later correction must win, name
            the column that says when a change was stored; a duplicate that is stored later then counts as a change.

    Returns:
        Grain: one row for each key and `order_by`. The columns of `changes` without `op`, then valid_from, valid_to,
        is_current, `_marks`.

    Raises:
        ConfigurationError: a column is missing, or has a name that this function adds.
        A null key or `order_by` fails the Spark job, since such a change has no place: refuse it before.
    """
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    _check(changes, named=[*key, order_by, *compare, op, *then_by])
    columns = [c for c in changes.columns if c != op]
    is_delete = F.coalesce(named(op) == "delete", F.lit(False))
    keys, order = [named(k) for k in key], named(order_by)
    checked = changes.select(
        *[
            F.coalesce(named(c), _refuse_null(c)).alias(c) if c in (*key, order_by) else named(c)
            for c in columns
            if c not in compare
        ],
        *[F.when(~is_delete, named(c)).alias(c) for c in compare],
        (~is_delete).alias("_is_upsert"),
    )
    rest = [c for c in columns if c not in (*key, order_by, *compare, *then_by)]
    rank = F.struct(*map(named, then_by), "_is_upsert", comparable(checked, [*compare, *rest]))
    row = F.max_by(F.struct(*[named(c) for c in checked.columns if c not in (*key, order_by)]), rank)
    won = checked.groupBy(*keys, order).agg(row.alias("_row")).select(*keys, order, "_row.*")

    in_order = Window.partitionBy(*keys).orderBy(order)
    value = F.struct("_is_upsert", comparable(won, compare))
    marks = F.when(~F.col("_is_upsert"), "delete").when(value.eqNullSafe(F.lag(value).over(in_order)), "repeat")
    # The nearest boundary that follows, looked for from the end: a frame that grows takes one pass over the rows, while
    # one that shrinks takes a pass for each row.
    from_the_end = Window.partitionBy(*keys).orderBy(order.desc()).rowsBetween(Window.unboundedPreceding, -1)
    is_boundary = F.coalesce(F.col("_marks") != "repeat", F.lit(True))
    ends = F.min(F.when(is_boundary, order)).over(from_the_end)
    valid_to = F.when(F.col("_marks").isNotNull(), order).otherwise(ends)
    return (
        won.withColumn("_marks", marks)
        .withColumn("valid_to", valid_to)
        .select(
            *map(named, columns),
            order.alias("valid_from"),
            "valid_to",
            F.isnull("valid_to").alias("is_current"),
            "_marks",
        )
    )


def history_changes(
    before: DataFrame,
    changes: DataFrame,
    *,
    key: Sequence[str],
    order_by: str,
    compare: Sequence[str],
    op: str = "_op",
    then_by: Sequence[str] = (),
    replaces: Replaced = "nothing",
) -> DataFrame:
    """The operations that bring a history table up to date with `changes`, which may be late.

    After them the table equals `history` of all changes ever seen.

    Args:
        before: the table's rows of (at least) the keys in `changes`, with markers, with the columns of `history`.
        changes: as for `history`; use the same other arguments at every call. Changes seen before change nothing.
        replaces: which rows of `before` no longer count because `changes` hold them anew, perhaps judged by other
            rules: "nothing", those of the "same instants" (a window that is read again), or "everything" (a rebuild).

    Returns:
        The columns of `history` and `_op` insert, update or (only if something is replaced) delete, for a MERGE on the
        key columns and `valid_from`. Rows that differ only in columns that are neither in `compare` nor in `then_by`
        are equal.
    """
    from pyspark.sql import functions as F

    if replaces == "everything":
        known = before.limit(0)
    elif replaces == "same instants":
        known = before.join(changes.select(*map(named, [*key, order_by])).distinct(), [*key, order_by], "left_anti")
    else:
        known = before
    was = F.when(F.col("_marks") == "delete", "delete").otherwise("upsert")
    columns = [c for c in changes.columns if c != op]
    both = known.select(*map(named, columns), was.alias(op)).unionByName(changes)
    after = history(both, key=key, order_by=order_by, compare=compare, op=op, then_by=then_by)
    same = [*compare, *then_by, "valid_to", "is_current", "_marks"]
    return net_changes(before, after, key=[*key, "valid_from"], compare=same)


def state_at(history: DataFrame, *, at: Any) -> DataFrame:
    """The versions that were true at an instant: the table as it was then. Grain: at most one row for each key.

    Args:
        history: a history table, or `intervals`.
        at: a value, or a Column, of the type of `valid_from`. A version counts from `valid_from` on, and no longer at
            `valid_to`. An instant without a zone is UTC.
    """
    from pyspark.sql import Column
    from pyspark.sql import functions as F

    if isinstance(at, datetime) and at.tzinfo is None:
        at = at.replace(tzinfo=timezone.utc)  # Spark would take it for a time in the zone of this process
    instant = at if isinstance(at, Column) else F.lit(at)
    return history.where((F.col("valid_from") <= instant) & (F.isnull("valid_to") | (F.col("valid_to") > instant)))


def _refuse_null(column: str) -> Any:
    from pyspark.sql import functions as F

    return F.raise_error(
        F.lit(f"history: a change has no value in {column!r}, so it belongs to no key or instant. Refuse such rows.")
    )


def _check(changes: DataFrame, *, named: Sequence[str]) -> None:
    for column in named:
        if column not in changes.columns:
            raise ConfigurationError.unknown_name("history: column of the changes", column, changes.columns)
    # Spark ignores the case of names.
    taken = [c for c in changes.columns if c.lower() in VALIDITY]
    if taken:
        raise ConfigurationError(
            f"history: the changes have columns of their own named {taken}, which a history adds. Rename them."
        )
