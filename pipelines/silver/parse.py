"""Rows of bronze.documents in; the same rows with title, text, metadata or the reason of a refusal out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa

from pipelines.silver.parser_process import PARSER, Limits, ParserProcess

__all__ = ["PARSED_DDL", "Limits", "parse_batches"]

PARSED_DDL = (
    "document_id string, path string, source string, content_hash string, size bigint, modified_at timestamp, "
    "_ingested_at timestamp, title string, text string, format string, encoding string, "
    "metadata map<string, string>, reason string"
)
_KEPT = ["document_id", "path", "source", "content_hash", "size", "modified_at", "_ingested_at"]
_PARSED = pa.schema(
    [(name, pa.string()) for name in ("title", "text", "format", "encoding")]
    + [("metadata", pa.map_(pa.string(), pa.string())), ("reason", pa.string())]
)


def parse_batches(
    limits: Limits, *, parser: str = PARSER
) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    """A function for `mapInArrow`: rows of bronze.documents → the columns of `PARSED_DDL`, row by row.

    Each task has one process that parses, started with its first document and gone with the task.

    Args:
        limits: for each document; beyond them its `reason` begins `timed_out`, `out_of_memory` or `crashed`.
        parser: see `ParserProcess`.
    """

    def parse(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        with ParserProcess(limits, parser=parser) as process:
            for batch in batches:
                rows = zip(*(batch.column(c) for c in ("path", "content", "_rescued")), strict=True)
                columns = pa.RecordBatch.from_pylist([_parsed(process, *row) for row in rows], schema=_PARSED)
                yield pa.RecordBatch.from_arrays(
                    [*(batch.column(name) for name in _KEPT), *columns.columns], names=[*_KEPT, *_PARSED.names]
                )

    return parse


def _parsed(process: ParserProcess, path: pa.Scalar, content: pa.Scalar, rescued: pa.Scalar) -> dict[str, Any]:
    if rescued.is_valid:
        return {"reason": rescued.as_py()}
    document = process.parse(content.as_py() or b"", path=path.as_py())
    return {
        "title": document.title,
        "text": document.text,
        "format": document.format,
        "encoding": document.encoding,
        "metadata": list(document.metadata.items()),
        "reason": document.error,
    }
