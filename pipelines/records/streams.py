"""Opens Kafka, or the files that Auto Loader finds, as a Spark stream, with the checkpoint that says how far it got.

A checkpoint belongs to one topic or folder and one bronze table (by its id). If one of these has changed, or the
checkpoint is lost, the stream starts from the beginning: bronze then has the same records twice, which changes nothing
in silver. So it does if the bronze table was put back, from a copy or by RESTORE, to a state before what the stream has
read: a note in the checkpoint tells.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import uuid
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.flow.stage import Context
from pipelines.flow.states import TableMark, are_as_they_were, mark_now
from pipelines.records.source import RecordSource
from pipelines.settings.records import RecordSettings
from transformations.errors import ConfigurationError

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

log = logging.getLogger(__name__)
_TABLE = "tables.json"


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


def open_stream(context: Context, source: RecordSource) -> tuple[DataFrame, Path]:
    """The source's stream as a frame, and its checkpoint.

    Raises:
        ConfigurationError: the session is one of Spark Connect.
    """
    settings, reader = source.settings, context.lake.spark.readStream
    if not hasattr(context.lake.spark, "sparkContext"):
        raise ConfigurationError(
            f"ingest-records: the source {source.name!r} is read as a stream, whose batches this process appends, and "
            "a Spark Connect session (serverless compute has no other) cannot call it back. "
            + (
                f"Set records.{source.name}.discovery to listing in lakeloop.yml."
                if settings.is_files
                else "Read it in a session of its own, on a cluster or a local one."
            )
        )
    checkpoint = checkpoint_of(context, source)
    is_put_back = has_lost_what_was_read(context, source)
    if is_put_back:
        log.warning(
            "ingest-records %s: %s was put back to a state before what was read last; reading all anew",
            source.name,
            source.bronze,
        )
        shutil.rmtree(checkpoint, ignore_errors=True)
    stream_id(context, source)
    if settings.is_files:
        found = reader.format("cloudFiles").options(**auto_loader_options(settings))
        files = found.load(str(context.settings.path(settings.location)))
        return files.selectExpr("path", "modificationTime AS modified_at"), checkpoint
    options = {"startingOffsets": "earliest", "failOnDataLoss": "true"} | settings.options
    if is_put_back:  # "latest" would leave out what came since the last run
        options["startingOffsets"] = "earliest"
    plain = {key if "." not in key else f"kafka.{key}": value for key, value in options.items()}
    return reader.format("kafka").options(subscribe=settings.location, **plain).load(), checkpoint


def checkpoint_of(context: Context, source: RecordSource) -> Path:
    """The folder of the checkpoint for the source and the bronze table as they are now; it may not exist yet."""
    settings, lake = source.settings, context.lake
    address = f"{settings.options.get('bootstrap.servers', '')} {settings.location}"
    source_id = hashlib.sha256(address.encode()).hexdigest()[:16]
    folder = context.settings.path(context.settings.checkpoints) / f"records_{source.name}"
    return folder / f"{source_id}-{lake.ensure(source.bronze).table_id}"


def stream_id(context: Context, source: RecordSource) -> str:
    """An id of the stream, kept in the checkpoint and deleted with it.

    A new checkpoint counts its batches from 0 again. With a new id, they are not mistaken for those of the old one,
    which were appended already.
    """
    file = checkpoint_of(context, source) / "stream_id"
    if not file.exists():
        _write_whole(file, f"ingest-records-{source.name}-{uuid.uuid4().hex}")
    return file.read_text(encoding="utf-8")


def note_table(context: Context, source: RecordSource) -> None:
    """Note in the checkpoint what the bronze table is now: it holds all that the stream has read."""
    marks = [mark_now(context.lake, source.bronze)]
    _write_whole(
        checkpoint_of(context, source) / _TABLE, json.dumps([asdict(mark) for mark in marks if mark is not None])
    )


def has_lost_what_was_read(context: Context, source: RecordSource) -> bool:
    """Whether the bronze table was put back since `note_table`. False if nothing was noted."""
    try:
        noted = json.loads((checkpoint_of(context, source) / _TABLE).read_text(encoding="utf-8"))
        marks = [TableMark(**mark) for mark in noted]
    except (FileNotFoundError, NotADirectoryError, ValueError, TypeError):
        return False
    return not are_as_they_were(context.lake, marks)


def _write_whole(file: Path, text: str) -> None:
    """Write a small file of a checkpoint, in one step: a crash leaves the old one or the new one."""
    file.parent.mkdir(parents=True, exist_ok=True)
    new = file.with_name(f".{file.name}-{uuid.uuid4().hex}")
    new.write_text(text, encoding="utf-8")
    new.replace(file)


def paths_in_order(context: Context, source: RecordSource, batch: DataFrame) -> list[str]:
    """The files of a batch of Auto Loader, ordered by when they were modified, then by name."""
    from pyspark.sql import functions as F

    folder = str(context.settings.path(source.settings.location))
    last: dict[str, int] = {}
    # As a number: Python's datetimes would be in this machine's time zone.
    for path, modified_at in batch.select("path", F.unix_micros("modified_at")).collect():
        path = _below(folder, path)
        last[path] = max(last.get(path, modified_at), modified_at)
    return sorted(last, key=lambda path: (last[path], path))


def _below(folder: str, path: str) -> str:
    """A path relative to `folder`, although Auto Loader gives whole URLs."""
    from urllib.parse import unquote

    if "://" not in path and not path.startswith(("dbfs:", "file:")):
        return path
    plain = unquote(path)
    return plain[plain.index(folder) + len(folder) :].lstrip("/")
