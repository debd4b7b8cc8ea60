"""A source of records in; its stream, and the checkpoint that remembers how far it was read, out.

A checkpoint belongs to one source table and one bronze table, by their ids. Where either is another one now, or the
checkpoint is lost, the stream begins anew: bronze then has second arrivals of the same records, which change nothing
in silver; for a Delta table, keys that it has no longer are deleted first, so that silver equals it again.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.lakehouse import Head
from pipelines.records import RecordSource
from pipelines.settings_records import RecordSettings
from pipelines.stage import Context, is_lost_history
from transformations.errors import ConfigurationError

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

# What Delta says where the table that a stream reads has other columns now, or is another table.
_OTHER_TABLE = (
    "DELTA_SCHEMA_CHANGED",
    "DELTA_STREAMING_INCOMPATIBLE_SCHEMA_CHANGE",
    "DELTA_CHANGE_DATA_FEED_INCOMPATIBLE",
    "DIFFERENT_DELTA_TABLE_READ_BY_STREAMING_SOURCE",
    "DELTA_STREAMING_CANNOT_CONTINUE_PROCESSING_POST_SCHEMA_EVOLUTION",
)


def uses_auto_loader(source: RecordSettings) -> bool:
    """Whether Databricks' Auto Loader finds the files, as it does on Databricks where the setting leaves it open."""
    if not source.is_files or source.discovery == "listing":
        return False
    return source.discovery == "auto_loader" or "DATABRICKS_RUNTIME_VERSION" in os.environ


def auto_loader_options(source: RecordSettings) -> dict[str, str]:
    """Reader options of `cloudFiles`: it tells the names of files, and each is read here by its own columns."""
    patterns = [*source.include] or {"csv": ["*.csv*"], "json": ["*.json*"], "parquet": ["*.parquet"]}[source.format]
    patterns = [pattern if "[" in pattern else _in_any_case(pattern) for pattern in patterns]
    return {
        "cloudFiles.format": "binaryFile",
        "cloudFiles.includeExistingFiles": "true",
        # A file that is written anew under its name arrives anew.
        "cloudFiles.allowOverwrites": "true",
        "recursiveFileLookup": "true",
        "pathGlobFilter": patterns[0] if len(patterns) == 1 else "{" + ",".join(patterns) + "}",
    }


def _in_any_case(pattern: str) -> str:
    return "".join(f"[{sign.lower()}{sign.upper()}]" if sign.isalpha() else sign for sign in pattern)


def open_stream(context: Context, source: RecordSource) -> tuple[DataFrame, Path]:
    """The source's stream as a frame, and its checkpoint.

    Raises:
        ConfigurationError: a Delta table that is not there or has no change feed.
    """
    of, lake = source.settings, context.lake
    checkpoint = checkpoint_of(context, source)
    is_new = not (checkpoint / "metadata").exists()
    stream_id(context, source)
    reader = lake.spark.readStream
    if of.is_files:
        if uses_auto_loader(of):
            loader = reader.format("cloudFiles").options(**auto_loader_options(of))
            found = loader.load(str(context.settings.path(of.location)))
            return found.selectExpr("path", "modificationTime AS modified_at"), checkpoint
        rows = reader.format("delta")
        listed = (
            rows.load(str(lake.folder(source.files))) if lake.is_local else rows.table(lake.identifier(source.files))
        )
        return listed.where("is_arrival").select("path", "_ingested_at", "modified_at"), checkpoint
    if of.format == "kafka":
        options = {"startingOffsets": "earliest", "failOnDataLoss": "true"} | of.options
        plain = {key if "." not in key else f"kafka.{key}": value for key, value in options.items()}
        return reader.format("kafka").options(subscribe=of.location, **plain).load(), checkpoint
    if is_new:
        _delete_what_is_gone(context, source)
    feed = reader.format("delta").option("readChangeFeed", "true").options(**of.options)
    return (feed.load(str(_folder(context, of))) if _is_folder(of) else feed.table(of.location)), checkpoint


def checkpoint_of(context: Context, source: RecordSource) -> Path:
    """The folder of the checkpoint, for the source and the bronze table as they are now."""
    of, lake = source.settings, context.lake
    if of.format == "delta":
        source_id = source_head(context, source).table_id
    elif of.format == "kafka" or uses_auto_loader(of):
        told = f"{of.options.get('bootstrap.servers', '')} {of.location}"
        source_id = hashlib.sha256(told.encode()).hexdigest()[:16]
    else:
        source_id = lake.ensure(source.files).table_id
    folder = context.settings.path(context.settings.checkpoints) / f"records_{source.name}"
    return folder / f"{source_id}-{lake.ensure(source.bronze).table_id}"


def stream_id(context: Context, source: RecordSource) -> str:
    """An id that lives and dies with the checkpoint: one that begins anew counts its batches from 0 again, and must
    not be taken for the old one, whose batches were all appended.
    """
    file = checkpoint_of(context, source) / "stream_id"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        new = file.with_name(f".stream_id-{uuid.uuid4().hex}")
        new.write_text(f"ingest-records-{source.name}-{uuid.uuid4().hex}", encoding="utf-8")
        new.replace(file)
    return file.read_text(encoding="utf-8")


def drop_checkpoint(context: Context, source: RecordSource) -> None:
    shutil.rmtree(checkpoint_of(context, source), ignore_errors=True)


def is_outdated(source: RecordSource, error: Exception) -> bool:
    """Whether a Delta table can no longer tell what a stream would read next, but can be read from its beginning."""
    text = str(error)
    return source.settings.format == "delta" and (is_lost_history(error) or any(sign in text for sign in _OTHER_TABLE))


def source_head(context: Context, source: RecordSource) -> Head:
    """The identity and version of a Delta table that is a source."""
    of, lake = source.settings, context.lake
    if _is_folder(of):
        from deltalake import DeltaTable
        from deltalake.exceptions import TableNotFoundError

        try:
            table = DeltaTable(str(_folder(context, of)))
        except TableNotFoundError:
            table = None
        head = None if table is None else Head(str(table.metadata().id), table.version())
        has_feed = table is not None and table.metadata().configuration.get("delta.enableChangeDataFeed") == "true"
    else:
        head = lake.named_head(of.location)
        row = lake.spark.sql(f"DESCRIBE DETAIL {of.location}").select("properties").first() if head else None
        has_feed = row is not None and row["properties"].get("delta.enableChangeDataFeed") == "true"
    if head is None:
        raise ConfigurationError(
            f"ingest-records: no Delta table at {of.location!r} for the source {source.name!r}. Correct "
            f"records.{source.name}.location in lakeloop.yml."
        )
    if not has_feed:
        raise ConfigurationError(
            f"ingest-records: the Delta table {of.location!r} of the source {source.name!r} keeps no change feed. Turn "
            f"it on: ALTER TABLE … SET TBLPROPERTIES ('delta.enableChangeDataFeed' = 'true')."
        )
    return head


def _is_folder(of: RecordSettings) -> bool:
    return "/" in of.location


def _folder(context: Context, of: RecordSettings) -> Path:
    return context.settings.path(of.location)


def _delete_what_is_gone(context: Context, source: RecordSource) -> None:
    """Append a delete for each key that bronze has alive and the table, which will be read whole, has not."""
    from pyspark.sql import functions as F

    lake, key = context.lake, list(source.settings.key)
    arrivals = lake.read(source.bronze).where(" AND ".join(f"`{k}` IS NOT NULL" for k in key))
    last = F.max_by("_op", F.struct("_changed_at", "_source_version", "_offset"))
    alive = arrivals.groupBy(*key).agg(last.alias("_op")).where("_op <> 'delete'").select(*key)
    reader = lake.spark.read.format("delta")
    table = (
        reader.load(str(_folder(context, source.settings)))
        if _is_folder(source.settings)
        else reader.table(source.settings.location)
    )
    there = table.select(*[F.col(k).cast(source.contract.columns[k]).alias(k) for k in key])
    gone = alive.join(there, key, "left_anti")
    types = source.contract.columns
    others = [F.lit(None).cast(of).alias(name) for name, of in types.items() if name not in key]
    now = F.lit(context.now())
    rows = gone.select(
        *key,
        *others,
        F.lit("delete").alias("_op"),
        now.alias("_changed_at"),
        F.lit(None).cast("string").alias("_source_file"),
        F.lit(None).cast("bigint").alias("_source_version"),
        F.lit(None).cast("bigint").alias("_offset"),
        F.lit(None).cast("string").alias("_rescued"),
        F.lit(None).cast("map<string,string>").alias("_texts"),
        now.alias("_ingested_at"),
        F.lit(context.run_id).alias("_run_id"),
    ).persist()
    try:
        if not rows.isEmpty():
            lake.append(source.bronze, rows)
    finally:
        rows.unpersist()
