"""ingest-records: appends what has arrived from a source of records to bronze.records_NAME, exactly once.

Every source is read as a stream with a checkpoint, and `append_batch` appends its batches: a run uses
`Trigger.AvailableNow`, --continuous a stream without end; a caller may also pass a frame of its own. The commit of a
batch contains its number and the id of the stream (`txnVersion`, `txnAppId`), so that a batch which was appended before
a crash is not appended again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from datetime import datetime, timedelta, timezone
from functools import partial
from typing import TYPE_CHECKING, Any

from pipelines.flow.stage import Context, Counts, Stage, Versions, Work
from pipelines.records.columns import admit, names_of, shown
from pipelines.records.delta_tables import dated, feed_part, is_read, settle, settled, source_head
from pipelines.records.files import new_files, note_files
from pipelines.records.reader import Part, example, file_parts, message_part, unreadable
from pipelines.records.source import RecordSource, evolved, follow, source_subjects
from pipelines.records.streams import (
    below,
    checkpoint_of,
    drop_checkpoint,
    has_lost_what_was_read,
    is_outdated,
    note_tables,
    open_stream,
    stream_id,
    uses_auto_loader,
)
from pipelines.records.text_files import why_broken
from transformations.errors import LakeloopError
from transformations.tables.records import fit

if TYPE_CHECKING:
    from pyspark.sql import DataFrame
    from pyspark.sql.streaming.query import StreamingQuery

log = logging.getLogger(__name__)
COMMAND = "ingest-records"
_NO_FAULT_OF_FILES = ("OutOfMemoryError", "No space left on device")


def look(context: Context) -> Work | None:
    """Whether the source has records that were not read yet. Needs no JVM if the source is a folder.

    New files are passed on in `found`. Kafka and Auto Loader can only be asked by reading them, so they are always due.
    """
    source = context.about(RecordSource)
    location = source.settings.location
    if source.settings.format == "kafka" or uses_auto_loader(source.settings):
        return Work((Versions(None, 0, location),))
    if source.settings.format == "delta":
        table, bronze = source_head(context, source), context.lake.head(source.bronze)
        is_same = bronze is not None and is_read(source, table, checkpoint=checkpoint_of(context, source))
        if is_same and not has_lost_what_was_read(context, source):
            return None
        return Work((Versions(None, table.version, table.table_id),))
    arrived, head = new_files(context, source), context.lake.head(source.files)
    # Noting the new files will be one more commit.
    until = (head.version if head else 0) + bool(arrived)
    if until == 0 or (_read_until(context, source) == until and not has_lost_what_was_read(context, source)):
        return None
    return Work((Versions(None, until, location),), found=arrived)


def _read_until(context: Context, source: RecordSource) -> int | None:
    """The version of the files table up to which the stage has read; None if it must read all, or has never run."""
    state = STAGE.state(context)
    if state is None or state.definition != STAGE.definition(context):
        return None
    heads = [context.lake.head(table) for table in (source.bronze, source.files)]
    known = {mark.table_id for mark in state.targets}
    if any(head is None or head.table_id not in known for head in heads):
        return None
    return next((mark.version for mark in state.sources if mark.table_id == source.settings.location), None)


def work(context: Context, due: Work) -> Counts:
    """Append everything that has arrived. Counts: records, files, columns (added or widened).

    Raises:
        ExpectationFailedError: the contract is frozen and something else arrived; nothing of that batch was written.
        ConfigurationError: the folder or table does not exist; or it is a Delta table without a change feed.
    """
    source = evolved(context.lake, context.about(RecordSource))
    follow(context.lake, source.bronze)
    with context.progress.step(COMMAND):
        if due.found is not None:
            _note(context, source, due.found)
        return ingest(context, source)


def discover(context: Context, source: RecordSource) -> int:
    """Note the files that have arrived, if lakeloop lists the source's files itself. Returns how many were noted."""
    if not source.settings.is_files or uses_auto_loader(source.settings):
        return 0
    return _note(context, source, new_files(context, source))


def _note(context: Context, source: RecordSource, arrived: list[dict[str, Any]]) -> int:
    context.lake.create(source.files)
    note_files(context, source, arrived)
    return len(arrived)


def ingest(context: Context, source: RecordSource) -> Counts:
    """Append what the source has now. Returns the counts of `work`.

    If the next versions of a Delta source are gone, or it is another table now, all of it is read.
    """
    for attempt in (1, 2):
        batches = Batches(context, source)
        head = source_head(context, source) if source.settings.format == "delta" else None
        try:
            query = start(context, source, batches, trigger={"availableNow": True})
            query.awaitTermination()
            if head is not None:
                settle(checkpoint_of(context, source), head)
            note_tables(context, source)
            return batches.counts
        except Exception as error:
            if batches.failure is not None:
                raise batches.failure from None
            if attempt == 2 or not is_outdated(source, error):
                raise
            log.warning("ingest-records %s: what the stream would read next is gone; reading all anew", source.name)
            drop_checkpoint(context, source)
    raise AssertionError("unreachable")


def start(
    context: Context, source: RecordSource, batches: Callable[[Any, int], None], *, trigger: dict[str, Any]
) -> StreamingQuery:
    """Start the source's stream, which calls `batches` with each batch."""
    frame, checkpoint = open_stream(context, source, fit=partial(_fitted, source))
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
        self.counts = {"records": 0, "files": 0, "columns": 0}

    def __call__(self, batch: DataFrame, batch_id: int) -> None:
        try:
            if has_lost_what_was_read(self._context, self._source):
                raise LakeloopError(
                    f"ingest-records: {self._source.bronze} was put back to an earlier state while {self._source.name} "
                    "was read into it. Run again: the source is then read anew."
                )
            txn = (stream_id(self._context, self._source), batch_id)
            counts = append_batch(self._context, self._source, batch, txn=txn)
            note_tables(self._context, self._source)
        except LakeloopError as error:
            # The stream would raise an error of its own class instead.
            self.failure = error
            raise
        for name, count in counts.items():
            self.counts[name] += count


def append_batch(context: Context, source: RecordSource, batch: DataFrame, *, txn: tuple[str, int] | None) -> Counts:
    """Append one batch to the source's bronze table in one commit.

    Args:
        batch: by the source's format: paths of files (`path`, and `_ingested_at` and `modified_at`, which order them),
            rows of a change feed, or Kafka messages.
        txn: the id of the stream and the number of the batch; the same `txn` is appended only once. None: always.

    Returns:
        Counts: records (unreadable ones too), files, columns (added or widened). Empty if a batch of files is empty.
    """
    lake = context.lake
    source = evolved(lake, source)
    may_go = False
    if source.settings.format == "delta":
        number, checkpoint = txn[1] if txn else None, checkpoint_of(context, source)
        batch, may_go = dated(context, source, batch, batch=number, checkpoint=checkpoint, fit=partial(_fitted, source))
    paths = _in_order(context, source, batch) if source.settings.is_files else []
    if source.settings.is_files and not paths:
        return {}
    before = lake.ensure(source.bronze).version
    try:
        gained = _read_and_append(context, source, batch, paths=paths, txn=txn, may_go=may_go)
    except LakeloopError:
        raise
    except Exception as error:
        broken = _poisonous(context, source, batch, paths)
        if not broken or any(sign in str(error) for sign in _NO_FAULT_OF_FILES):
            raise
        log.warning("ingest-records %s: set aside as unreadable: %s", source.name, broken)
        gained = _read_and_append(context, source, batch, paths=paths, txn=txn, without=broken)
    records = 0
    head = lake.head(source.bronze)
    if head is not None and head.version > before:
        metrics = lake.history(source.bronze)[0]["metrics"]
        records = int(metrics.get("numOutputRows", 0))
    return {"records": records, "files": len(paths), "columns": gained}


def _in_order(context: Context, source: RecordSource, batch: DataFrame) -> list[str]:
    """The files of a batch, ordered by when they were noted, then by when they were modified, then by name."""
    from pyspark.sql import functions as F

    folder = str(context.settings.path(source.settings.location))
    known = [c for c in ("_ingested_at", "modified_at") if c in batch.columns]
    last: dict[str, tuple[int, ...]] = {}
    # As numbers: Python's datetimes would be in this machine's time zone.
    for row in batch.select("path", *[F.coalesce(F.unix_micros(c), F.lit(0)) for c in known]).collect():
        path, order = below(folder, row[0]), tuple(row[1:])
        last[path] = max(last.get(path, order), order)
    return sorted(last, key=lambda path: (last[path], path))


def _poisonous(context: Context, source: RecordSource, batch: DataFrame, paths: list[str]) -> dict[str, str]:
    """The files that make a batch fail: path → reason. Reads each file whole.

    Empty if a record of no file fails as well: then the files are not at fault.
    """

    def fault(read: Callable[[], list[Part]]) -> str | None:
        try:
            for part in read():
                _fitted(source, part).write.format("noop").mode("overwrite").save()
        except Exception as error:
            return why_broken(error)
        return None

    if not paths or fault(lambda: [example(context.lake.spark, names=names_of(source))]):
        return {}
    faults = {path: fault(partial(_parts, source, batch, context, paths=[path])) for path in paths}
    return {path: why for path, why in faults.items() if why}


def _read_and_append(
    context: Context,
    source: RecordSource,
    batch: DataFrame,
    *,
    paths: list[str],
    txn: tuple[str, int] | None,
    without: Mapping[str, str] | None = None,
    may_go: bool = False,
) -> int:
    """Append a batch; files in `without` (path → reason) become unreadable rows. Returns how many columns changed."""
    parts = _parts(source, batch, context, paths=paths, without=without or ())
    admitted, gained = admit(context, source, parts)
    parts = [*parts, *([unreadable(context.lake.spark, without)] if without else [])]
    _append(context, admitted, parts, txn=txn, may_go=may_go)
    return gained


def _parts(
    source: RecordSource, batch: DataFrame, context: Context, *, paths: list[str], without: Collection[str] = ()
) -> list[Part]:
    settings = source.settings
    wants_types = source.contract.evolution != "quarantine"
    names = names_of(source)
    if settings.format == "delta":
        return [feed_part(batch, name=settings.location)]
    if settings.format == "kafka":
        return [
            message_part(
                batch, names=names, key=[settings.columns[k].source or k for k in settings.key], wants_types=wants_types
            )
        ]
    return file_parts(
        context.lake.spark,
        context.settings.path(settings.location),
        paths,
        source=settings,
        names=names,
        wants_types=wants_types,
        most_mb=context.settings.ingest.max_file_mb,
        without=without,
    )


def _append(
    context: Context, source: RecordSource, parts: list[Part], *, txn: tuple[str, int] | None, may_go: bool = False
) -> None:
    from pyspark.sql import functions as F

    lake = context.lake
    fitted = [_fitted(source, part) for part in parts]
    if not fitted:
        return
    if may_go:
        fitted = [settled(context, source, rows, fit=partial(_fitted, source)) for rows in fitted]
    rows = fitted[0]
    for other in fitted[1:]:
        rows = rows.unionByName(other)
    now = _instant(context, source)
    rows = rows.withColumns(
        {
            "_op": F.coalesce("_op", F.lit("upsert")),
            "_changed_at": F.coalesce("_changed_at", F.lit(now)),
            "_ingested_at": F.lit(now),
            "_run_id": F.lit(context.run_id),
        }
    )
    lake.append(source.bronze, rows, txn=txn)


def _fitted(source: RecordSource, part: Part) -> DataFrame:
    from pyspark.sql import functions as F

    op, rows = source.settings.op, part.rows
    names = {name.lower(): name for name in part.arriving}
    if op is not None and part.arriving:
        op_name = names.get(op.column.lower())
        if op_name is None:
            why = f"the column {op.column!r}, which says what is deleted, is missing"
            rows = rows.withColumn("_unreadable", F.coalesce("_unreadable", F.lit(why)))
        else:
            deletes = F.col("_record").getField(op_name).cast("string").isin(*op.delete)
            rows = rows.withColumn("_op", F.coalesce("_op", F.when(deletes, "delete")))
    changes = source.contract.compare(shown(source, part)) if part.tells_columns else []
    return fit(
        rows,
        columns=source.contract.columns,
        arriving=part.arriving,
        readings=source.settings.readings,
        passed_over=[op.column] if op else [],
        missing=[change.column for change in changes if change.kind == "missing"],
        hint="; ".join(str(change) for change in changes if change.hint),
    )


def _instant(context: Context, source: RecordSource) -> datetime:
    """The time now, but later than the last commit of the table: it orders arrivals, so it must never go back."""
    last = max((commit["at"] for commit in context.lake.history(source.bronze)[:1]), default=None)
    now = context.now()
    return now if last is None else max(now, last.astimezone(timezone.utc) + timedelta(milliseconds=1))


STAGE = Stage(
    COMMAND,
    "Sources of records → bronze.records_*, each record exactly once.",
    look,
    work,
    targets=("bronze.records_*", "bronze.records_*_files"),
    subjects=source_subjects,
    records="it holds what arrived: the next lakeloop run goes on where it ended",
)
