"""The tables of the schema gold: embeddings, the rows to serve and features."""

from __future__ import annotations

import pyarrow as pa

from pipelines.lakehouse.schemas.spec import INT, LINEAGE, STRING, STRINGS, TableSpec, table_spec

TABLES: dict[str, TableSpec] = {
    "gold.embeddings": table_spec(
        "current",
        ("text_hash", STRING),
        ("model", STRING),
        ("revision", STRING),
        ("dimension", INT),
        ("instruction", STRING),
        ("vector", pa.list_(pa.float32())),
        ("_run_id", STRING),
        key="text_hash model revision dimension instruction",
        holds="text_hash",
    ),
    "gold.chunk_index": table_spec(
        "current",
        ("chunk_id", STRING),
        ("document_id", STRING),
        ("path", STRING),
        ("title", STRING),
        ("heading_path", STRINGS),
        ("text", STRING),
        ("text_hash", STRING),
        ("format", STRING),
        ("source", STRING),
        ("model", STRING),
        ("vector", pa.list_(pa.float32())),
        ("row_hash", STRING),
        *LINEAGE,
        key="chunk_id model",
        change_feed=True,
        holds="document_id",
    ),
}
