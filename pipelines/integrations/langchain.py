"""A LangChain `VectorStore` that searches a lakeloop index.

    store = LakeloopVectorStore(load_settings())
    retriever = store.as_retriever(search_kwargs={"k": 5, "filter": {"format": "rst"}})

It is only for reading: an index equals its table, and documents are added through the landing folder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa

from pipelines.answering.search import Searcher
from pipelines.integrations.given import METADATA, GivenFilter, filter_of, metadata_of, searcher_of
from pipelines.settings.sections import Settings
from pipelines.stores import Hit
from transformations.errors import ConfigurationError, MissingDependencyError, RefusedError

try:
    from langchain_core.documents import Document
    from langchain_core.embeddings import Embeddings
    from langchain_core.vectorstores import VectorStore
except ModuleNotFoundError:
    raise MissingDependencyError.for_extra("langchain-core", "langchain") from None


class LakeloopVectorStore(VectorStore):
    """The index that a workspace serves, for reading.

    `filter` is a lakeloop filter, its text (`format = 'rst' and not source in ('a', 'b')`) or a dict of columns and
    their values, over document_id, path, format and source. The id of a document is the chunk_id; its metadata has
    document_id, path, title and heading_path. A chunk is always the same document, whatever the query was; the cosine
    similarity to the query is only returned by `similarity_search_with_score`.

    Args:
        source: a workspace's settings, or a searcher that is open already.

    Raises:
        ConfigurationError: there is no index yet, or a filter or an argument is not known.
    """

    def __init__(self, source: Settings | Searcher) -> None:
        self._searcher = searcher_of(source)

    @property
    def embeddings(self) -> Embeddings:
        return IndexEmbeddings(self._searcher)

    def similarity_search(self, query: str, k: int = 4, filter: GivenFilter = None, **unknown: Any) -> list[Document]:
        return [document for document, _ in self.similarity_search_with_score(query, k, filter, **unknown)]

    def similarity_search_with_score(
        self, query: str, k: int = 4, filter: GivenFilter = None, **unknown: Any
    ) -> list[tuple[Document, float]]:
        """The nearest documents with their cosine similarity, best first."""
        _check(unknown)
        hits = self._searcher.search(query, k=k, where=filter_of(filter))
        return [(self._document(asdict(hit)), hit.score) for hit in hits]

    def similarity_search_by_vector(
        self, embedding: Sequence[float], k: int = 4, filter: GivenFilter = None, **unknown: Any
    ) -> list[Document]:
        """The documents nearest to a vector of the index's model; `embeddings` makes such vectors."""
        _check(unknown)
        hits = self._searcher.search_vector(embedding, k=k, where=filter_of(filter))
        return [self._document(asdict(hit)) for hit in hits]

    def max_marginal_relevance_search(
        self,
        query: str,
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        filter: GivenFilter = None,
        **unknown: Any,
    ) -> list[Document]:
        """`k` of the `fetch_k` nearest documents, each chosen to be like the query and unlike those chosen before.

        Stores return no vectors with their results, so those of the `fetch_k` documents are computed again.
        """
        _check(unknown)
        hits = self._searcher.search(query, k=fetch_k, where=filter_of(filter))
        return self._diverse(hits, k=k, lambda_mult=lambda_mult)

    def max_marginal_relevance_search_by_vector(
        self,
        embedding: Sequence[float],
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        filter: GivenFilter = None,
        **unknown: Any,
    ) -> list[Document]:
        _check(unknown)
        hits = self._searcher.search_vector(embedding, k=fetch_k, where=filter_of(filter))
        return self._diverse(hits, k=k, lambda_mult=lambda_mult)

    def get_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """The documents with these ids, in the order of the ids, each once; unknown ids are left out.

        Stores cannot find rows by id, so the index is read until all are found: only for a few ids now and then.
        """
        found: dict[str, Document] = {}
        missing = set(ids)
        for batch in self._searcher.rows() if missing else ():
            places = [place for place, key in enumerate(batch["chunk_id"].to_pylist()) if key in missing]
            chunks = batch.select(["chunk_id", "text", *METADATA]).take(pa.array(places, pa.int64()))
            for row in chunks.to_pylist():
                found[row["chunk_id"]] = self._document(row)
            missing -= found.keys()
            if not missing:
                break
        return [found[key] for key in dict.fromkeys(ids) if key in found]

    def add_texts(
        self,
        texts: Iterable[str],
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        **kwargs: Any,
    ) -> list[str]:
        _refuse("add")

    def delete(self, ids: list[str] | None = None, **kwargs: Any) -> bool | None:
        _refuse("delete")

    @classmethod
    def from_texts(
        cls,
        texts: list[str],
        embedding: Embeddings,
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        **kwargs: Any,
    ) -> LakeloopVectorStore:
        _refuse("build an index from")

    def _document(self, chunk: Mapping[str, Any]) -> Document:
        return Document(id=chunk["chunk_id"], page_content=chunk["text"], metadata=metadata_of(chunk))

    def _diverse(self, hits: Sequence[Hit], *, k: int, lambda_mult: float) -> list[Document]:
        if not hits:
            return []
        vectors = self._searcher.embed([embedded_text(hit) for hit in hits])
        vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        likeness = vectors @ vectors.T
        relevance = np.array([hit.score for hit in hits])
        chosen: list[int] = []
        while len(chosen) < min(k, len(hits)):
            repetition = likeness[:, chosen].max(axis=1) if chosen else np.zeros(len(hits))
            worth = lambda_mult * relevance - (1 - lambda_mult) * repetition
            worth[chosen] = -np.inf
            chosen.append(int(worth.argmax()))
        return [self._document(asdict(hits[place])) for place in chosen]

    def _select_relevance_score_fn(self) -> Callable[[float], float]:
        # LangChain wants 0 to 1: a chunk with a negative similarity is as irrelevant as one with 0.
        return lambda similarity: min(max(similarity, 0.0), 1.0)


class IndexEmbeddings(Embeddings):
    """The embedding model of the served index, as LangChain's `Embeddings`."""

    def __init__(self, searcher: Searcher) -> None:
        self._searcher = searcher

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        vectors: list[list[float]] = self._searcher.embed(texts).tolist()
        return vectors

    def embed_query(self, text: str) -> list[float]:
        return self.embed_documents([text])[0]


def embedded_text(hit: Hit) -> str:
    """The text that was embedded for a chunk: its headings, then its text (transformations/text/chunks.py)."""
    return "\n".join([" > ".join(hit.heading_path), hit.text]) if hit.heading_path else hit.text


def _check(unknown: Mapping[str, Any]) -> None:
    # An unknown argument must not be ignored silently: it may be meant as a filter.
    for name in unknown:
        raise ConfigurationError.unknown_name("argument", name, ("k", "filter", "fetch_k", "lambda_mult"))


def _refuse(act: str) -> NoReturn:
    raise RefusedError(
        f"nothing was done: LangChain cannot {act} documents here, since a lakeloop index equals its table and what is "
        "written past the table would be lost. Put the document into the landing folder, or take it out of there (or "
        "change silver.chunks), and run: lakeloop run"
    )
