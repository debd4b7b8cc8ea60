"""Files, tables and index in; every difference between them out. Reads all of them, writes nothing, needs no JVM."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.bronze.ingest_documents import document_id, look
from pipelines.models.embedders import embedding_model
from pipelines.stage import Context
from pipelines.stores import Manifest, open_store
from transformations.fingerprint import fingerprint, row_hash_of


@dataclass(frozen=True)
class Difference:
    """One thing that is not as it should be.

    Attributes:
        where: "documents" (files against silver.documents), "chunks" (silver.chunks against gold.chunk_index) or
            "index" (gold.chunk_index against the index).
        kind: missing, ghost (there without a source), stale, duplicate, wrong_vector, or manifest.
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
    """Compare the landing folder with silver.documents, chunks with gold.chunk_index, and that with the index."""
    model = embedding_model(context.settings)
    store = open_store(context.settings, dimension=model.dimension)
    lake = context.lake
    documents = lake.read_arrow("silver.documents", columns=["document_id", "path", "content_hash"])
    table = lake.read_arrow("gold.chunk_index", columns=["chunk_id", "text_hash", "row_hash", "vector"])
    chunks = lake.read_arrow("silver.chunks", columns=["chunk_id", "text_hash"])
    manifest = store.manifest()
    held = pa.Table.from_batches(store.rows()) if manifest else None
    differences = [
        *_documents(context, documents),
        *_keyed("chunks", expected=_hashes(chunks, "text_hash"), found=_hashes(table, "text_hash")),
        *_index(table, held),
        *_manifest(context, manifest, hashes=table["row_hash"].to_pylist()),
    ]
    return Verification(
        documents=documents.num_rows,
        chunks=chunks.num_rows,
        index_rows=0 if held is None else held.num_rows,
        fingerprint=fingerprint(table["row_hash"].to_pylist()),
        version=manifest.version if manifest else None,
        differences=tuple(differences),
    )


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


def _hashes(rows: pa.Table, column: str) -> dict[str, str]:
    return dict(zip(rows["chunk_id"].to_pylist(), rows[column].to_pylist(), strict=True))


def _keyed(where: str, *, expected: dict[str, str], found: dict[str, str]) -> Iterator[Difference]:
    for key in expected.keys() - found.keys():
        yield Difference(where, "missing", key)
    for key in found.keys() - expected.keys():
        yield Difference(where, "ghost", key)
    for key in expected.keys() & found.keys():
        if expected[key] != found[key]:
            yield Difference(where, "stale", key, f"{found[key]}, expected {expected[key]}")


def _index(table: pa.Table, held: pa.Table | None) -> Iterator[Difference]:
    if held is None:
        yield from (Difference("index", "missing", key) for key in table["chunk_id"].to_pylist())
        return
    ids = held["chunk_id"].to_pylist()
    yield from (Difference("index", "duplicate", key, f"{n} rows") for key, n in Counter(ids).items() if n > 1)
    # The hash is computed again from what the index holds: a row altered behind our back has its old hash beside it.
    visible = [c for c in held.column_names if c not in ("vector", "row_hash")]
    actual = {row["chunk_id"]: row_hash_of(row) for row in held.select(visible).to_pylist()}
    expected = _hashes(table, "row_hash")
    yield from _keyed("index", expected=expected, found=actual)
    wanted = dict(zip(table["chunk_id"].to_pylist(), _vectors(table), strict=True))
    for key, vector in zip(ids, _vectors(held), strict=True):
        if key in wanted and not np.array_equal(vector, wanted[key]):
            yield Difference("index", "wrong_vector", key)


def _vectors(rows: pa.Table) -> list[Any]:
    matrices = [
        batch.column("vector").flatten().to_numpy(zero_copy_only=False).reshape(batch.num_rows, -1)
        for batch in rows.to_batches()
        if batch.num_rows
    ]
    return [vector for matrix in matrices for vector in matrix]


def _manifest(context: Context, manifest: Manifest | None, *, hashes: list[str]) -> Iterator[Difference]:
    head = context.lake.head("gold.chunk_index")
    if manifest is None or head is None:
        if manifest is not None or head is not None:
            yield Difference("index", "manifest", context.settings.index_uri, "no index for the table, or no table")
        return
    if (manifest.source_id, manifest.version) != (head.table_id, head.version):
        yield Difference("index", "manifest", "version", f"{manifest.version}, the table is at {head.version}")
    elif manifest.fingerprint != fingerprint(hashes):
        yield Difference("index", "manifest", "fingerprint", f"{manifest.fingerprint} is not the table's")
