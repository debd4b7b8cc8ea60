"""Reads the commits of a Delta table as records, and remembers how far the table was read.

Silver must equal the source table, and the change feed alone does not give that:

- An update can move a row to another key. The feed shows the old key only in the row before the update (the preimage),
  so a preimage counts as a delete of its key.
- Two rows can have the same key, and one of them is deleted: the key still exists. So for each key that seems to end,
  the table itself is read.
- A backup or another table can replace the table, with the same version numbers. So a `Position` beside the stream's
  checkpoint identifies the last commit that was read by its content, and keeps the instant given to its changes.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.flow.stage import Context
from pipelines.lakehouse.catalog_log import named_commit_id, named_head
from pipelines.lakehouse.delta_folder import FEW_ROWS
from pipelines.lakehouse.table_log import folder_commit_id
from pipelines.records.reader import Part, TableRecord, quoted, typed_part
from pipelines.records.source import RecordSource, are_there
from pipelines.settings.records import RecordSettings
from transformations.errors import ConfigurationError
from transformations.tables.canonical import values_hash

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

_OF_THE_FEED = ("_change_type", "_commit_version", "_commit_timestamp", "_commit_micros")
# `_offset` of a row orders what one commit says of a key: the row before it, the row after it, and a row that the table
# still has although another row of the key was deleted.
_BEFORE, _AFTER, _STILL = 0, 1, 2


@dataclass(frozen=True)
class SourceHead:
    """The current state of a source table: its identity, its version, and the id of that version's commit."""

    table_id: str
    version: int
    commit: str | None


@dataclass(frozen=True)
class Position:
    """How far a stream has read its table.

    Attributes:
        version: the last version that was read, or that is being read; -1: none yet.
        commit: the id of that version's commit; another commit of the same number has another id.
        micros: the instant given to its changes, in microseconds since 1970; a later commit always gets a later one.
        batch: the number of the last batch.
        before: `micros` as it was before that batch.
        is_done: a run finished at this version.
        looked_up: the version at which missing keys were looked for, before the whole table is read again.
        key: the key columns with which it was read; which keys a commit ends depends on them.
    """

    version: int
    commit: str | None
    micros: int | None
    batch: int = -1
    before: int | None = None
    is_done: bool = False
    looked_up: int | None = None
    key: list[str] = field(default_factory=list)

    @staticmethod
    def of(checkpoint: Path) -> Position | None:
        try:
            return Position(**json.loads((checkpoint / "position.json").read_text(encoding="utf-8")))
        except (FileNotFoundError, NotADirectoryError, ValueError, TypeError):
            return None

    def save(self, checkpoint: Path) -> None:
        write_whole(checkpoint / "position.json", json.dumps(asdict(self)))


def write_whole(file: Path, text: str) -> None:
    """Write a small file of a checkpoint, in one step: a crash leaves the old one or the new one."""
    file.parent.mkdir(parents=True, exist_ok=True)
    new = file.with_name(f".{file.name}-{uuid.uuid4().hex}")
    new.write_text(text, encoding="utf-8")
    new.replace(file)


def is_folder(of: RecordSettings) -> bool:
    return "/" in of.location


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
        head = named_head(lake.spark, settings.location)
        found = None if head is None else (head.table_id, head.version)
        row = lake.spark.sql(f"DESCRIBE DETAIL {settings.location}").select("properties").first() if head else None
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
    return named_commit_id(lake.spark, settings.location, version)


def is_read(source: RecordSource, head: SourceHead, *, checkpoint: Path) -> bool:
    """Whether a run has read the table up to `head` with the same key, and finished."""
    position = Position.of(checkpoint)
    if position is not None and position.key != list(source.settings.key):
        return False
    return (
        position is not None
        and position.is_done
        and (position.version, position.commit)
        == (
            head.version,
            head.commit,
        )
    )


def is_another(context: Context, source: RecordSource, *, checkpoint: Path) -> bool:
    """Whether the table must be read from the beginning.

    That is so if the commit that was read last is not in it (for example, because a backup was restored) or is not
    known, or if the table was read with another key.
    """
    position = Position.of(checkpoint)
    if position is None or position.version < 0 or position.commit is None:
        return True
    if position.key != list(source.settings.key):
        return True
    return commit_of(context, source, position.version) != position.commit


def settle(checkpoint: Path, head: SourceHead) -> None:
    """Note that a run, which began when the table was at `head`, has read all of it."""
    position = Position.of(checkpoint)
    if position is None or position.version < head.version:
        micros = position.micros if position else None
        batch, key = (position.batch, position.key) if position else (-1, [])
        position = Position(head.version, head.commit, micros, before=micros, batch=batch, key=key)
    replace(position, is_done=True).save(checkpoint)


def begin(context: Context, source: RecordSource, *, checkpoint: Path, fit: Callable[[Part], DataFrame]) -> None:
    """Prepare for reading the whole table: in bronze, delete the keys of an earlier reading that it does not have.

    What is read from now on gets later instants than everything before, whatever the commits' own times are.
    """
    from pyspark.sql import functions as F

    head, key = source_head(context, source), list(source.settings.key)
    last = context.lake.read(source.bronze).agg(F.max(F.unix_micros("_changed_at"))).first()
    if last is None or last[0] is None:
        Position(-1, None, None, key=key).save(checkpoint)
        return
    micros = max(_micros(context), last[0] + 1)
    _end_what_is_gone(context, source, version=head.version, micros=micros, fit=fit)
    Position(-1, None, micros, looked_up=head.version, key=key).save(checkpoint)


def dated(
    context: Context,
    source: RecordSource,
    feed: DataFrame,
    *,
    batch: int | None,
    checkpoint: Path,
    fit: Callable[[Part], DataFrame],
) -> tuple[DataFrame, bool]:
    """The batch `feed` with an instant for each commit (`_commit_micros`), and whether it has deletes or preimages.

    The instants grow from commit to commit, even if the commits' own times do not (clocks, a copy of the log, another
    table). The position is saved before the batch is read, so that a commit which was only half read is recognized if
    it is another commit later.

    Args:
        batch: its number in the stream; None: it is not of a stream, and no position is saved.
    """
    from pyspark.sql import functions as F

    goes = F.bool_or(F.col("_change_type").isin("delete", "update_preimage"))
    summaries = feed.groupBy("_commit_version").agg(F.max(F.unix_micros("_commit_timestamp")), goes).collect()
    commits = {row[0]: row[1] for row in summaries}
    may_go = any(row[2] for row in summaries)
    position = (None if batch is None else Position.of(checkpoint)) or Position(-1, None, None)
    if commits and position.looked_up is not None and position.micros is not None:
        begun = min(commits)
        if begun != position.looked_up:  # the table got further commits before the stream began
            _end_what_is_gone(context, source, version=begun, micros=position.micros, fit=fit)
    before = floor = position.before if position.batch == batch else position.micros
    micros: dict[int, int] = {}
    for version in sorted(commits):
        if version == position.version and position.batch != batch and position.micros is not None:
            micros[version] = position.micros  # the rest of a commit that was split between two batches
        else:
            micros[version] = commits[version] if floor is None else max(commits[version], floor + 1)
        floor = micros[version]
    if commits and batch is not None:
        last = max(commits)
        commit, key = commit_of(context, source, last), list(source.settings.key)
        Position(last, commit, floor, batch, before, key=key).save(checkpoint)
    moved = [(version, at) for version, at in micros.items() if at != commits[version]]
    if not moved:
        return feed.withColumn("_commit_micros", F.unix_micros("_commit_timestamp")), may_go
    known = feed.sparkSession.createDataFrame(list(micros.items()), "_commit_version bigint, _commit_micros bigint")
    return feed.join(F.broadcast(known), "_commit_version"), may_go


def feed_part(feed: DataFrame, *, name: str) -> Part:
    """Rows of a change feed after `dated`, as records. A row as it was before an update gets the `_op` "before"."""
    from pyspark.sql import functions as F

    columns = [c for c in feed.columns if c not in _OF_THE_FEED]
    kind, record = F.col("_change_type"), TableRecord(feed.select(*[F.col(quoted(c)) for c in columns]))
    placed = feed.select(
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
    ended = context.frames.hold(rows.where(has_key).groupBy(*key).agg(last).where("_last._op = 'delete'"))
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

    settings, spark = source.settings, context.lake.spark
    reader = spark.read.format("delta").option("versionAsOf", version)
    rows = (
        reader.load(str(context.settings.path(settings.location)))
        if is_folder(settings)
        else reader.table(settings.location)
    )
    feed = rows.withColumns(
        {
            "_change_type": F.lit("insert"),
            "_commit_version": F.lit(version).cast("bigint"),
            "_commit_timestamp": F.lit(None).cast("timestamp"),
            "_commit_micros": F.lit(None).cast("bigint"),
        }
    )
    return feed_part(feed, name=settings.location)


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
    rows = context.frames.hold(rows)
    try:
        if not rows.isEmpty():
            lake.append(source.bronze, rows)
    finally:
        context.frames.release(rows)


def _micros(context: Context) -> int:
    now = context.now()
    return int(now.timestamp()) * 1_000_000 + now.microsecond
