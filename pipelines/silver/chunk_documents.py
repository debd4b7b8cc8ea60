"""chunk-documents: cuts changed documents into chunks, and merges the chunks into silver.chunks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from expectations.rules.rules import Rule
from expectations.tables.chunks import chunk_rules, is_known_to_the_model
from pipelines.flow.changed_rows import apply_changes, changed, differences, stamped, touched
from pipelines.flow.rows import Batches, Rows, mapped, selected, where_in
from pipelines.flow.stage import Context, Counts, Stage, Work, moved
from pipelines.lakehouse.schemas import TABLES
from pipelines.models.embedders import EmbeddingModel, chunk_limits, embedding_model, text_reader
from pipelines.quality.split import Split
from pipelines.settings.sections import Settings

SOURCE, TARGET, QUARANTINE = "silver.documents", "silver.chunks", "silver.chunks_quarantine"
SPLIT = Split("chunk-documents", SOURCE, TARGET, QUARANTINE, key="chunk_id", same=("chunk_id",), scope="document_id")
# A chunk, and `unknown_ratio`: the share of its letters that the model cannot read; null if that is not known.
CUT_SCHEMA = TABLES[TARGET].content.append(pa.field("unknown_ratio", pa.float64()))
# A chunk holds its text twice: as it is shown, and with its headings as it is embedded.
_GROWTH = 2.5
COMPARE = [
    *("path", "title", "ordinal", "heading_path", "text", "embed_text", "text_hash", "token_count", "format", "source")
]


def look(context: Context) -> Work | None:
    """The versions of silver.documents that were not read yet."""
    return moved(STAGE, context)


def work(context: Context, due: Work) -> Counts:
    """Cut the changed documents. Counts: chunks insert, update (moved, or document renamed), delete, set_aside."""
    lake, versions = context.lake, due.first
    lake.create(TARGET)
    documents, keys = changed(context, SOURCE, versions=versions, key="document_id")
    with context.progress.step("chunk-documents"):
        rules = rules_of_chunks(context.settings)
        judged = SPLIT.judge(context, cut(context, documents), rules=rules, versions=versions)
        count = judged.refused_rows
        SPLIT.set_aside(context, judged.refused, count=count, scope=keys, versions=versions)
        current = touched(context, TARGET, keys, versions=versions, key="document_id")
        desired = selected(stamped(context, judged.valid, versions=versions), lake.spec(TARGET).columns)
        counts = apply_changes(context, TARGET, differences(context, current, desired, key="chunk_id", compare=COMPARE))
        return {**counts, "set_aside": count}


def cut(context: Context, documents: Rows) -> Rows:
    """The chunks of `documents` (rows of silver.documents) before any rule has judged them.

    With `refine.near_duplicates: serve_one`, only of the representatives of their clusters.
    """
    if context.settings.refine.near_duplicates == "serve_one":
        documents = where_in(documents, "is_representative", [True])
    rows = selected(documents, ["document_id", "path", "title", "text", "format", "source"])
    return mapped(context, rows, chunks_of(context.settings), CUT_SCHEMA, growth=_GROWTH)


def rules_of_chunks(settings: Settings) -> tuple[Rule, ...]:
    """The rules for chunks, with the limits of the settings."""
    max_tokens, max_characters = chunk_limits(settings)
    return (*chunk_rules(max_tokens=max_tokens, max_characters=max_characters), is_known_to_the_model())


def chunks_of(settings: Settings) -> Batches:
    """`chunk_batches` with the model and the limits of the settings."""
    max_tokens, max_characters = chunk_limits(settings)
    return chunk_batches(embedding_model(settings), max_tokens=max_tokens, max_characters=max_characters)


def chunk_batches(model: EmbeddingModel, *, max_tokens: int, max_characters: int) -> Batches:
    """A function for `mapInArrow`: rows of silver.documents → rows of `CUT_SCHEMA`, none or more per document."""

    def chunk(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        from transformations.text.chunks import chunk_id, chunk_markdown

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
                    yield from pa.Table.from_pylist(rows, schema=CUT_SCHEMA).to_batches()

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
