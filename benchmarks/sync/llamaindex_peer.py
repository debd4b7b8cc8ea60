"""A folder in; its chunks in a Lance table, kept equal by LlamaIndex's IngestionPipeline, out.

The strategy is UPSERTS_AND_DELETE with the docstore that `persist` writes. As documented: random node ids, 10 texts a
call of the model, the pipeline's cache, and the library's own LanceDBVectorStore, which appends. At its best: node ids
from document and place in a store that upserts, 2,048 texts a call (the most that the library allows), the source in
the metadata (two equal documents without any are one to the docstore), and no cache, since the docstore skips what is
unchanged and the cache's key is the whole run's text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from llama_index.core.bridge.pydantic import PrivateAttr
from llama_index.core.embeddings import BaseEmbedding
from llama_index.core.ingestion import DocstoreStrategy, IngestionPipeline
from llama_index.core.node_parser.interface import TextSplitter
from llama_index.core.schema import BaseNode, Document
from llama_index.core.storage.docstore import SimpleDocumentStore
from llama_index.core.vector_stores.types import BasePydanticVectorStore, VectorStoreQuery, VectorStoreQueryResult
from llama_index.core.vector_stores.utils import node_to_metadata_dict
from llama_index.vector_stores.lancedb import LanceDBVectorStore

from benchmarks.sync.corpus import paragraphs, read_documents
from benchmarks.sync.embedder import StubEmbedder
from benchmarks.sync.peer import TABLE, Job, main
from benchmarks.sync.sink import Sink

_MOST_TEXTS_A_CALL = 2048


class Paragraphs(TextSplitter):
    def split_text(self, text: str) -> list[str]:
        return paragraphs(text)


class Stub(BaseEmbedding):
    _model: StubEmbedder = PrivateAttr(default_factory=StubEmbedder)

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        vectors: list[list[float]] = self._model.embed(texts, batch_size=len(texts)).tolist()
        return vectors

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_query_embedding(query)


class LanceTable(BasePydanticVectorStore):
    """As LanceDBVectorStore, but `add` is an upsert by node id."""

    _sink: Sink = PrivateAttr()

    def __init__(self, sink: Sink) -> None:
        super().__init__(stores_text=True)
        self._sink = sink

    @property
    def client(self) -> Any:
        return self._sink

    def add(self, nodes: Any, **kwargs: Any) -> list[str]:
        ids = [node.node_id for node in nodes]
        if nodes:
            self._sink.upsert(
                ids,
                [node.get_content() for node in nodes],
                [node.get_embedding() for node in nodes],
                documents=[node.ref_doc_id for node in nodes],
                metadata=[json.dumps(node_to_metadata_dict(node, remove_text=True)) for node in nodes],
            )
        return ids

    def delete(self, ref_doc_id: str, **kwargs: Any) -> None:
        self._sink.delete_document(ref_doc_id)

    def query(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        raise NotImplementedError  # the interface wants it, a pipeline never calls it


def sync(job: Job) -> Mapping[str, int]:
    """Nodes: how many the pipeline returned, which are those it embedded."""
    if job.is_best:
        pipeline = _pipeline(
            Paragraphs(id_func=_place_in_document),
            Stub(model_name=StubEmbedder().name, embed_batch_size=_MOST_TEXTS_A_CALL),
            vector_store=LanceTable(Sink(job.sink)),
            disable_cache=True,
        )
    else:
        pipeline = _pipeline(
            Paragraphs(),
            Stub(model_name=StubEmbedder().name),
            vector_store=LanceDBVectorStore(uri=job.sink, table_name=TABLE),
        )
    storage = job.state / "pipeline_storage"
    if storage.exists():
        pipeline.load(str(storage))
    nodes = pipeline.run(documents=_documents(job))
    pipeline.persist(str(storage))
    return {"nodes": len(nodes)}


def _pipeline(splitter: Paragraphs, model: Stub, **settings: Any) -> IngestionPipeline:
    return IngestionPipeline(
        transformations=[splitter, model],
        docstore=SimpleDocumentStore(),
        docstore_strategy=DocstoreStrategy.UPSERTS_AND_DELETE,
        **settings,
    )


def _documents(job: Job) -> list[Document]:
    documents = []
    for path, chunks in read_documents(job.folder):
        about = {"metadata": {"source": path}, "excluded_embed_metadata_keys": ["source"]} if job.is_best else {}
        documents.append(Document(text="\n\n".join(chunks), id_=path, **about))
    return documents


def _place_in_document(i: int, document: BaseNode) -> str:
    return f"{document.node_id}#{i}"


if __name__ == "__main__":
    main(sync)
