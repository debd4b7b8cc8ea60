"""Appends a batch of records to the bronze table of its source, in one commit, as the contract names the columns."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from functools import partial, reduce
from typing import TYPE_CHECKING, Any

from pipelines.flow.stage import Context, Counts
from pipelines.lakehouse.statements import is_conflict
from pipelines.records.columns import admit, names_of, shown
from pipelines.records.delta_tables import feed_part, settled
from pipelines.records.files import note_gone
from pipelines.records.reader import Part, example, file_parts, message_part, unreadable
from pipelines.records.source import RecordSource, evolved
from pipelines.records.text_files import why_broken
from transformations.errors import LakeloopError
from transformations.tables.records import fit

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

log = logging.getLogger(__name__)
_NO_FAULT_OF_FILES = ("OutOfMemoryError", "No space left on device")


@dataclass(frozen=True)
class Batch:
    """What is appended to bronze in one commit.

    Attributes:
        parts: reads it, for a source (as its contract is then) and without the files that it is given.
        paths: the files that it is of, in their order; none: it is not of files.
        may_go: it is of a Delta table, and has deletions or preimages.
        read: how far the source is read with it, for its position; empty if it is of a stream.
    """

    parts: Callable[[RecordSource, Collection[str]], list[Part]]
    paths: Sequence[str] = ()
    may_go: bool = False
    read: Mapping[str, Any] = field(default_factory=dict)


def batch_of_files(context: Context, paths: Sequence[str], *, read: Mapping[str, Any] | None = None) -> Batch:
    """Files of the source's folder, in their order."""

    def parts(source: RecordSource, without: Collection[str]) -> list[Part]:
        return file_parts(
            context.lake.spark,
            context.settings.path(source.settings.location),
            paths,
            source=source.settings,
            names=names_of(source),
            wants_types=_wants_types(source),
            most_mb=context.settings.ingest.max_file_mb,
            without=without,
        )

    return Batch(parts, paths, read=read or {})


def batch_of_changes(changes: DataFrame, *, may_go: bool, read: Mapping[str, Any]) -> Batch:
    """Rows of `delta_tables.whole` or `delta_tables.feed`."""
    return Batch(lambda source, without: [feed_part(changes, name=source.settings.location)], may_go=may_go, read=read)


def batch_of_messages(messages: DataFrame) -> Batch:
    """Messages of Kafka."""

    def parts(source: RecordSource, without: Collection[str]) -> list[Part]:
        settings = source.settings
        key = [settings.columns[k].source or k for k in settings.key]
        return [message_part(messages, names=names_of(source), key=key, wants_types=_wants_types(source))]

    return Batch(parts)


def _wants_types(source: RecordSource) -> bool:
    return source.contract.evolution != "quarantine"


def append(context: Context, source: RecordSource, batch: Batch, *, txn: tuple[str, int], note: str = "") -> Counts:
    """Append one batch to the source's bronze table in one commit.

    Args:
        txn: a writer and the number of the batch; the same `txn` is appended only once.
        note: a text that the commit carries.

    Returns:
        Counts: records (unreadable ones too), files, columns (added or widened).
    """
    lake = context.lake
    source = evolved(lake, source)
    before = lake.ensure(source.bronze).version
    read_and_append = partial(_read_and_append, context, source, batch, txn=txn, note=note)
    try:
        gained = read_and_append()
    except LakeloopError:
        raise
    except Exception as error:
        if is_conflict(error):
            raise
        broken = _poisonous(context, source, batch)
        if not broken or any(sign in str(error) for sign in _NO_FAULT_OF_FILES):
            raise
        log.warning("ingest-records %s: set aside as unreadable: %s", source.name, broken)
        folder = context.settings.path(source.settings.location)
        gone = [path for path in broken if not (folder / path).exists()]
        if gone and not source.settings.is_stream:
            note_gone(context, source, gone)
        gained = read_and_append(without=broken)
    records = 0
    head = lake.head(source.bronze)
    if head is not None and head.version > before:
        metrics = lake.history(source.bronze)[0]["metrics"]
        records = int(metrics.get("numOutputRows", 0))
    return {"records": records, "files": len(batch.paths), "columns": gained}


def _poisonous(context: Context, source: RecordSource, batch: Batch) -> dict[str, str]:
    """The files that make a batch fail: path → reason. Reads each file whole.

    Empty if a record of no file fails as well: then the files are not at fault.
    """

    def fault(read: Callable[[], list[Part]]) -> str | None:
        try:
            for part in read():
                fitted(source, part).write.format("noop").mode("overwrite").save()
        except Exception as error:
            return why_broken(error)
        return None

    if not batch.paths or fault(lambda: [example(context.lake.spark, names=names_of(source))]):
        return {}
    faults = {path: fault(partial(batch_of_files(context, [path]).parts, source, ())) for path in batch.paths}
    return {path: why for path, why in faults.items() if why}


def _read_and_append(
    context: Context,
    source: RecordSource,
    batch: Batch,
    *,
    txn: tuple[str, int],
    note: str,
    without: Mapping[str, str] | None = None,
) -> int:
    """Append a batch; files in `without` (path → reason) become unreadable rows. Returns how many columns changed."""
    from pyspark.sql import functions as F

    lake = context.lake
    parts = batch.parts(source, without or ())
    source, gained = admit(context, source, parts)
    if without or not parts:  # of empty files the commit alone says that they were read
        parts = [*parts, unreadable(lake.spark, without or {})]
    frames = [fitted(source, part) for part in parts]
    if batch.may_go:
        frames = [settled(context, source, rows, fit=partial(fitted, source)) for rows in frames]
    rows = reduce(lambda one, other: one.unionByName(other), frames)
    now = _instant(context, source)
    rows = rows.withColumns(
        {
            "_op": F.coalesce("_op", F.lit("upsert")),
            "_changed_at": F.coalesce("_changed_at", F.lit(now)),
            "_ingested_at": F.lit(now),
            "_run_id": F.lit(context.run_id),
        }
    )
    lake.append(source.bronze, rows, txn=txn, note=note)
    return gained


def fitted(source: RecordSource, part: Part) -> DataFrame:
    """The records of a part with the columns of the contract."""
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
