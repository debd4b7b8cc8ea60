"""The tables of the schema bronze: arrivals, append-only."""

from __future__ import annotations

import pyarrow as pa

from pipelines.lakehouse.schemas.spec import LONG, STRING, TIMESTAMP, TableSpec, table_spec

TABLES: dict[str, TableSpec] = {
    "bronze.documents": table_spec(
        "arrivals",
        ("document_id", STRING),
        ("path", STRING),
        ("source", STRING),
        ("op", STRING),
        ("content", pa.binary()),
        ("content_hash", STRING),
        ("size", LONG),
        ("modified_at", TIMESTAMP),
        ("_rescued", STRING),
        ("_ingested_at", TIMESTAMP),
        ("_run_id", STRING),
        change_feed=True,
        holds="document_id",
    ),
}
