"""A document that is gone from its source in; its rows, texts and vectors gone from everything, and a receipt, out."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

import pyarrow.compute as pc

from pipelines.bronze.ingest_documents import document_id, look
from pipelines.index_state import states
from pipelines.run import DOCUMENT_STAGES, advance, only_writer
from pipelines.stage import Context
from transformations.errors import ConfigurationError, RefusedError

RECEIPTS = "ops.forget_receipts"
# Every table that may hold a document's text, or tell that it was there.
_BY_DOCUMENT = (
    "silver.documents",
    "silver.documents_history",
    "silver.documents_quarantine",
    "silver.chunks",
    "silver.chunks_quarantine",
    "gold.chunk_index",
    "ops.dead_letters",
    # Last: it is asked who the document is, when a run that died is repeated.
    "bronze.documents",
)


def forget(context: Context, document: str) -> dict[str, Any]:
    """Remove a document from every table, from the embedding cache and from each index behind the alias.

    The stages run first, so that the indexes lose it in the ordinary way; then its past is removed from the tables and
    their files. Of the cache goes every text that no chunk uses any more: older editions of the document among them.
    Logged calls that were given one of its chunks go as a whole, since their answers may quote it.

    Args:
        document: a path, as in silver.documents, or a document_id.

    Returns:
        The receipt: rows removed by table, and what remains and for how long.

    Raises:
        ConfigurationError: no document of that name was ever seen.
        RefusedError: its file is still in the landing folder, from where the next run would bring it back.
    """
    source = context.settings.ingest.source
    key = _known(context, document)
    if any(document_id(source, found.path) == key for found in look(context).found):
        raise RefusedError(
            f"forget: the file of {document!r} is still in {context.settings.landing_path}: the next run would bring "
            "it back. Nothing was forgotten. Remove the file first."
        )
    with only_writer(context.settings):
        return _forget(context, key)


def _forget(context: Context, key: str) -> dict[str, Any]:
    lake = context.lake
    advance(context, stages=DOCUMENT_STAGES)
    removed = {table: lake.delete(table, {"document_id": [key]}) for table in _BY_DOCUMENT}
    removed["gold.embeddings"] = _forget_unused_texts(context)
    calls = _calls_that_saw(context, key)
    removed["inference.inference_log"] = lake.delete("inference.inference_log", {"request_id": calls})
    # Read the deletions while their change feed is there: it is purged next.
    advance(context, stages=DOCUMENT_STAGES[1:])
    remains = [f"{table}: {lake.purge(table)}" for table in removed if lake.head(table) is not None]
    advance(context, stages=DOCUMENT_STAGES[1:])  # a purge is a commit, too
    for state in states(lake, context.settings.index.name):
        store = state.open(context.settings)
        remains.append(f"index {state.index_name}: {store.forget()}")
        store.close()
    if calls:
        remains.append(f"MLflow: the traces of {len(calls)} calls, until you delete them there")
    remains.append(f"{context.settings.report}, the logs and the backups of all of this, until you remove them")
    receipt = {
        "receipt_id": uuid.uuid4().hex,
        "document_id": key,
        "removed": {table: count for table, count in removed.items() if count},
        "remains": remains,
        "forgotten_at": context.now(),
    }
    lake.append_arrow(RECEIPTS, [receipt | {"removed": list(removed.items()), "_run_id": context.run_id}])
    return receipt


def _known(context: Context, document: str) -> str:
    rows = context.lake.read_arrow("bronze.documents", columns=["document_id", "path"]).to_pylist()
    keys = {row["document_id"] for row in rows if document in (row["path"], row["document_id"])}
    if not keys:
        raise ConfigurationError.unknown_name("document", document, {row["path"] for row in rows})
    (key,) = keys
    return str(key)


def _forget_unused_texts(context: Context) -> int:
    used = set(context.lake.read_arrow("silver.chunks", columns=["text_hash"])["text_hash"].to_pylist())
    cached = set(context.lake.read_arrow("gold.embeddings", columns=["text_hash"])["text_hash"].to_pylist())
    return context.lake.delete("gold.embeddings", {"text_hash": sorted(cached - used)})


def _calls_that_saw(context: Context, key: str) -> list[str]:
    rows = context.lake.read_arrow("inference.inference_log", columns=["request_id", "retrieved"])
    rows = rows.filter(pc.is_valid(rows["retrieved"]))
    return [row["request_id"] for row in rows.to_pylist() if any(chunk["doc_id"] == key for chunk in row["retrieved"])]


def render(receipt: Mapping[str, Any]) -> str:
    """The receipt as text."""
    removed = [f"  {count} of {table}" for table, count in receipt["removed"].items()]
    remains = [f"  {line}" for line in receipt["remains"]]
    return "\n".join([f"receipt {receipt['receipt_id']}: removed", *removed, "what remains, and until when:", *remains])
