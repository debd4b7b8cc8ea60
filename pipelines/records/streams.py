"""Opens a record source as a Spark stream, with the checkpoint that remembers how far it was read.

A checkpoint belongs to one source table and one bronze table (by their ids) and, for a Delta table, to the commit that
was read last. If one of these has changed, or the checkpoint is lost, the stream starts from the beginning: bronze then
has the same records twice, which changes nothing in silver. So it does if one of the source's tables was put back, from
a copy or by RESTORE, to a state before what the stream has read: a note in the checkpoint tells. For a Delta table, the
keys that it no longer has are deleted first, so that silver equals it again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import uuid
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.flow.stage import Context
from pipelines.flow.states import TableMark, are_as_they_were, mark_now
from pipelines.lakehouse.table_log import is_lost_history
from pipelines.records.delta_tables import begin, is_another, is_folder, source_head, write_whole
from pipelines.records.reader import Part
from pipelines.records.source import RecordSource
from pipelines.settings.records import RecordSettings

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

log = logging.getLogger(__name__)
_TABLES = "tables.json"
# Delta's errors if the table that a stream reads has other columns now, or is another table.
_OTHER_TABLE = (
    "DELTA_SCHEMA_CHANGED",
    "DELTA_STREAMING_INCOMPATIBLE_SCHEMA_CHANGE",
    "DELTA_CHANGE_DATA_FEED_INCOMPATIBLE",
    "DIFFERENT_DELTA_TABLE_READ_BY_STREAMING_SOURCE",
    "DELTA_STREAMING_CANNOT_CONTINUE_PROCESSING_POST_SCHEMA_EVOLUTION",
)


def uses_auto_loader(source: RecordSettings) -> bool:
    """Whether Databricks' Auto Loader finds the files: if `discovery` says so, or by default on Databricks."""
    if not source.is_files or source.discovery == "listing":
        return False
    return source.discovery == "auto_loader" or "DATABRICKS_RUNTIME_VERSION" in os.environ


def auto_loader_options(source: RecordSettings) -> dict[str, str]:
    """Reader options of `cloudFiles`, which here only finds the files; `file_parts` reads each by its own columns."""
    patterns = [pattern if "[" in pattern else _in_any_case(pattern) for pattern in source.file_patterns]
    return {
        "cloudFiles.format": "binaryFile",
        "cloudFiles.includeExistingFiles": "true",
        # A file that is overwritten arrives again.
        "cloudFiles.allowOverwrites": "true",
        "recursiveFileLookup": "true",
        "pathGlobFilter": patterns[0] if len(patterns) == 1 else "{" + ",".join(patterns) + "}",
    }


def _in_any_case(pattern: str) -> str:
    return "".join(f"[{sign.lower()}{sign.upper()}]" if sign.isalpha() else sign for sign in pattern)


def open_stream(context: Context, source: RecordSource, *, fit: Callable[[Part], DataFrame]) -> tuple[DataFrame, Path]:
    """The source's stream as a frame, and its checkpoint.

    Args:
        fit: gives the records of a part the contract's columns.

    Raises:
        ConfigurationError: the Delta table does not exist or has no change feed.
    """
    settings, lake = source.settings, context.lake
    checkpoint = checkpoint_of(context, source)
    is_put_back = has_lost_what_was_read(context, source)
    if is_put_back:
        log.warning(
            "ingest-records %s: %s was put back to a state before what was read last; reading all anew",
            source.name,
            source.bronze,
        )
        drop_checkpoint(context, source)
    if settings.format == "delta" and _begins_anew(context, source, checkpoint):
        # The checkpoints of all other tables of this source go too: if such a table comes back, it is read again.
        shutil.rmtree(checkpoint.parent, ignore_errors=True)
        begin(context, source, checkpoint=checkpoint, fit=fit)
    stream_id(context, source)
    reader = lake.spark.readStream
    if settings.is_files:
        if uses_auto_loader(settings):
            loader = reader.format("cloudFiles").options(**auto_loader_options(settings))
            found = loader.load(str(context.settings.path(settings.location)))
            return found.selectExpr("path", "modificationTime AS modified_at"), checkpoint
        listed = lake.read_stream(source.files)
        return listed.where("is_arrival").select("path", "_ingested_at", "modified_at"), checkpoint
    if settings.format == "kafka":
        options = {"startingOffsets": "earliest", "failOnDataLoss": "true"} | settings.options
        if is_put_back:  # "latest" would leave out what came since the last run
            options["startingOffsets"] = "earliest"
        plain = {key if "." not in key else f"kafka.{key}": value for key, value in options.items()}
        return reader.format("kafka").options(subscribe=settings.location, **plain).load(), checkpoint
    feed = reader.format("delta").option("readChangeFeed", "true").options(**settings.options)
    place = str(context.settings.path(settings.location))
    return (feed.load(place) if is_folder(settings) else feed.table(settings.location)), checkpoint


def _begins_anew(context: Context, source: RecordSource, checkpoint: Path) -> bool:
    if not (checkpoint / "metadata").exists():
        return True
    if not is_another(context, source, checkpoint=checkpoint):
        return False
    log.warning(
        "ingest-records %s: %s has not the commit that was read last, or the key is another; reading all anew",
        source.name,
        source.settings.location,
    )
    return True


def checkpoint_of(context: Context, source: RecordSource) -> Path:
    """The folder of the checkpoint for the source and the bronze table as they are now; it may not exist yet."""
    settings, lake = source.settings, context.lake
    if settings.format == "delta":
        source_id = source_head(context, source).table_id
    elif settings.format == "kafka" or uses_auto_loader(settings):
        address = f"{settings.options.get('bootstrap.servers', '')} {settings.location}"
        source_id = hashlib.sha256(address.encode()).hexdigest()[:16]
    else:
        source_id = lake.ensure(source.files).table_id
    folder = context.settings.path(context.settings.checkpoints) / f"records_{source.name}"
    return folder / f"{source_id}-{lake.ensure(source.bronze).table_id}"


def stream_id(context: Context, source: RecordSource) -> str:
    """An id of the stream, kept in the checkpoint and deleted with it.

    A new checkpoint counts its batches from 0 again. With a new id, they are not mistaken for those of the old one,
    which were appended already.
    """
    file = checkpoint_of(context, source) / "stream_id"
    if not file.exists():
        write_whole(file, f"ingest-records-{source.name}-{uuid.uuid4().hex}")
    return file.read_text(encoding="utf-8")


def note_tables(context: Context, source: RecordSource) -> None:
    """Note in the checkpoint what the source's tables are now: they hold all that the stream has read."""
    marks = [mark_now(context.lake, table) for table in (source.bronze, source.files)]
    write_whole(
        checkpoint_of(context, source) / _TABLES, json.dumps([asdict(mark) for mark in marks if mark is not None])
    )


def has_lost_what_was_read(context: Context, source: RecordSource) -> bool:
    """Whether one of the source's tables was put back since `note_tables`. False if nothing was noted."""
    try:
        noted = json.loads((checkpoint_of(context, source) / _TABLES).read_text(encoding="utf-8"))
        marks = [TableMark(**mark) for mark in noted]
    except (FileNotFoundError, NotADirectoryError, ValueError, TypeError):
        return False
    return not are_as_they_were(context.lake, marks)


def below(folder: str, path: str) -> str:
    """A path relative to `folder`, as in the files table; Auto Loader gives whole URLs."""
    from urllib.parse import unquote

    if "://" not in path and not path.startswith(("dbfs:", "file:")):
        return path
    plain = unquote(path)
    return plain[plain.index(folder) + len(folder) :].lstrip("/")


def drop_checkpoint(context: Context, source: RecordSource) -> None:
    shutil.rmtree(checkpoint_of(context, source), ignore_errors=True)


def is_outdated(source: RecordSource, error: Exception) -> bool:
    """Whether an error says that a Delta source cannot be read from where the stream is, but from its beginning."""
    text = str(error)
    return source.settings.format == "delta" and (is_lost_history(error) or any(sign in text for sign in _OTHER_TABLE))
