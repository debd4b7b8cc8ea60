"""Parses arrivals: rows of bronze.documents get a title, a text and metadata, or the reason why they are refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pyarrow as pa

from pipelines.documents import contents
from pipelines.documents.parser_process import PARSER, Limits, ParserProcess
from pipelines.lakehouse.schemas.spec import LONG, STRING, TIMESTAMP
from pipelines.storage.object_path import AnyPath

__all__ = ["PARSED_SCHEMA", "Limits", "parse_batches"]

_KEPT = pa.schema(
    [(name, STRING) for name in ("document_id", "path", "source", "content_hash")]
    + [("size", LONG), ("modified_at", TIMESTAMP), ("_ingested_at", TIMESTAMP)]
)
PARSED_SCHEMA = pa.schema(
    [
        *_KEPT,
        *((name, STRING) for name in ("title", "text", "format", "encoding")),
        ("metadata", pa.map_(STRING, STRING)),
        ("reason", STRING),
    ]
)
# A batch of results ends at this many rows, or when its texts have this many characters.
_BATCH_ROWS, _BATCH_CHARACTERS = 1000, 4_000_000


def parse_batches(
    limits: Limits, *, files: Sequence[AnyPath] | None = None, parser: str = PARSER
) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    """A function for `mapInArrow`: rows of bronze.documents → the columns of `PARSED_SCHEMA`, row by row.

    Each worker has one parser process, which starts with the first document and ends with its work. The worker holds
    one document and the texts of one batch in memory.

    Args:
        limits: for each document; if it exceeds them, its `reason` begins with `timed_out`, `out_of_memory`, `crashed`
            or `too_large`.
        files: the Parquet files that have the bytes; None if each row has its own in `content`.
        parser: see `ParserProcess`.
    """

    def parse(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        rows: list[dict[str, Any]] = []
        characters = 0
        with ParserProcess(limits, parser=parser) as process:
            for row, content in contents.of_rows(batches) if files is None else contents.of_files(batches, files):
                rows.append({name: row[name] for name in _KEPT.names} | _parsed(process, row, content))
                del content
                characters += len(rows[-1].get("text") or "")
                if len(rows) >= _BATCH_ROWS or characters >= _BATCH_CHARACTERS:
                    yield pa.RecordBatch.from_pylist(rows, schema=PARSED_SCHEMA)
                    rows, characters = [], 0
        if rows:
            yield pa.RecordBatch.from_pylist(rows, schema=PARSED_SCHEMA)

    return parse


def _parsed(process: ParserProcess, row: contents.Row, content: bytes | None) -> dict[str, Any]:
    if row["_rescued"] is not None:
        return {"reason": row["_rescued"]}
    document = process.parse(content or b"", path=row["path"])
    return {
        "title": document.title,
        "text": document.text,
        "format": document.format,
        "encoding": document.encoding,
        "metadata": list(document.metadata.items()),
        "reason": document.error,
    }
