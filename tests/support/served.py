"""Texts in; an index that serves them out, written as a sync writes one, without Spark and without tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa

from pipelines.lakehouse.opening import open_lakehouse
from pipelines.lakehouse.schemas import INDEX_SCHEMA
from pipelines.lakehouse.tables import Lakehouse
from pipelines.models.embedders import embedding_model
from pipelines.settings.sections import Settings
from pipelines.stores import Manifest
from pipelines.vector_index.state import register
from transformations.index.fingerprint import row_hash_of


def chunk(chunk_id: str, text: str, **changed: Any) -> dict[str, Any]:
    """A row of gold.chunk_index, but for its vector."""
    return {
        "chunk_id": chunk_id,
        "document_id": f"document-{chunk_id}",
        "path": f"{chunk_id}.md",
        "title": None,
        "heading_path": [],
        "text": text,
        "text_hash": "",
        "format": "md",
        "source": "files",
    } | changed


def serve(settings: Settings, chunks: Iterable[dict[str, Any]] = (), *, deleted: Sequence[str] = ()) -> None:
    """Commit the chunks to the index, and what is deleted; an index that is not there is created, empty if need be."""
    model = embedding_model(settings)
    rows = [row | {"model": model.label} for row in chunks]
    embedded = [
        "\n".join([" > ".join(row["heading_path"])] * bool(row["heading_path"]) + [row["text"]]) for row in rows
    ]
    for row, vector in zip(rows, model.load(threads=1).embed(embedded), strict=True):
        row["vector"] = vector.tolist()
        row["row_hash"] = row_hash_of(row)
    store = register(_lake(settings), settings, model).open(settings)
    held = store.manifest()
    store.upsert(pa.Table.from_pylist(rows, schema=INDEX_SCHEMA))
    store.delete(deleted)
    count = sum(batch.num_rows for batch in store.ids_with_hashes())
    first = Manifest("gold.chunk_index", "t", 0, "0", model.name, model.revision, model.dimension, rows=0)
    store.commit(replace(held or first, version=held.version + 1 if held else 0, rows=count), expected=held)
    store.close()


def _lake(settings: Settings) -> Lakehouse:
    def no_spark() -> Any:
        raise AssertionError("serving an index must not start Spark")

    return open_lakehouse(settings, spark=no_spark)
