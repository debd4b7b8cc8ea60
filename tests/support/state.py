"""A workspace in; what its tables and its index say, without when and by which run they came to say it, out."""

from __future__ import annotations

import shutil
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.conductor.run import new_context, run_stages
from pipelines.conductor.stages import stage_named
from pipelines.settings.sections import Settings
from pipelines.vector_index.state import served
from tests.support.by_spark import by_spark

_OF_THE_RUN = {"_run_id", "_source_version", "_ingested_at", "modified_at", "attempts", "replayed_at"}
_TABLES = {
    "silver.documents": "document_id",
    "silver.documents_quarantine": "document_id",
    "silver.chunks": "chunk_id",
    "silver.chunks_quarantine": "chunk_id",
    "gold.chunk_index": "chunk_id",
}


def state(settings: Settings) -> dict[str, dict[str, Any]]:
    """For each table, and for the index, key → row. Quarantines hold what is refused now."""
    lake = new_context(settings).lake
    tables = {table: _keyed(lake.read_arrow(table), key) for table, key in _TABLES.items()}
    state = served(lake, settings.index.name)
    batches = list(state.open(settings).rows()) if state else []
    tables["index"] = _keyed(pa.Table.from_batches(batches), "chunk_id") if batches else {}
    cache = lake.read_arrow("gold.embeddings")
    hashes = cache["text_hash"].to_pylist()
    assert len(hashes) == len(set(hashes)), "a text was embedded twice"
    needed = {row["text_hash"] for row in tables["silver.chunks"].values()}
    tables["gold.embeddings"] = {
        row["text_hash"]: {"vector": row["vector"]} for row in cache.to_pylist() if row["text_hash"] in needed
    }
    return tables


def _keyed(rows: pa.Table, key: str) -> dict[str, Any]:
    if "replayed_at" in rows.column_names:
        rows = rows.filter(pc.is_null(rows["replayed_at"]))
    kept = [c for c in rows.column_names if c not in _OF_THE_RUN]
    found: dict[str, Any] = {}
    for row in rows.select(kept).to_pylist():
        assert row[key] not in found, f"{row[key]} is there twice"
        found[row[key]] = row
    return found


def assert_same(found: dict[str, dict[str, Any]], expected: dict[str, dict[str, Any]]) -> None:
    """Equal keys and equal rows in every table; vectors to the last digits of a 32-bit float."""
    assert found.keys() == expected.keys()
    for table, rows in expected.items():
        missing, ghosts = rows.keys() - found[table].keys(), found[table].keys() - rows.keys()
        assert not missing, f"{table} lacks {len(missing)}, e.g. {rows[next(iter(missing))]}"
        assert not ghosts, f"{table} has {len(ghosts)} too many, e.g. {found[table][next(iter(ghosts))]}"
        for key, row in rows.items():
            other = dict(found[table][key])
            row = dict(row)
            if "vector" in row:
                np.testing.assert_allclose(other.pop("vector"), row.pop("vector"), atol=2e-6)
            assert other == row, f"{table} {key}"


def assert_refined_as_from_scratch(settings: Settings) -> None:
    """Refined once more, the same arrivals change nothing; from scratch, and by Spark, they give the same tables."""
    tables, stage = ("silver.documents", "silver.documents_history"), [stage_named("refine-documents")]
    lake = new_context(settings).lake
    heads = [lake.head(table) for table in tables]
    shutil.rmtree(lake.folder("ops.stage_state"))
    run_stages(new_context(settings), stages=stage)
    assert [lake.head(table) for table in tables] == heads
    kept = [_versions(settings, table) for table in tables]
    for table in tables:
        shutil.rmtree(lake.folder(table))
    with by_spark():
        run_stages(new_context(settings), stages=stage)
    assert [_versions(settings, table) for table in tables] == kept


def _versions(settings: Settings, table: str) -> list[dict[str, Any]]:
    rows = new_context(settings).lake.read_arrow(table).drop_columns("_run_id").to_pylist()
    return sorted(rows, key=lambda row: (row["document_id"], row["_ingested_at"]))
