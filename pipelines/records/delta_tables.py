"""Reads the commits of a Delta table as records, and remembers how far the table was read.

Silver must equal the source table, and the change feed alone does not give that:

- An update can move a row to another key. The feed shows the old key only in the row before the update (the preimage),
  so a preimage counts as a delete of its key.
- Two rows can have the same key, and one of them is deleted: the key still exists. So for each key that seems to end,
  the table itself is read.
- A backup or another table can replace the table, with the same version numbers. So a `TableRead` identifies the last
  commit that was read by its content, and keeps the instant given to its changes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipelines.flow.stage import Context
from pipelines.lakehouse.catalog_log import named_commit_id, named_head
from pipelines.lakehouse.delta_folder import FEW_ROWS
from pipelines.lakehouse.table_log import folder_commit_id, is_lost_history
from pipelines.records.reader import Part, TableRecord, quoted, typed_part
from pipelines.records.source import RecordSource, are_there
from pipelines.settings.records import RecordSettings
from transformations.errors import ConfigurationError
from transformations.tables.canonical import values_hash

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, DataFrameReader

_OF_THE_FEED = ("_change_type", "_commit_version", "_commit_timestamp", "_commit_micros")
# `_offset` of a row orders what one commit says of a key: the row before it, the row after it, and a row that the table
# still has although another row of the key was deleted.
_BEFORE, _AFTER, _STILL = 0, 1, 2
# Delta's errors if the table had other columns at the commits that are to be read.
_OTHER_COLUMNS = ("DELTA_SCHEMA_CHANGED", "DELTA_CHANGE_DATA_FEED_INCOMPATIBLE")


@dataclass(frozen=True)
class SourceHead:
    """The current state of a source table: its identity, its version, and the id of that version's commit."""

    table_id: str
    version: int
    commit: str | None


@dataclass(frozen=True)
class TableRead:
    """How far a table was read.

    Attributes:
        table_id: of the table.
        version: the last version that was read.
        commit: the id of that version's commit; another commit of the same number has another id.
        micros: the instant given to its changes, in microseconds since 1970; a later commit always gets a later one.
    """

    table_id: str
    version: int
    commit: str | None
    micros: int | None


def is_folder(of: RecordSettings) -> bool:
    return "/" in of.location


def _named(of: RecordSettings) -> str:
    """The table's name for Spark SQL; the name of a catalog may have hyphens."""
    return ".".join(map(quoted, of.location.split(".")))


def source_head(context: Context, source: RecordSource) -> SourceHead:
    """The current state of the Delta table that is the source.

    Raises:
        ConfigurationError: the table does not exist, or has no change feed.
    """
    settings, lake = source.settings, context.lake
    if is_folder(settings):
        from deltalake import DeltaTable
        from deltalake.exceptions import TableNotFoundError

        try:
            table = DeltaTable(str(context.settings.path(settings.location)))
        except TableNotFoundError:
            table = None
        found = None if table is None else (str(table.metadata().id), table.version())
        has_feed = table is not None and table.metadata().configuration.get("delta.enableChangeDataFeed") == "true"
    else:
        head = named_head(lake.spark, _named(settings))
        found = None if head is None else (head.table_id, head.version)
        row = lake.spark.sql(f"DESCRIBE DETAIL {_named(settings)}").select("properties").first() if head else None
        has_feed = row is not None and row["properties"].get("delta.enableChangeDataFeed") == "true"
    if found is None:
        raise ConfigurationError(
            f"ingest-records: no Delta table at {settings.location!r} for the source {source.name!r}. Correct "
            f"records.{source.name}.location in lakeloop.yml."
        )
    if not has_feed:
        raise ConfigurationError(
            f"ingest-records: the Delta table {settings.location!r} of the source {source.name!r} keeps no change "
            f"feed. Turn it on: ALTER TABLE … SET TBLPROPERTIES ('delta.enableChangeDataFeed' = 'true')."
        )
    return SourceHead(*found, commit_of(context, source, found[1]))


def commit_of(context: Context, source: RecordSource, version: int) -> str | None:
    """The id of the commit `version` of the table as it is now; None if the log does not have that version."""
    settings, lake = source.settings, context.lake
    if is_folder(settings):
        return folder_commit_id(context.settings.path(settings.location), version)
    return named_commit_id(lake.spark, _named(settings), version)


class LostFeedError(Exception):
    """The commits that would be read next are gone, or had other columns."""


def is_read(read: Mapping[str, Any] | None, head: SourceHead) -> bool:
    """Whether the table was read up to `head`."""
    if read is None:
        return False
    last = TableRead(**read)
    return (last.table_id, last.version, last.commit) == (head.table_id, head.version, head.commit)


def is_another(context: Context, source: RecordSource, read: Mapping[str, Any], head: SourceHead) -> bool:
    """Whether the table at `head` is not the one that was read: it has not the commit that was read last."""
    last = TableRead(**read)
    if last.table_id != head.table_id or last.commit is None:
        return True
    return commit_of(context, source, last.version) != last.commit


def whole(
    context: Context, source: RecordSource, head: SourceHead, *, fit: Callable[[Part], DataFrame]
) -> tuple[DataFrame, TableRead]:
    """All rows of the table at `head`, as a feed with `_commit_micros`.

    The keys of an earlier reading that the table does not have are deleted in bronze first. What is read gets later
    instants than everything before, whatever the commits' own times are.

    Args:
        fit: gives the records of a part the contract's columns.
    """
    from pyspark.sql import functions as F

    micros = _committed_at(context, source, head.version)
    last = context.lake.read(source.bronze).agg(F.max(F.unix_micros("_changed_at"))).first()
    if last is not None and last[0] is not None:
        ended_at = max(_micros(context), last[0] + 1)
        _end_what_is_gone(context, source, version=head.version, micros=ended_at, fit=fit)
        micros = max(micros, ended_at + 1)
    rows = _state(context, source, head.version).withColumn("_commit_micros", F.lit(micros))
    return rows, TableRead(head.table_id, head.version, head.commit, micros)


def feed(
    context: Context, source: RecordSource, read: Mapping[str, Any], head: SourceHead
) -> tuple[DataFrame, TableRead, bool]:
    """The changes since `read` up to `head`, with an instant for each commit (`_commit_micros`).

    The instants grow from commit to commit, even if the commits' own times do not (clocks, a copy of the log, another
    table). Returned too: whether there are deletes or preimages.

    Raises:
        LostFeedError: the table has no longer these commits, or had other columns at one of them.
    """
    from pyspark.sql import functions as F

    last = TableRead(**read)
    reader = context.lake.spark.read.format("delta").option("readChangeFeed", "true")
    reader = reader.option("startingVersion", last.version + 1).option("endingVersion", head.version)
    goes = F.bool_or(F.col("_change_type").isin("delete", "update_preimage"))
    try:
        changes = _loaded(context, source, reader)
        commits = changes.groupBy("_commit_version").agg(F.max(F.unix_micros("_commit_timestamp")), goes).collect()
    except Exception as error:
        if is_lost_history(error) or any(sign in str(error) for sign in _OTHER_COLUMNS):
            raise LostFeedError from error
        raise
    floor, micros = last.micros, {}
    for version, at, _ in sorted(commits):
        floor = micros[version] = at if floor is None else max(at, floor + 1)
    reached = TableRead(head.table_id, head.version, head.commit, floor)
    may_go = any(commit[2] for commit in commits)
    if all(micros[version] == at for version, at, _ in commits):
        return changes.withColumn("_commit_micros", F.unix_micros("_commit_timestamp")), reached, may_go
    known = context.lake.spark.createDataFrame(list(micros.items()), "_commit_version bigint, _commit_micros bigint")
    return changes.join(F.broadcast(known), "_commit_version"), reached, may_go


def _loaded(context: Context, source: RecordSource, reader: DataFrameReader) -> DataFrame:
    if is_folder(source.settings):
        return reader.load(str(context.settings.path(source.settings.location)))
    return reader.table(_named(source.settings))


def _committed_at(context: Context, source: RecordSource, version: int) -> int:
    """When the commit `version` was made, in microseconds since 1970."""
    of = source.settings
    name = f"delta.{quoted(str(context.settings.path(of.location)))}" if is_folder(of) else _named(of)
    commits = context.lake.spark.sql(f"DESCRIBE HISTORY {name}").where(f"version = {version}")
    row = commits.selectExpr("unix_micros(timestamp)").first()
    return _micros(context) if row is None else int(row[0])


def feed_part(changes: DataFrame, *, name: str) -> Part:
    """Rows of `whole` or `feed` as records. A row as it was before an update gets the `_op` "before"."""
    from pyspark.sql import functions as F

    columns = [c for c in changes.columns if c not in _OF_THE_FEED]
    kind, record = F.col("_change_type"), TableRecord(changes.select(*[F.col(quoted(c)) for c in columns]))
    placed = changes.select(
        F.when(kind == "delete", "delete").when(kind == "update_preimage", "before").otherwise("upsert").alias("_op"),
        F.timestamp_micros("_commit_micros").alias("_changed_at"),
        F.lit(None).cast("string").alias("_source_file"),
        F.col("_commit_version").alias("_source_version"),
        # One commit can delete and insert the same key (an overwrite does): the insert counts as the later one.
        F.when(kind.isin("delete", "update_preimage"), _BEFORE).otherwise(_AFTER).cast("bigint").alias("_offset"),
        record.column,
    )
    return typed_part(placed, record, name=name)


def settled(context: Context, source: RecordSource, rows: DataFrame, *, fit: Callable[[Part], DataFrame]) -> DataFrame:
    """The records of a batch of the feed, with `_op` "upsert" or "delete" such that each key ends as in the table.

    A row "before" an update is left out if its commit also upserts its key; else it is a delete. If the last record of
    a key is a delete, but the table still has the key (in another row), that row is added as an upsert.

    Args:
        rows: the rows of `feed_part` with the contract's columns.
        fit: gives the records of a part the contract's columns.
    """
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    key = list(source.settings.key)
    is_upsert = F.col("_op") == "upsert"
    in_commit = Window.partitionBy(*key, "_source_version")
    has_key = are_there(key)
    rows = rows.withColumn("_is_there", F.max(is_upsert).over(in_commit) & has_key)
    rows = rows.where("NOT (_op = 'before' AND _is_there)").drop("_is_there")
    rows = rows.withColumn("_op", F.when(is_upsert, "upsert").otherwise("delete"))
    place = F.struct("_source_version", "_offset")
    last = F.max_by(F.struct("_op", "_changed_at", "_source_version"), place).alias("_last")
    ended = rows.where(has_key).groupBy(*key).agg(last).where("_last._op = 'delete'")
    ended = context.frames.hold(ended, is_repeatable=True)
    found = ended.agg(F.count("*"), F.max("_last._source_version")).first()
    if found is None or found[0] == 0:
        return rows
    state = fit(_state_part(context, source, version=found[1]))
    keys = ended.select(*[F.col(k).alias(f"_key_{n}") for n, k in enumerate(key)], "_last")
    on = [F.col(k) == F.col(f"_key_{n}") for n, k in enumerate(key)]
    still = state.join(F.broadcast(keys) if found[0] <= FEW_ROWS else keys, on)
    still = still.withColumns({c: F.col(f"_last.{c}") for c in ("_changed_at", "_source_version")})
    still = still.withColumn("_offset", F.lit(_STILL).cast("bigint"))
    return rows.unionByName(still.select(*rows.columns))


def _state_part(context: Context, source: RecordSource, *, version: int) -> Part:
    """All rows of the table at `version` as records."""
    from pyspark.sql import functions as F

    rows = _state(context, source, version).withColumn("_commit_micros", F.lit(None).cast("bigint"))
    return feed_part(rows, name=source.settings.location)


def _state(context: Context, source: RecordSource, version: int) -> DataFrame:
    """All rows of the table at `version`, as inserts of a feed."""
    from pyspark.sql import functions as F

    reader = context.lake.spark.read.format("delta").option("versionAsOf", version)
    return _loaded(context, source, reader).withColumns(
        {"_change_type": F.lit("insert"), "_commit_version": F.lit(version).cast("bigint")}
    )


def _end_what_is_gone(
    context: Context, source: RecordSource, *, version: int, micros: int, fit: Callable[[Part], DataFrame]
) -> None:
    """Append to bronze a delete for each key that is alive there and that the table at `version` does not have.

    Append one too for each record with a null in its key: it stays set aside only if the table still has it.
    """
    from pyspark.sql import functions as F
    from pyspark.sql.pandas.types import from_arrow_schema

    lake, key = context.lake, list(source.settings.key)
    bronze = lake.read(source.bronze)
    last = F.max_by("_op", F.struct("_changed_at", "_source_version", "_offset")).alias("_op")
    alive = bronze.where(are_there(key)).groupBy(*key).agg(last).where("_op <> 'delete'").select(*key)
    there = fit(_state_part(context, source, version=version)).select(*key)
    gone = alive.join(there, key, "left_anti")
    columns = source.contract.columns
    deletes = gone.select(
        *[F.col(c) if c in key else F.lit(None).cast(type_name).alias(c) for c, type_name in columns.items()]
    )
    deletes = deletes.withColumn("_rescued", F.lit(None).cast("string"))
    without = bronze.where(~are_there(key)).withColumn("_id", values_hash(bronze, [*columns, "_rescued"]))
    row = F.max_by(F.struct(*columns, "_rescued", "_op"), F.struct("_changed_at", "_source_version", "_offset"))
    without = without.groupBy("_id").agg(row.alias("_row")).select("_row.*").where("_op <> 'delete'").drop("_op")
    arrival = {
        "_op": F.lit("delete"),
        "_changed_at": F.timestamp_micros(F.lit(micros)),
        "_rescued": F.col("_rescued"),
        "_ingested_at": F.timestamp_micros(F.lit(_micros(context))),
        "_run_id": F.lit(context.run_id),
    }
    types = {f.name: f.dataType for f in from_arrow_schema(lake.spec(source.bronze).schema).fields}
    others = {c: arrival.get(c, F.lit(None).cast(type_name)) for c, type_name in types.items() if c not in columns}
    rows = deletes.unionByName(without).select(*columns, *[value.alias(c) for c, value in others.items()])
    rows = context.frames.hold(rows, is_repeatable=True)
    try:
        if not rows.isEmpty():
            lake.append(source.bronze, rows)
    finally:
        context.frames.release(rows)


def _micros(context: Context) -> int:
    now = context.now()
    return int(now.timestamp()) * 1_000_000 + now.microsecond
