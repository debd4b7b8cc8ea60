"""A workspace whose silver.chunks the test writes itself, so that what follows is the index alone."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipelines.conductor.run import new_context, run_stages
from pipelines.conductor.stages import DOCUMENT_STAGES
from pipelines.lakehouse.schemas import TABLES
from pipelines.settings.sections import Settings
from pipelines.stores import Manifest
from pipelines.vector_index.audit import audit
from pipelines.vector_index.state import served, states

SCHEMA = TABLES["silver.chunks"].schema
INDEX_STAGES = DOCUMENT_STAGES[3:]


def settings_for(root: Any, *, model: str = "Free", **index: Any) -> Settings:
    """Settings with one of the tests' models."""
    (Path(root) / "landing").mkdir(exist_ok=True)
    return Settings(root=root, embedding={"model": f"tests.support.embedders:{model}"}, index=index)


def chunk(document: int, place: int, text: str | None = None, **changed: Any) -> dict[str, Any]:
    """One row of silver.chunks; its id follows from document and text, as in the product."""
    text = text or f"Paragraph {place} of document {document}."
    text_hash = hashlib.sha256(text.encode()).hexdigest()
    return {
        "chunk_id": hashlib.sha256(f"{document} {text}".encode()).hexdigest()[:32],
        "document_id": f"document-{document}",
        "path": f"{document}.md",
        "title": f"Document {document}",
        "ordinal": place,
        "heading_path": ["Guide"],
        "text": text,
        "embed_text": text,
        "text_hash": text_hash,
        "token_count": len(text.split()),
        "format": "md",
        "source": "files",
    } | changed


def deliver(settings: Settings, upserts: Iterable[dict[str, Any]] = (), deletes: Iterable[dict[str, Any]] = ()) -> None:
    """One commit to silver.chunks."""
    rows = [{**row, "_op": "update"} for row in upserts] + [{**row, "_op": "delete"} for row in deletes]
    table = pa.Table.from_pylist(rows, schema=SCHEMA.append(pa.field("_op", pa.string())))
    new_context(settings).lake.merge_arrow("silver.chunks", table)


def sync(settings: Settings, *, force: bool = False) -> dict[str, dict[str, int]]:
    """embed-chunks and sync-index, each that is due; their counts."""
    outcome = run_stages(new_context(settings, force=force), stages=INDEX_STAGES)
    return {stage.stage: dict(stage.counts) for stage in outcome.stages}


def runs(settings: Settings) -> list[dict[str, Any]]:
    """The rows of ops.index_runs, oldest first."""
    rows: list[dict[str, Any]] = (
        new_context(settings).lake.read_arrow("ops.index_runs").sort_by("started_at").to_pylist()
    )
    return rows


def manifest(settings: Settings) -> Manifest:
    found = served(new_context(settings).lake, "chunks").open(settings).manifest()
    assert found is not None
    return found


def is_equal(settings: Settings) -> bool:
    context = new_context(settings)
    return all(audit(context, state).is_equal for state in states(context.lake, "chunks"))


def lance_of(settings: Settings) -> Any:
    import lance

    state = served(new_context(settings).lake, "chunks")
    return lance.dataset(f"{state.uri}/{state.index_name}.lance")
