"""The store for Chroma: a collection in a folder, or at a server (`chroma run`).

`index.uri` is a folder, in which Chroma keeps the subfolder `chroma` (`chroma run --path FOLDER/chroma` serves it), or
an address like http://localhost:8000, with `index.secret` as the bearer token that a proxy asks for.

Only one process at a time may use a folder: each process keeps a graph of the vectors in memory, and does not see what
another one writes. The manifest is metadata of the collection, so both are dropped and restored together.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import pyarrow as pa
from pydantic import Field

from pipelines.lakehouse.schemas import INDEX_SCHEMA
from pipelines.stores import Hit, Manifest, check_query, check_succession
from pipelines.stores.capabilities import declare, never, notyet, yes
from pipelines.stores.chroma_server import Server
from pipelines.stores.place import Options, Place, PositiveSeconds
from transformations.index.vectors import ANYTHING
from transformations.tables.filters import And, Filter, In, Not

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_SCHEMA = INDEX_SCHEMA
# chunk_id, text and vector are Chroma's own id, document and embedding.
_METADATA = [name for name in _SCHEMA.names if name not in ("chunk_id", "text", "vector")]
_MANIFEST_KEY = "lakeloop_manifest"
_ROWS_PER_PAGE = 1000
# Chroma writes its graph after this many operations, and drops them from its log only then.
_OPERATIONS_LOGGED = 1000
# With this a search of some thousand rows is exact; with 100, the library's own value, it found 9 of 10 among 3,000
# random vectors.
_EF_SEARCH = 500

_BOTH = {
    "atomic_commit": notyet("Chroma has no transaction over several calls: readers see each batch as it is written"),
    "compare_and_set": notyet("the manifest is read, compared, then written; the lease keeps a second writer away"),
    "filters": yes(),
    "approximate_search": yes(
        f"HNSW with ef_search {_EF_SEARCH}: exact on some thousand rows, but for rare misses after updates"
    ),
    "object_storage": never("SQLite and HNSW want local files"),
}
_FOLDER = declare(
    **_BOTH,
    several_writers=notyet("two processes that write lose vectors: of 7,003 rows, searches found 6,903. Use a server"),
    other_processes=notyet("an open process goes on to search what it opened: 2 of 6,002 rows. Use a server"),
    forgets_at_once=yes("1,000 idle operations empty Chroma's log, then its database is vacuumed; vectors stay"),
)
_SERVER = declare(
    **_BOTH,
    several_writers=yes(),
    other_processes=yes(),
    forgets_at_once=notyet("the server's file keeps deleted text where it is free, until `chroma vacuum` runs there"),
)


class ChromaOptions(Options):
    timeout_seconds: PositiveSeconds = Field(60, description="how many seconds one request may take")


class ChromaStore:
    """One collection, `lakeloop-<name>-index`: a name in Chroma begins and ends with a letter or a digit."""

    options: ClassVar[type[Options]] = ChromaOptions
    capabilities = _FOLDER
    limits = ANYTHING

    def __init__(self, place: Place) -> None:
        options = place.parsed(ChromaOptions)
        self._server = Server(place.uri, token=place.secret, timeout=options.timeout_seconds)
        if self._server.folder is None:
            self.capabilities = _SERVER
        self._name = f"lakeloop-{place.name}-index"
        self._dimension = place.dimension

    def manifest(self) -> Manifest | None:
        collection = self._collection()
        text = None if collection is None else (collection.metadata or {}).get(_MANIFEST_KEY)
        return None if text is None else Manifest.from_json(text)

    def upsert(self, rows: pa.Table, *, are_new: bool = False) -> Mapping[str, str]:
        if rows.num_rows:
            collection, size = self._create_if_missing(), self._server.open().get_max_batch_size()
            for batch in rows.to_batches(max_chunksize=size):
                collection.upsert(
                    ids=batch["chunk_id"].to_pylist(),
                    embeddings=batch["vector"].to_pylist(),
                    documents=batch["text"].to_pylist(),
                    metadatas=[_metadata(row) for row in batch.select(_METADATA).to_pylist()],
                )
        return {}

    def delete(self, ids: Sequence[str]) -> None:
        collection = self._collection()
        if collection is None:
            return
        size = self._server.open().get_max_batch_size()
        for start in range(0, len(ids), size):
            collection.delete(ids=list(ids[start : start + size]))

    def commit(self, manifest: Manifest, *, expected: Manifest | None) -> None:
        collection = self._create_if_missing()
        check_succession(self.manifest(), expected=expected, new=manifest)
        # This replaces all metadata of the collection, but not the configuration of the graph.
        collection.modify(metadata={_MANIFEST_KEY: manifest.to_json()})

    def ids_with_hashes(self) -> Iterator[pa.RecordBatch]:
        for page in self._pages("metadatas"):
            hashes = [metadata["row_hash"] for metadata in page["metadatas"]]
            yield pa.RecordBatch.from_pydict({"chunk_id": page["ids"], "row_hash": hashes})

    def rows(self) -> Iterator[pa.RecordBatch]:
        for page in self._pages("metadatas", "documents", "embeddings"):
            rows = [
                {**_columns(metadata), "chunk_id": chunk_id, "text": text, "vector": vector}
                for chunk_id, metadata, text, vector in zip(
                    page["ids"], page["metadatas"], page["documents"], page["embeddings"].tolist(), strict=True
                )
            ]
            yield pa.RecordBatch.from_pylist(rows, schema=_SCHEMA)

    def search(self, vector: NDArray[np.float32], *, k: int, where: Filter | None = None) -> list[Hit]:
        check_query(vector, dimension=self._dimension, where=where)
        collection = self._collection()
        if collection is None:
            return []
        found = collection.query(
            query_embeddings=[vector],
            n_results=k,
            where=None if where is None else _where(where),
            include=["metadatas", "documents", "distances"],
        )
        columns = (found[name][0] for name in ("ids", "metadatas", "documents", "distances"))
        return [
            Hit(
                chunk_id,
                document_id=metadata["document_id"],
                path=metadata["path"],
                title=metadata.get("title"),
                heading_path=tuple(json.loads(metadata["heading_path"])),
                text=text,
                score=1 - distance,
            )
            for chunk_id, metadata, text, distance in zip(*columns, strict=True)
        ]

    def forget(self) -> str:
        collection = self._collection()
        if collection is None:
            return "nothing: there is no index"
        nobody = [f"no-such-chunk-{number}" for number in range(_OPERATIONS_LOGGED)]
        collection.update(ids=nobody, metadatas=[{"source": "nowhere"}] * len(nobody))
        if self._server.folder is None:
            return (
                "the text of deleted rows where the server's file is free, until its administrator stops it and runs "
                "`chroma vacuum --path FOLDER`; after that, pieces of three letters in its text search"
            )
        self._server.vacuum()
        return "vectors of deleted rows in Chroma's graph, without ids and text"

    def drop(self) -> None:
        if self._collection() is not None:
            self._server.open().delete_collection(self._name)

    def close(self) -> None:
        self._server.close()

    def _collection(self) -> Any | None:
        """The collection as it is now; another handle may have created it again, or changed its manifest."""
        # Looking must not create Chroma's files.
        if self._server.folder is not None and not self._server.folder.exists():
            return None
        client = self._server.open()
        import chromadb.errors

        try:
            return client.get_collection(self._name, embedding_function=None)
        except chromadb.errors.NotFoundError:
            return None

    def _create_if_missing(self) -> Any:
        graph = {"space": "cosine", "ef_search": _EF_SEARCH, "sync_threshold": _OPERATIONS_LOGGED}
        return self._server.open().get_or_create_collection(
            self._name, embedding_function=None, configuration={"hnsw": graph}
        )

    def _pages(self, *include: str) -> Iterator[Any]:
        collection = self._collection()
        start = 0
        while collection is not None:
            page = collection.get(limit=_ROWS_PER_PAGE, offset=start, include=list(include))
            if not page["ids"]:
                return
            yield page
            start += len(page["ids"])


def _metadata(row: dict[str, Any]) -> dict[str, str | None]:
    """A row as Chroma's metadata. A title that is None stays in it: Chroma merges new metadata into old, and None
    removes a value."""
    return {**row, "heading_path": json.dumps(row["heading_path"], ensure_ascii=False)}


def _columns(metadata: Mapping[str, str]) -> dict[str, Any]:
    return {**metadata, "heading_path": json.loads(metadata["heading_path"])}


def _where(where: Filter, *, negated: bool = False) -> dict[str, Any]:
    """The filter in Chroma's form, which has no `not`: each `not` moves down to the comparisons."""
    if isinstance(where, In):
        return {where.column: {"$nin" if negated else "$in": list(where.values)}}
    if isinstance(where, Not):
        return _where(where.part, negated=not negated)
    parts = [_where(part, negated=negated) for part in where.parts]
    if len(parts) == 1:
        return parts[0]
    return {"$and" if isinstance(where, And) != negated else "$or": parts}
