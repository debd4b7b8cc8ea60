"""A folder in; its chunks in a Lance table, kept equal by LangChain's `index()` with `cleanup="full"`, out.

The record manager is SQLite, as in LangChain's documentation. As documented: 100 chunks a batch, the default hash, and
the chunk's place in the metadata, as its tutorials' splitter with `add_start_index=True` keeps it. At its best: 1,000
chunks a batch, BLAKE2b, and no place in the metadata, since the key is a hash over text and metadata.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from langchain_classic.indexes import SQLRecordManager
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.indexing import index
from langchain_core.vectorstores import VectorStore

from benchmarks.sync.corpus import read_documents
from benchmarks.sync.embedder import StubEmbedder
from benchmarks.sync.peer import Job, main
from benchmarks.sync.sink import Sink


class Stub(Embeddings):
    def __init__(self) -> None:
        self._model = StubEmbedder()

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        vectors: list[list[float]] = self._model.embed(texts, batch_size=len(texts)).tolist()
        return vectors

    def embed_query(self, text: str) -> list[float]:
        return self.embed_documents([text])[0]


class LanceTable(VectorStore):
    """The contract that `index()` asks for: add by id, delete by id."""

    def __init__(self, sink: Sink, *, embedding: Embeddings) -> None:
        self._sink, self._embedding = sink, embedding

    def add_texts(
        self,
        texts: Iterable[str],
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        **kwargs: Any,
    ) -> list[str]:
        held, about, keys = list(texts), metadatas or [], ids or []
        self._sink.upsert(
            keys,
            held,
            self._embedding.embed_documents(held),
            documents=[each["source"] for each in about],
            metadata=[json.dumps(each) for each in about],
        )
        return keys

    def delete(self, ids: list[str] | None = None, **kwargs: Any) -> bool:
        self._sink.delete(ids or [])
        return True

    def similarity_search(self, query: str, k: int = 4, **kwargs: Any) -> list[Document]:
        raise NotImplementedError  # the interface wants it, `index()` never calls it

    @classmethod
    def from_texts(cls, *args: Any, **kwargs: Any) -> LanceTable:
        raise NotImplementedError  # likewise


def sync(job: Job) -> Mapping[str, int]:
    """What `index()` reports: added, updated, skipped, deleted."""
    records = SQLRecordManager("lance/chunks", db_url=f"sqlite:///{job.state / 'records.sqlite'}")
    records.create_schema()
    settings: dict[str, Any] = {"batch_size": 1000, "key_encoder": "blake2b"} if job.is_best else {}
    result = index(
        _documents(job),
        records,
        LanceTable(Sink(job.sink), embedding=Stub()),
        cleanup="full",
        source_id_key="source",
        force_update=job.is_new_model,
        **settings,
    )
    return {key: int(str(value)) for key, value in result.items()}


def _documents(job: Job) -> Iterator[Document]:
    for path, chunks in read_documents(job.folder):
        for place, text in enumerate(chunks):
            yield Document(text, metadata={"source": path} if job.is_best else {"source": path, "chunk": place})


if __name__ == "__main__":
    main(sync)
