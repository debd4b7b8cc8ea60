"""Removes a document that is gone from the landing folder from all tables, files and indexes, and writes a receipt."""

from __future__ import annotations

import unicodedata
import uuid
from collections.abc import Collection, Mapping
from typing import Any

import pyarrow.compute as pc

from pipelines.conductor.run import advance
from pipelines.conductor.stages import DOCUMENT_STAGES
from pipelines.documents.delivery import delivery_of
from pipelines.documents.landing import document_id
from pipelines.flow.lock import only_writer
from pipelines.flow.stage import Context
from pipelines.monitoring.monitor import PROFILE
from pipelines.monitoring.monitor import STAGE as MONITOR
from pipelines.operations.declared import rows_held
from pipelines.operations.forget_index import Cleared, clear_place, places_to_clear
from transformations.errors import ConfigurationError, RefusedError

RECEIPTS = "ops.forget_receipts"
ARRIVALS = "bronze.documents"


def forget(context: Context, document: str, *, only_index: bool = False) -> dict[str, Any]:
    """Remove a document from every table, from the embedding cache, and from every index that ever held it.

    The stages run first, so that the indexes lose it in the ordinary way. Then its earlier rows are removed from the
    tables and their files. All texts that no chunk uses any more are removed from the cache, which includes those of
    older editions of the document. Logged calls that were given one of its chunks are deleted as a whole, with their
    questions and labels, because they may quote it, and the profile of their days is computed again. Then each index is
    cleared: the one of the settings, those with other names, and those at earlier places.

    Args:
        document: a path, as in silver.documents, or a document_id; also one that was forgotten already.
        only_index: only clear the indexes at the address that the settings name, as an earlier receipt asked for.

    Returns:
        The receipt: the number of rows removed from each table, and what remains and for how long.

    Raises:
        ConfigurationError: no document of that name was ever seen; or, with `only_index`, no index was at that address.
        RefusedError: its file is still in the landing folder, so the next run would bring it back.
    """
    keys, paths = _known(context, document)
    if not only_index and any(
        document_id(context.settings.ingest.source, found.path) in keys or found.path in paths
        for found in delivery_of(context).found
    ):
        raise RefusedError(
            f"forget: the file of {document!r} is still in {context.settings.landing_path}: the next run would bring "
            "it back. Nothing was forgotten. Remove the file first."
        )
    with only_writer(context.settings):
        asked_for = _asked_for(document)
        if only_index:
            return _only_index(context, keys, asked_for=asked_for)
        return _forget(context, keys, paths, asked_for=asked_for)


def _forget(context: Context, keys: Collection[str], paths: Collection[str], *, asked_for: str) -> dict[str, Any]:
    lake = context.lake
    advance(context, stages=DOCUMENT_STAGES)
    calls = _calls_that_saw(context, keys)
    begun = _begin(context, keys, calls, asked_for=asked_for)
    chunks = _chunks_of(context, keys)
    # The arrivals last: if this run dies half-way, the next one still finds the document by them.
    derived = [table for table in _holding(context, "document_id") if table != ARRIVALS]
    removed = {table: lake.delete(table, {"document_id": sorted(keys)}) for table in derived}
    # A letter about a row that an index refused has only the chunk's id.
    removed["ops.dead_letters"] += lake.delete("ops.dead_letters", {"chunk_id": sorted(chunks)})
    removed |= {table: lake.delete(table, {"path": sorted(paths)}) for table in _holding(context, "path")}
    removed["gold.embeddings"] = _forget_unused_texts(context)
    # The log last: it says which calls to delete. Questions go with it: one without an answer would be asked again.
    for table in sorted(_holding(context, "request_id"), key=lambda table: lake.spec(table).role == "log"):
        removed[table] = lake.delete(table, {"request_id": calls})
    if lake.head(PROFILE) is not None:  # a frequent item of a day may be what such a call said
        advance(context, stages=[MONITOR])
    removed[ARRIVALS] = lake.delete(ARRIVALS, {"document_id": sorted(keys)})
    # Let the stages read the deletions while their change feed is there: it is purged next.
    advance(context, stages=DOCUMENT_STAGES[1:])
    remains = [f"{table}: {lake.purge(table)}" for table in (*removed, PROFILE) if lake.head(table) is not None]
    advance(context, stages=DOCUMENT_STAGES[1:])  # a purge is a commit, too
    cleared = [clear_place(context, place, keys) for place in places_to_clear(context)] + _in_declared(context, keys)
    remains += [place.line for place in cleared]
    remains += dict.fromkeys(line for row in begun for line in row["remains"])
    if len({row["receipt_id"] for row in begun}) > 1:
        remains.append("what an earlier run removed that was cut off is not counted here")
    settings = context.settings
    remains.append(
        f"{settings.report}, {settings.quality}, {settings.log_path} (paths, and what a library said of a text that it "
        "refused), and the backups of all of this, until you remove them"
    )
    receipt = _receipt(context, keys, asked_for=asked_for, removed=removed, remains=remains, cleared=cleared)
    lake.delete(RECEIPTS, {"receipt_id": sorted({row["receipt_id"] for row in begun})})
    return receipt


def _holding(context: Context, column: str) -> list[str]:
    """The tables in which this column says which document or call a row is about (`TableSpec.holds`)."""
    return [table for table in context.lake.tables() if context.lake.spec(table).holds == column]


def _begin(context: Context, keys: Collection[str], calls: Collection[str], *, asked_for: str) -> list[dict[str, Any]]:
    """Record that the documents are being forgotten: receipts with `forgotten_at` null. Returns all such of theirs.

    If the run dies, these still say which document it was, and that MLflow has traces of calls.
    """
    traces = [f"MLflow: the traces of {len(calls)} calls, until you delete them there"] if calls else []
    row = {"receipt_id": uuid.uuid4().hex, "asked_for": asked_for, "removed": [], "remains": traces}
    rows = [row | {"document_id": key, "_run_id": context.run_id} for key in sorted(keys)]
    context.lake.append_arrow(RECEIPTS, rows)
    return [
        row for row in context.lake.read_arrow(RECEIPTS).to_pylist() if row["document_id"] in keys and _is_open(row)
    ]


def _in_declared(context: Context, keys: Collection[str]) -> list[Cleared]:
    """The declared datasets, which only a run of theirs clears: if they hold the documents, or lie in a catalog, where
    it is not known whether they do."""
    name, days = "declared datasets", context.settings.maintenance.keep_days
    if context.settings.catalog is not None:
        return [Cleared(name, 0, True, f"{name}, if their pipeline ran: until a full refresh of it")]
    if not (held := rows_held(context, keys)):
        return []
    line = f"{name}: {held} rows, until lakeloop pipelines run --full-refresh-all; their older files {days} days"
    return [Cleared(name, 0, False, line)]


def _is_open(receipt: Mapping[str, Any]) -> bool:
    return receipt["forgotten_at"] is None


def _asked_for(document: str) -> str:
    """What `forget` was asked for, as a receipt keeps it: hashed, because a path may contain the name of a person."""
    return document_id("", unicodedata.normalize("NFC", document))


def _only_index(context: Context, keys: Collection[str], *, asked_for: str) -> dict[str, Any]:
    here = (context.settings.index.store, context.settings.index_uri)
    found = [place for place in places_to_clear(context) if (place.store, place.uri) == here]
    if not found:
        raise ConfigurationError(
            f"forget: no index of this workspace was ever at {here[1]} ({here[0]}). Take index.store and index.uri as "
            "the receipt names them."
        )
    cleared = [clear_place(context, place, keys) for place in found]
    remains = [place.line for place in cleared]
    return _receipt(context, keys, asked_for=asked_for, removed={}, remains=remains, cleared=cleared)


def _receipt(
    context: Context,
    keys: Collection[str],
    *,
    asked_for: str,
    removed: dict[str, int],
    remains: list[str],
    cleared: list[Cleared],
) -> dict[str, Any]:
    """Write the receipt, one row for each document_id (a path has several if `ingest.source` was changed)."""
    for place in cleared:
        if place.rows:
            removed[f"index {place.name}"] = removed.get(f"index {place.name}", 0) + place.rows
    receipt_id, now = uuid.uuid4().hex, context.now()
    row = {"receipt_id": receipt_id, "asked_for": asked_for, "removed": list(removed.items()), "remains": remains}
    technical = {"forgotten_at": now, "_run_id": context.run_id}
    context.lake.append_arrow(RECEIPTS, [row | technical | {"document_id": key} for key in sorted(keys)])
    return {
        "receipt_id": receipt_id,
        "document_id": min(keys),
        "document_ids": sorted(keys),
        "removed": {table: count for table, count in removed.items() if count},
        "remains": remains,
        "not_cleared": [place.line for place in cleared if not place.is_cleared],
        "forgotten_at": now,
    }


def _known(context: Context, document: str) -> tuple[set[str], set[str]]:
    """The ids and the paths of the documents with that path or id; several if `ingest.source` was changed.

    Raises:
        ConfigurationError: there is none, neither among the arrivals nor among the receipts.
    """
    lake = context.lake
    rows = lake.read_arrow("bronze.documents", columns=["document_id", "path", "source"]).to_pylist()
    name = unicodedata.normalize("NFC", document)
    arrivals = [r for r in rows if document == r["document_id"] or name == unicodedata.normalize("NFC", r["path"])]
    receipts = lake.read_arrow(RECEIPTS, columns=["document_id", "asked_for", "forgotten_at"]).to_pylist()
    same = [row for row in receipts if row["asked_for"] == _asked_for(document)]
    if arrivals:
        begun = {row["document_id"] for row in same if _is_open(row)}
        return begun | {row["document_id"] for row in arrivals}, {row["path"] for row in arrivals}
    sources = {context.settings.ingest.source, *(row["source"] for row in rows)}
    asked = {document, *(document_id(source, document) for source in sources)}
    forgotten = {row["document_id"] for row in receipts}
    keys = (asked & forgotten) | {row["document_id"] for row in same}
    if not keys:
        raise ConfigurationError.unknown_name("document", document, {row["path"] for row in rows})
    return keys, {document} - forgotten


def _chunks_of(context: Context, keys: Collection[str]) -> set[str]:
    """The chunks that dead letters name and that belong, or may have belonged, to the documents."""
    letters = context.lake.read_arrow("ops.dead_letters", columns=["chunk_id", "document_id"])
    held = set(context.lake.read_arrow("silver.chunks", columns=["chunk_id"])["chunk_id"].to_pylist())
    # A letter without a document may be about one of these chunks. If its chunk is gone, nobody needs the letter.
    return {
        row["chunk_id"]
        for row in letters.to_pylist()
        if row["document_id"] in keys or (row["document_id"] is None and row["chunk_id"] not in held)
    }


def _forget_unused_texts(context: Context) -> int:
    used = set(context.lake.read_arrow("silver.chunks", columns=["text_hash"])["text_hash"].to_pylist())
    cached = set(context.lake.read_arrow("gold.embeddings", columns=["text_hash"])["text_hash"].to_pylist())
    return context.lake.delete("gold.embeddings", {"text_hash": sorted(cached - used)})


def _calls_that_saw(context: Context, keys: Collection[str]) -> list[str]:
    rows = context.lake.read_arrow("inference.inference_log", columns=["request_id", "retrieved"])
    rows = rows.filter(pc.is_valid(rows["retrieved"]))
    return [row["request_id"] for row in rows.to_pylist() if any(chunk["doc_id"] in keys for chunk in row["retrieved"])]


def render(receipt: Mapping[str, Any]) -> str:
    """The receipt as text."""
    removed = [f"  {count} of {table}" for table, count in receipt["removed"].items()]
    remains = [f"  {line}" for line in receipt["remains"]]
    return "\n".join([f"receipt {receipt['receipt_id']}: removed", *removed, "what remains, and until when:", *remains])
