"""Files, tables and indexes in; every difference between them out. Reads all of them, writes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.bronze.ingest_documents import document_id, look
from pipelines.dead_letters import open_letters
from pipelines.index.audit import audit
from pipelines.index_state import IndexState, served, states
from pipelines.stage import Context


@dataclass(frozen=True)
class Difference:
    """One thing that is not as it should be.

    Attributes:
        where: "documents" (files against silver.documents), "chunks" (silver.chunks against gold.chunk_index) or
            an index's name (gold.chunk_index against it).
        kind: missing, ghost (there without a source), stale, duplicate, wrong_filter, wrong_vector, or manifest.
        key: a path or a chunk_id.
        detail: what was found.
    """

    where: str
    kind: str
    key: str
    detail: str = ""


@dataclass(frozen=True)
class Verification:
    """What was compared, and what differs."""

    documents: int
    chunks: int
    index_rows: int
    fingerprint: str
    version: int | None
    differences: tuple[Difference, ...]

    @property
    def is_equal(self) -> bool:
        return not self.differences

    def to_json(self) -> dict[str, object]:
        return {"verified": self.is_equal, **asdict(self), "differences": [asdict(d) for d in self.differences]}


def verify(context: Context) -> Verification:
    """Compare the landing folder with silver.documents, chunks with gold.chunk_index, and that with its indexes."""
    lake = context.lake
    documents = lake.read_arrow("silver.documents", columns=["document_id", "path", "content_hash"])
    chunks = lake.read_arrow("silver.chunks", columns=["chunk_id", "text_hash"])
    alias = context.settings.index.name
    found = [*_documents(context, documents)]
    for state in states(lake, alias):
        if state.role != "shadow":
            found += [*_chunks(context, chunks, state), *_index(context, state)]
    main = served(lake, alias)
    manifest = main.manifest(context.settings) if main else None
    if main is None and chunks.num_rows:
        found.append(Difference(alias, "manifest", alias, "there is no index"))
    return Verification(
        documents=documents.num_rows,
        chunks=chunks.num_rows,
        index_rows=manifest.rows if manifest else 0,
        fingerprint=manifest.fingerprint if manifest else "",
        version=manifest.version if manifest else None,
        differences=tuple(found),
    )


def _chunks(context: Context, chunks: pa.Table, state: IndexState) -> Iterator[Difference]:
    """A chunk is served, or it is a dead letter with its reason."""
    rows = context.lake.read_arrow("gold.chunk_index", columns=["chunk_id", "text_hash"], where={"model": state.model})
    refused = {row["chunk_id"] for row in open_letters(context.lake, stage="embed-chunks", model=state.model)}
    expected = {key: value for key, value in _hashes(chunks).items() if key not in refused}
    yield from _keyed("chunks", expected=expected, found=_hashes(rows))


def _index(context: Context, state: IndexState) -> Iterator[Difference]:
    name = state.index_name
    manifest, head = state.manifest(context.settings), context.lake.head("gold.chunk_index")
    if manifest is None or head is None or manifest.source_id not in ("", head.table_id):
        yield Difference(name, "manifest", state.uri, "no index that belongs to the table as it is")
        return
    if manifest.version != head.version:
        yield Difference(name, "manifest", "version", f"{manifest.version}, the table is at {head.version}")
    result = audit(context, state)
    for kind, chunk_id in result.differences:
        yield Difference(name, kind, chunk_id)
    if not result.is_fingerprint_right:
        yield Difference(name, "manifest", "fingerprint", f"{manifest.fingerprint} is not the table's")


def _documents(context: Context, documents: pa.Table) -> Iterator[Difference]:
    """A file is a document with the same bytes, or it is in the quarantine with its reason."""
    refused = context.lake.read_arrow("silver.documents_quarantine", columns=["document_id", "replayed_at"])
    refused_ids = set(refused.filter(pc.is_null(refused["replayed_at"]))["document_id"].to_pylist())
    held = {row["document_id"]: row for row in documents.to_pylist()}
    source = context.settings.ingest.source
    present = set()
    for found in look(context).found:
        key = document_id(source, found.path)
        present.add(key)
        row = held.get(key)
        if row is None:
            if key not in refused_ids:
                yield Difference("documents", "missing", found.path, "neither a document nor quarantined")
        elif row["content_hash"] != found.content_hash():
            yield Difference("documents", "stale", found.path, "the file's bytes are others")
    for key, row in held.items():
        if key not in present:
            yield Difference("documents", "ghost", row["path"], "no such file")


def _hashes(rows: pa.Table) -> dict[str, str]:
    return dict(zip(rows["chunk_id"].to_pylist(), rows["text_hash"].to_pylist(), strict=True))


def _keyed(where: str, *, expected: dict[str, str], found: dict[str, str]) -> Iterator[Difference]:
    for key in expected.keys() - found.keys():
        yield Difference(where, "missing", key)
    for key in found.keys() - expected.keys():
        yield Difference(where, "ghost", key)
    for key in expected.keys() & found.keys():
        if expected[key] != found[key]:
            yield Difference(where, "stale", key, f"{found[key]}, expected {expected[key]}")
