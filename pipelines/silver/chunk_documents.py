"""chunk-documents: the documents that changed are cut anew, and their chunks merged into silver.chunks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from expectations.tables.chunks import chunk_rules, is_known_to_the_model
from pipelines.flow.changed_rows import apply_changes, changed, partitions, stamped, touched
from pipelines.flow.stage import Context, Counts, Stage, Work, moved
from pipelines.models.embedders import EmbeddingModel, chunk_limits, embedding_model, text_reader
from pipelines.quality.split import Split
from transformations.tables.changes import net_changes

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

SOURCE, TARGET, QUARANTINE = "silver.documents", "silver.chunks", "silver.chunks_quarantine"
SPLIT = Split("chunk-documents", SOURCE, TARGET, QUARANTINE, key="chunk_id", same=("chunk_id",), scope="document_id")
COMPARE = [
    *("path", "title", "ordinal", "heading_path", "text", "embed_text", "text_hash", "token_count", "format", "source")
]


def look(context: Context) -> Work | None:
    """The documents that changed since."""
    return moved(STAGE, context)


def work(context: Context, due: Work) -> Counts:
    """Counts: chunks insert, update (moved, or their document renamed), delete, and set_aside."""
    lake, versions, (max_tokens, max_characters) = context.lake, due.first, chunk_limits(context.settings)
    lake.ensure(TARGET)
    documents, keys = changed(context, SOURCE, versions=versions, key="document_id")
    with context.progress.step("chunk-documents"):
        pieces = cut(context, documents)
        keys = keys.persist()
        try:
            rules = (*chunk_rules(max_tokens=max_tokens, max_characters=max_characters), is_known_to_the_model())
            judged = SPLIT.judge(context, pieces, rules=rules, versions=versions)
            count = judged.refused_rows
            SPLIT.set_aside(context, judged.refused, count=count, scope=keys, versions=versions)
            current = touched(context, TARGET, keys, versions=versions, key="document_id")
            desired = stamped(context, judged.valid, versions=versions).select(*lake.spec(TARGET).columns)
            counts = apply_changes(context, TARGET, net_changes(current, desired, key="chunk_id", compare=COMPARE))
            return {**counts, "set_aside": count}
        finally:
            keys.unpersist()


def cut(context: Context, documents: DataFrame) -> DataFrame:
    """The chunks of `documents` (rows of silver.documents), good and bad."""
    if context.settings.refine.near_duplicates == "serve_one":
        documents = documents.where("is_representative")
    rows = documents.select("document_id", "path", "title", "text", "format", "source").transform(partitions)
    max_tokens, max_characters = chunk_limits(context.settings)
    model = embedding_model(context.settings)
    batches = chunk_batches(model, max_tokens=max_tokens, max_characters=max_characters)
    return rows.mapInArrow(batches, _CHUNKS_DDL)


_CHUNKS_DDL = (
    "chunk_id string, document_id string, path string, title string, ordinal int, heading_path array<string>, "
    "text string, embed_text string, text_hash string, token_count int, format string, source string, "
    "unknown_ratio double"
)


def chunk_batches(
    model: EmbeddingModel, *, max_tokens: int, max_characters: int
) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    """A function for `mapInArrow`: rows of silver.documents → rows of silver.chunks, many for one.

    Beside them `unknown_ratio`, the share of a chunk's letters that the model cannot read; null where it is not known.
    """

    def chunk(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        from pipelines.lakehouse.schemas import TABLES
        from transformations.text.chunks import chunk_id, chunk_markdown

        schema = TABLES[TARGET].content.append(pa.field("unknown_ratio", pa.float64()))
        reader = text_reader(model)
        for batch in batches:
            for document in batch.to_pylist():
                rows: list[dict[str, Any]] = []
                pieces = chunk_markdown(
                    document["text"],
                    max_tokens=max_tokens,
                    max_characters=max_characters,
                    count_tokens=reader.count_tokens,
                )
                unknown = reader.unknown_ratios([piece.embed_text for piece in pieces])
                for piece, ratio in zip(pieces, unknown, strict=True):
                    row = {c: document[c] for c in ("document_id", "path", "title", "format", "source")}
                    row["chunk_id"] = chunk_id(
                        document["document_id"], text_hash=piece.text_hash, occurrence=piece.occurrence
                    )
                    row |= {"ordinal": piece.ordinal, "heading_path": list(piece.heading_path), "text": piece.text}
                    row |= {"embed_text": piece.embed_text, "text_hash": piece.text_hash}
                    row |= {"token_count": piece.token_count, "unknown_ratio": ratio}
                    rows.append(row)
                if rows:
                    yield from pa.Table.from_pylist(rows, schema=schema).to_batches()

    return chunk


def _decided_by(context: Context) -> str:
    settings = context.settings
    tokenizer, of_all = text_reader(embedding_model(settings)).label, settings.refine.near_duplicates != "serve_one"
    return f"limits={chunk_limits(settings)} {tokenizer=} {of_all=}"


STAGE = Stage(
    "chunk-documents",
    "silver.documents → silver.chunks.",
    look,
    work,
    sources=(SOURCE,),
    targets=(TARGET, QUARANTINE),
    code_version=3,
    decided_by=_decided_by,
)
