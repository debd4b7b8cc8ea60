"""ingest-records: appends what has arrived from a source of records to bronze.records_NAME, exactly once.

Files that lakeloop lists and Delta tables are read in batches: the commit of a batch says how far the source was read
(`records/positions.py`). Kafka, and files that Auto Loader finds, are Spark streams with a checkpoint: the commit of a
batch contains its number and the id of the stream (`txnVersion`, `txnAppId`), so that a batch which was appended before
a crash is not appended again.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

from pipelines.flow.stage import Context, Counts, Stage, Versions, Work
from pipelines.records.appending import (
    Batch,
    append,
    batch_of_changes,
    batch_of_files,
    batch_of_messages,
    fitted,
)
from pipelines.records.delta_tables import LostFeedError, feed, is_another, is_read, source_head, whole
from pipelines.records.files import Arrival, new_files, note_files, paths_now, unread
from pipelines.records.positions import Position, is_forgettable, position_of
from pipelines.records.source import RecordSource, evolved, follow, source_subjects
from pipelines.records.streams import has_lost_what_was_read, note_table, open_stream, paths_in_order, stream_id
from transformations.errors import LakeloopError, RefusedError

if TYPE_CHECKING:
    from pyspark.sql import DataFrame
    from pyspark.sql.streaming.query import StreamingQuery

log = logging.getLogger(__name__)
COMMAND = "ingest-records"
_NOTHING = {"records": 0, "files": 0, "columns": 0}
_MOST_FILES = 1_000  # of one batch


def look(context: Context) -> Work | None:
    """Whether the source has records that were not read yet. Needs no JVM if the source is a folder.

    New files are passed on in `found`. A stream can only be asked by reading it, so it is always due.
    """
    source = context.about(RecordSource)
    location = source.settings.location
    if source.settings.is_stream:
        return Work((Versions(None, 0, location),))
    position = position_of(context, source, STAGE)
    if source.settings.format == "delta":
        table = source_head(context, source)
        if is_read(position.read, table) and not is_forgettable(context, source, STAGE):
            return None
        return Work((Versions(None, table.version, table.table_id),))
    noted = unread(context, source, after=position.read)
    arrived = new_files(context, source, unread=noted)
    if not arrived and not noted and not is_forgettable(context, source, STAGE):
        return None
    head = context.lake.head(source.files)
    # Noting the new files will be one more commit.
    return Work((Versions(None, (head.version if head else 0) + bool(arrived), location),), found=arrived)


def work(context: Context, due: Work) -> Counts:
    """Append everything that has arrived. Counts: records, files, columns (added or widened).

    If the run is to stop, it ends after the batch that it is at.

    Raises:
        ExpectationFailedError: the contract is frozen and something else arrived; nothing of that batch was written.
        ConfigurationError: the folder or table does not exist; or it is a Delta table without a change feed; or a
            stream in a session of Spark Connect.
        RefusedError: the table was put back meanwhile, or another process reads the source into it.
    """
    source = evolved(context.lake, context.about(RecordSource))
    follow(context.lake, source.bronze)
    with context.progress.step(COMMAND):
        if source.settings.is_stream:
            batches = Batches(context, source)
            query = start(context, source, batches, trigger={"availableNow": True})
            batches.wait_for(query)
            return batches.counts
        position = position_of(context, source, STAGE)
        if position.read is None and context.lake.ensure(source.bronze).version > 0:
            log.warning("%s %s: %s does not say how far it has read; reading all", COMMAND, source.name, source.bronze)
        if source.settings.format == "delta":
            return _ingest_table(context, source, position)
        note_files(context, source, due.found, after=position.read)
        noted = unread(context, source, after=position.read)
        return _ingest(context, source, position, partial(_next_files, context, source, noted))


def _next_files(context: Context, source: RecordSource, noted: Sequence[Arrival], position: Position) -> Batch | None:
    """The next of the files that were noted."""
    left = [arrival for arrival in noted if position.read is None or arrival > Arrival(**position.read)]
    for begin in range(0, len(left), _MOST_FILES):
        found = paths_now(context, source, left[begin : begin + _MOST_FILES], unread=left)
        if found:
            last = max(found)
            # Of two files that are one now, the place of the later one counts.
            paths = list(dict.fromkeys(reversed(found.values())))[::-1]
            return batch_of_files(context, paths, read=asdict(last))
    return None


def _ingest_table(context: Context, source: RecordSource, position: Position) -> Counts:
    """Read a Delta table up to its version now.

    All of it is read if it is another table now, or if commits that would be read next are gone.
    """
    head = source_head(context, source)

    def next_commits(position: Position) -> Batch | None:
        if position.read is None:
            rows, read = whole(context, source, head, fit=partial(fitted, source))
            return batch_of_changes(rows, may_go=False, read=asdict(read))
        if is_read(position.read, head):
            return None
        changes, read, may_go = feed(context, source, position.read, head)
        return batch_of_changes(changes, may_go=may_go, read=asdict(read))

    if position.read is not None and is_another(context, source, position.read, head):
        why = "has not the commit that was read last"
    else:
        try:
            return _ingest(context, source, position, next_commits)
        except LostFeedError:
            why = "has no longer the commits that would be read next, or other columns"
    log.warning("%s %s: %s %s; reading all anew", COMMAND, source.name, source.settings.location, why)
    return _ingest(context, source, position.anew(), next_commits)


def _ingest(
    context: Context, source: RecordSource, position: Position, next_batch: Callable[[Position], Batch | None]
) -> Counts:
    """Append batch after batch, until there is none or the run is to stop. After each, bronze says what it has read."""
    counts = Counter(_NOTHING)
    while not context.is_stopping() and (batch := next_batch(position)) is not None:
        reached = position.following(batch.read)
        counts.update(append(context, source, batch, txn=reached.txn(source), note=reached.note))
        before, position = position, position_of(context, source, STAGE)
        if position == before:
            raise RefusedError(
                f"{COMMAND}: {source.bronze} was put back while {source.name} was read into it, or another process "
                "reads it too. Run again: it goes on from what is there then."
            )
        if position != reached:
            # The batch of a process that was killed has landed in the place of this one. What is left may be other
            # than was looked up: the next run looks again.
            log.warning("%s %s: another process has read it too; the next run goes on", COMMAND, source.name)
            break
    return counts


def start(
    context: Context, source: RecordSource, batches: Callable[[Any, int], None], *, trigger: dict[str, Any]
) -> StreamingQuery:
    """Start the source's stream, which calls `batches` with each batch."""
    frame, checkpoint = open_stream(context, source)
    writer = frame.writeStream.foreachBatch(batches).option("checkpointLocation", str(checkpoint))
    return writer.queryName(f"{COMMAND} {source.name}").trigger(**trigger).start()


class Batches:
    """The function that a stream calls with each batch.

    Attributes:
        failure: the error of lakeloop that ended the stream, or None.
        counts: the sums of the counts of all batches.
    """

    def __init__(self, context: Context, source: RecordSource) -> None:
        self._context, self._source = context, source
        self.failure: LakeloopError | None = None
        self.counts = Counter(_NOTHING)

    def __call__(self, batch: DataFrame, batch_id: int) -> None:
        try:
            if has_lost_what_was_read(self._context, self._source):
                raise LakeloopError(
                    f"ingest-records: {self._source.bronze} was put back to an earlier state while {self._source.name} "
                    "was read into it. Run again: the source is then read anew."
                )
            txn = (stream_id(self._context, self._source), batch_id)
            if self._source.settings.is_files:
                found = batch_of_files(self._context, paths_in_order(self._context, self._source, batch))
            else:
                found = batch_of_messages(batch)
            counts = append(self._context, self._source, found, txn=txn)
            note_table(self._context, self._source)
        except LakeloopError as error:
            # The stream would raise an error of its own class instead.
            self.failure = error
            raise
        self.counts.update(counts)

    def wait_for(self, query: StreamingQuery) -> None:
        """Wait until the stream has ended.

        Raises:
            LakeloopError: the error that ended it.
        """
        try:
            query.awaitTermination()
        except Exception:
            if self.failure is not None:
                raise self.failure from None
            raise
        note_table(self._context, self._source)


def _position(context: Context) -> str | None:
    source = context.about(RecordSource)
    return None if source.settings.is_stream else position_of(context, source, STAGE).note


def _decided_by(context: Context) -> str:
    """The key of a Delta table: which keys a commit ends depends on it."""
    settings = context.about(RecordSource).settings
    return " ".join(settings.key) if settings.format == "delta" else ""


STAGE = Stage(
    COMMAND,
    "Sources of records → bronze.records_*, each record exactly once.",
    look,
    work,
    targets=("bronze.records_*", "bronze.records_*_files"),
    decided_by=_decided_by,
    subjects=source_subjects,
    position=_position,
    records="it holds what arrived: the next lakeloop run goes on where it ended",
)
