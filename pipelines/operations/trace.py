"""Traces a chunk, a document or a record step by step back to its file and its runs.

Reads tables and indexes, writes nothing, and needs no Spark if tables are folders. What was deleted, refused or
forgotten is traced as far as its rows are kept: arrivals are in bronze, refusals in the quarantine, and the chunks that
an answer was made from in the log.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.documents.landing import file_in
from pipelines.flow.stage import Context
from pipelines.flow.states import STAGE_RUNS
from pipelines.lakehouse.tables import Lakehouse
from pipelines.operations.trace_records import record_steps
from pipelines.storage.object_path import AnyPath
from pipelines.vector_index.state import IndexState, states
from transformations.errors import ConfigurationError

_DOCUMENT = ["document_id", "path", "title", "format", "content_hash", "_ingested_at", "_run_id"]
_ARRIVAL = ["document_id", "path", "op", "content_hash", "size", "_rescued", "_ingested_at", "_run_id"]


@dataclass(frozen=True)
class Step:
    """One place that has the traced thing: an index, a table or a file; `facts` are the columns of its row there."""

    place: str
    facts: Mapping[str, Any]


@dataclass
class Trace:
    """The result. `steps` lead from what is served back to what arrived; `runs` are the runs that wrote their rows."""

    id: str
    kind: str
    steps: list[Step] = field(default_factory=list)
    runs: list[dict[str, Any]] = field(default_factory=list)

    def add(self, place: str, rows: pa.Table | list[dict[str, Any]]) -> list[dict[str, Any]]:
        found = rows if isinstance(rows, list) else rows.to_pylist()
        self.steps += [Step(place, row) for row in found]
        return found

    def __str__(self) -> str:
        return "\n".join(render(self))

    def to_json(self) -> dict[str, Any]:
        steps = [{"place": step.place, **step.facts} for step in self.steps]
        return {"id": self.id, "kind": self.kind, "steps": steps, "runs": self.runs}


def trace(context: Context, name: str) -> Trace:
    """Trace `name`: a chunk_id, a document_id, the path of a document, or the key or record_id of a record.

    Raises:
        ConfigurationError: nothing of that name is or was in this workspace.
    """
    lake = context.lake
    for kind, found in (
        ("chunk", _document_of_chunk(lake, name)),
        ("document", _document_named(lake, name)),
    ):
        if found is not None:
            result = Trace(name, kind)
            if kind == "chunk":
                _trace_chunk(context, result, name)
            _trace_document(context, result, found)
            break
    else:
        result = Trace(name, "record")
        for place, rows in record_steps(context, name):
            result.add(place, rows)
        if not result.steps:
            raise _unknown(lake, name)
    result.runs = _runs(lake, {step.facts["_run_id"] for step in result.steps if step.facts.get("_run_id")})
    return result


def _document_of_chunk(lake: Lakehouse, chunk_id: str) -> str | None:
    """The document_id of a chunk; the log of calls still has it for chunks that are gone. None: not found."""
    for table in ("silver.chunks", "gold.chunk_index", "silver.chunks_quarantine", "ops.dead_letters"):
        rows = lake.read_arrow(table, columns=["document_id"], where={"chunk_id": chunk_id})
        if rows.num_rows:
            document_id: str = rows["document_id"][0].as_py()
            return document_id
    for batch in lake.read_batches("inference.inference_log", columns=["retrieved"]):
        hits = pc.list_flatten(batch.column("retrieved"))
        hits = hits.filter(pc.equal(pc.struct_field(hits, "chunk_id"), chunk_id))
        if len(hits):
            answered: str = hits[0]["doc_id"].as_py()
            return answered
    return None


def _document_named(lake: Lakehouse, name: str) -> str | None:
    for column in ("document_id", "path"):
        for table in ("bronze.documents", "ops.forget_receipts"):
            if column in lake.spec(table).columns:
                rows = lake.read_arrow(table, columns=["document_id"], where={column: name})
                if rows.num_rows:
                    document_id: str = rows["document_id"][0].as_py()
                    return document_id
    return None


def _trace_chunk(context: Context, result: Trace, chunk_id: str) -> None:
    lake, where = context.lake, {"chunk_id": chunk_id}
    served = lake.read_arrow(
        "gold.chunk_index",
        columns=["chunk_id", "path", "model", "text_hash", "row_hash", "_run_id", "_source_version"],
        where=where,
    )
    hashes = dict(zip(served["model"].to_pylist(), served["row_hash"].to_pylist(), strict=True))
    for state in states(lake, context.settings.index.name):
        result.add("index", [_index_entry(context, state, chunk_id, row_hash=hashes.get(state.model))])
    result.add("gold.chunk_index", served)
    columns = ["document_id", "ordinal", "heading_path", "text_hash", "token_count", "_run_id", "_source_version"]
    chunks = lake.read_arrow("silver.chunks", columns=columns, where=where)
    for text_hash in sorted({*served["text_hash"].to_pylist(), *chunks["text_hash"].to_pylist()}):
        columns = ["text_hash", "model", "revision", "dimension", "instruction", "_run_id"]
        result.add(
            "gold.embeddings", lake.read_arrow("gold.embeddings", columns=columns, where={"text_hash": text_hash})
        )
    columns = ["stage", "index_name", "model", "error", "attempts", "failed_at", "resolved_at", "_run_id"]
    result.add("ops.dead_letters", lake.read_arrow("ops.dead_letters", columns=columns, where=where))
    result.add("silver.chunks", chunks)
    columns = ["document_id", "failed_rules", "attempts", "replayed_at", "_run_id"]
    refused = lake.read_arrow("silver.chunks_quarantine", columns=columns, where=where)
    result.add("silver.chunks_quarantine", refused)


def _index_entry(context: Context, state: IndexState, chunk_id: str, *, row_hash: str | None) -> dict[str, Any]:
    """What the index itself has of the chunk, compared with the table (`row_hash`)."""
    store = state.open(context.settings)
    try:
        manifest = store.manifest()
        held = None
        if manifest is not None:
            for batch in store.ids_with_hashes():
                same = batch.filter(pc.equal(batch.column("chunk_id"), chunk_id))
                if same.num_rows:
                    held = same.column("row_hash")[0].as_py()
    finally:
        store.close()
    head = context.lake.head("gold.chunk_index")
    return {
        "index": state.index_name,
        "store": state.store,
        "role": state.role,
        "version": manifest.version if manifest else None,
        "table_version": head.version if head else None,
        "is_held": held is not None,
        "is_as_in_table": held == row_hash,
    }


def _trace_document(context: Context, result: Trace, document_id: str) -> None:
    lake, where = context.lake, {"document_id": document_id}
    columns = [*_DOCUMENT, "cluster_id", "is_representative"]
    [document] = result.add("silver.documents", lake.read_arrow("silver.documents", columns=columns, where=where)) or [
        {}
    ]
    columns = ["path", "failed_rules", "reason", "content_hash", "attempts", "replayed_at", "_ingested_at", "_run_id"]
    refused = lake.read_arrow("silver.documents_quarantine", columns=columns, where=where)
    result.add("silver.documents_quarantine", refused)
    columns = ["valid_from", "valid_to", "is_current", "content_hash", "_run_id"]
    versions = lake.read_arrow("silver.documents_history", columns=columns, where=where).sort_by("valid_from")
    result.add("silver.documents_history", versions)
    arrivals = lake.read_arrow("bronze.documents", columns=_ARRIVAL, where=where).sort_by("_ingested_at").to_pylist()
    for arrival in arrivals:
        arrival["is_source"] = arrival["_ingested_at"] == document.get("_ingested_at")
    result.add("bronze.documents", arrivals)
    columns = ["receipt_id", "removed", "remains", "forgotten_at", "_run_id"]
    result.add("ops.forget_receipts", lake.read_arrow("ops.forget_receipts", columns=columns, where=where))
    if arrivals:
        result.add("file", [_file(context.settings.landing_path, arrivals[-1])])


def _file(landing: AnyPath, arrival: Mapping[str, Any]) -> dict[str, Any]:
    """The file of the last arrival as it is now."""
    file = landing / arrival["path"]
    facts: dict[str, Any] = {"path": str(file), "is_there": file.is_file(), "is_as_it_arrived": False}
    if facts["is_there"]:
        facts["content_hash"] = file_in(landing, arrival["path"]).content_hash()
        facts["is_as_it_arrived"] = facts["content_hash"] == arrival["content_hash"]
    return facts


def _runs(lake: Lakehouse, run_ids: set[str]) -> list[dict[str, Any]]:
    """What the stages recorded of these runs, by time. A run without a record (it was killed) has the stage None."""
    columns = ["run_id", "stage", "definition", "from_version", "to_version", "started_at", "seconds"]
    kept = lake.read_arrow(STAGE_RUNS, columns=columns, where={"run_id": run_ids})
    found: list[dict[str, Any]] = kept.sort_by("started_at").to_pylist()
    known = {row["run_id"] for row in found}
    return found + [{"run_id": run_id, "stage": None} for run_id in sorted(run_ids - known)]


def _unknown(lake: Lakehouse, name: str) -> ConfigurationError:
    paths = set(lake.read_arrow("bronze.documents", columns=["path"])["path"].to_pylist())
    near = get_close_matches(name, sorted(paths), n=3, cutoff=0.5)
    hint = f"Did you mean {' or '.join(map(repr, near))}?" if near else "Find an id with: lakeloop search TEXT --json"
    return ConfigurationError(f"trace: no chunk, document, path or record {name!r} is or was in this workspace. {hint}")


def render(result: Trace) -> Iterator[str]:
    """The trace as lines of text."""
    yield f"{result.kind} {result.id}"
    for step in result.steps:
        facts = ", ".join(f"{key} {_shown(value)}" for key, value in step.facts.items() if value not in (None, [], {}))
        yield f"  ← {step.place:<28} {facts}"
    for run in result.runs:
        if run["stage"] is None:
            yield f"  run {run['run_id']}: it recorded no stage (it was stopped, or its records were removed)"
        else:
            versions = f"versions ({run['from_version']}, {run['to_version']}] of its source"
            yield f"  run {run['run_id']}: {run['stage']}, {versions}, {run['started_at']:%Y-%m-%d %H:%M:%S} UTC"


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return " › ".join(map(str, value))
    return str(value)
