"""The changed rows of a table that a stage must look at, and the merge of its results into its target."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.flow.rows import Rows, as_frame, selected, with_values
from pipelines.flow.stage import Context, Versions
from pipelines.lakehouse.delta_folder import FEW_BYTES, FEW_ROWS
from pipelines.lakehouse.held_frames import rows_of, text_bytes
from transformations.tables import few_rows
from transformations.tables.changes import fold_changes, net_changes

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


def differences(
    context: Context, current: Rows, desired: Rows, *, key: str | Sequence[str], compare: Sequence[str]
) -> Rows:
    """`transformations.tables.changes.net_changes`, of frames or of rows in memory."""
    if isinstance(current, pa.Table) and isinstance(desired, pa.Table):
        return few_rows.net_changes(current, desired, key=key, compare=compare)
    return net_changes(as_frame(context, current), as_frame(context, desired), key=key, compare=compare)


def apply_changes(context: Context, table: str, changes: Rows, *, within: str = "TRUE") -> dict[str, int]:
    """Merge net changes into `table`; if there are none, nothing is committed. Returns the number of rows by operation.

    Args:
        within: a condition that holds for all keys, as SQL on `target`: files outside it are not read.
    """
    counts = {"insert": 0, "update": 0, "delete": 0}
    if isinstance(changes, pa.Table):
        counts.update(
            (row_count["values"], row_count["counts"]) for row_count in pc.value_counts(changes["_op"]).to_pylist()
        )
        context.lake.merge_arrow(table, changes)
        return counts
    from pyspark.sql import functions as F

    changes = context.frames.hold(changes, is_repeatable=True)  # what is not is held before it is compared
    try:
        sized = changes.groupBy("_op").agg(F.count("*").alias("rows"), text_bytes(changes).alias("bytes"))
        found = rows_of(sized).to_pylist()
        counts.update({row["_op"]: row["rows"] for row in found})
        if any(counts.values()):
            is_small = sum(row["bytes"] or 0 for row in found) <= FEW_BYTES
            context.lake.merge(table, changes, rows=sum(counts.values()) if is_small else None, within=within)
        return counts
    finally:
        context.frames.release(changes)


def changed(
    context: Context, table: str, *, versions: Versions, key: str, also: Sequence[str] = ()
) -> tuple[Rows, Rows]:
    """What changed in some versions of a keyed table: the rows to apply, and all their keys with the deleted ones.

    Args:
        also: keys whose rows are wanted although they may not have changed.
    """
    lake = context.lake
    if versions.since is None:
        every = lake.few_rows(table, version=versions.until)
        rows = lake.read(table, version=versions.until) if every is None else every
        return rows, selected(rows, [key])
    if (few := _few_changed(context, table, versions=versions, key=key, also=also)) is not None:
        return few
    from pyspark.sql import functions as F

    if versions.since < versions.until:
        feed = lake.read_changes(table, after=versions.since, until=versions.until)
        folded = held_if_few(context, fold_changes(feed, key=key))
        rows, keys = folded.where("_op = 'upsert'").drop("_op"), folded.select(key)
        if not also:
            return rows, keys
        more = lake.read_keys(table, key, also).join(F.broadcast(keys), key, "left_anti")
        return rows.unionByName(more.select(*rows.columns)), keys.union(more.select(key))
    rows = lake.read_keys(table, key, also)
    return rows, rows.select(key)


def _few_changed(
    context: Context, table: str, *, versions: Versions, key: str, also: Sequence[str]
) -> tuple[pa.Table, pa.Table] | None:
    """What `changed` returns, read in memory; None if Spark must read it."""
    assert versions.since is not None
    again = context.lake.few_keys(table, key, also)
    feed = context.lake.few_changes(table, after=versions.since, until=versions.until)
    if again is None or feed is None:
        return None
    folded = few_rows.fold_changes(feed, key=key)
    again = again.filter(pc.invert(pc.is_in(again[key], folded[key].combine_chunks())))
    upserts = folded.filter(pc.equal(folded["_op"], "upsert")).drop_columns("_op")
    rows = pa.concat_tables([upserts, again.select(upserts.column_names).cast(upserts.schema)])
    return rows, pa.concat_tables([folded.select([key]), again.select([key])])


def stamped(context: Context, rows: Rows, *, versions: Versions) -> Rows:
    """`rows` with the id of the run that writes them and the version of the source that they were computed from."""
    return with_values(rows, _run_id=context.run_id, _source_version=versions.until)


def held_if_few(context: Context, rows: DataFrame) -> DataFrame:
    """`rows`, held in memory if they are few and persisted if they are many: no later step computes them again."""
    from pyspark.sql import functions as F

    rows = context.frames.hold(rows)
    first = rows.limit(FEW_ROWS + 1)
    # A few rows may still be too large for this process. Their size is measured only if they have long texts.
    sized = first.agg(F.count("*"), text_bytes(rows)).first() if "text" in rows.columns else None
    found = rows_of(first) if sized is None or (sized[0] <= FEW_ROWS and (sized[1] or 0) <= FEW_BYTES) else None
    if found is None or found.num_rows > FEW_ROWS:
        return rows
    context.frames.release(rows)
    return context.lake.frame(found)


def touched(context: Context, table: str, keys: Rows, *, versions: Versions, key: str) -> Rows:
    """The rows of `table` whose `key` is in `keys`; all rows if `versions.since` is None."""
    if versions.since is None:
        every = context.lake.few_rows(table)
        return context.lake.read(table) if every is None else every
    rows = few_of(context, table, keys, key=key)
    if isinstance(rows, pa.Table):
        return rows
    from pyspark.sql import functions as F

    return rows.join(F.broadcast(as_frame(context, keys).select(key).distinct()), key, "left_semi")


def few_of(context: Context, table: str, keys: Rows, *, key: str) -> Rows:
    """The rows of `table` whose `key` is in `keys`; all rows if `keys` is a frame of more than FEW_ROWS values."""
    if isinstance(keys, pa.Table):
        values = pc.unique(keys[key]).to_pylist()
        few = context.lake.few_keys(table, key, values)
        if few is not None:
            return few
        if len(values) <= FEW_ROWS:
            return context.lake.read_keys(table, key, values)
        from pyspark.sql import functions as F

        wanted = context.lake.frame(keys.select([key]).group_by(key).aggregate([]))
        return context.lake.read(table).join(F.broadcast(wanted), key, "left_semi")
    values = rows_of(keys.select(key).limit(FEW_ROWS + 1))[key].to_pylist()
    return context.lake.read(table) if len(values) > FEW_ROWS else context.lake.read_keys(table, key, values)
