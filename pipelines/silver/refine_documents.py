"""Arrivals of bronze.documents in; silver.documents as the folder now is, and a quarantine of the refused, out."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from expectations.documents import DOCUMENT_RULES
from expectations.rules import split
from pipelines.silver.set_aside import set_aside
from pipelines.stage import Context, Counts, Window, apply_changes, held_if_few, partitions, touched
from transformations.changes import latest, net_changes

SOURCE, TARGET, QUARANTINE = "bronze.documents", "silver.documents", "silver.documents_quarantine"
_COMPARE = ["path", "title", "text", "format", "encoding", "content_hash"]


def run(context: Context, window: Window) -> Counts:
    """Counts: documents insert, update, delete, and set_aside (refused in this window)."""
    from pyspark.sql import functions as F

    lake = context.lake
    lake.ensure(TARGET)
    if window.since is None:
        arrivals = lake.read(SOURCE, version=window.until)
    else:
        arrivals = lake.read_changes(SOURCE, after=window.since, until=window.until)
    arrivals = latest(arrivals.select(*lake.spec(SOURCE).columns), key="document_id", order_by="_ingested_at")
    if window.since is not None:
        arrivals = held_if_few(context, arrivals)
    with context.progress.step("refine-documents"):
        parsed = arrivals.where("op <> 'delete'").transform(partitions).mapInArrow(parse_batches, _PARSED_DDL).persist()
        keys = arrivals.select("document_id").persist()
        try:
            valid, refused = split(parsed, rules=DOCUMENT_RULES)
            refused_rows = set_aside(context, QUARANTINE, refused, scope=keys, window=window, same="content_hash")
            desired = valid.withColumn("_run_id", F.lit(context.run_id)).select(*lake.spec(TARGET).columns)
            current = touched(context, TARGET, keys, window=window, key="document_id")
            counts = apply_changes(context, TARGET, net_changes(current, desired, key="document_id", compare=_COMPARE))
            return {**counts, "set_aside": refused_rows}
        finally:
            parsed.unpersist()
            keys.unpersist()


_PARSED_DDL = (
    "document_id string, path string, source string, content_hash string, size bigint, modified_at timestamp, "
    "_ingested_at timestamp, title string, text string, format string, encoding string, reason string"
)
_KEPT = ["document_id", "path", "source", "content_hash", "size", "modified_at", "_ingested_at"]


def parse_batches(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Rows of bronze.documents → the same rows with title, text, format, encoding and the reason of a refusal."""
    from transformations.documents import parse_document

    for batch in batches:
        texts: dict[str, list[str | None]] = {c: [] for c in ("title", "text", "format", "encoding", "reason")}
        for row in batch.select(["path", "content", "_rescued"]).to_pylist():
            if row["_rescued"] is not None:
                values: tuple[str | None, ...] = (None, None, None, None, row["_rescued"])
            else:
                document = parse_document(row["content"] or b"", path=row["path"])
                values = (document.title, document.text, document.format, document.encoding, document.error)
            for column, value in zip(texts.values(), values, strict=True):
                column.append(value)
        arrays = [batch.column(c) for c in _KEPT] + [pa.array(values, pa.string()) for values in texts.values()]
        yield pa.RecordBatch.from_arrays(arrays, names=[*_KEPT, *texts])
