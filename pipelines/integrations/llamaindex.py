"""A LlamaIndex retriever over a lakeloop index.

retriever = LakeloopRetriever(load_settings(), similarity_top_k=5, filter="format = 'rst'")
engine = RetrieverQueryEngine.from_args(retriever)
"""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Any

from pipelines.answering.search import Searcher
from pipelines.integrations.given import GivenFilter, filter_of, metadata_of, searcher_of
from pipelines.settings.sections import Settings
from pipelines.stores import Hit
from transformations.errors import MissingDependencyError

try:
    from llama_index.core.base.base_retriever import BaseRetriever
    from llama_index.core.constants import DEFAULT_SIMILARITY_TOP_K
    from llama_index.core.schema import NodeRelationship, NodeWithScore, QueryBundle, RelatedNodeInfo, TextNode
except ModuleNotFoundError:
    raise MissingDependencyError.for_extra("llama-index-core", "llamaindex") from None


class LakeloopRetriever(BaseRetriever):
    """Finds chunks of the index that a workspace serves.

    The id of a node is the chunk_id, its source is the document, and its score is the cosine similarity; its metadata
    has document_id, path, title and heading_path. If a query has an embedding, or texts to embed instead of it (as with
    HyDE), the search uses these; of several texts, the mean of their vectors.

    Args:
        source: a workspace's settings, or a searcher that is open already.
        similarity_top_k: how many chunks.
        filter: a lakeloop filter, its text (`format = 'rst' and not source in ('a', 'b')`) or a dict of columns and
            their values, over document_id, path, format and source.
        base: arguments of LlamaIndex's `BaseRetriever`, such as `callback_manager`.

    Raises:
        ConfigurationError: there is no index yet, or the filter cannot be read.
    """

    def __init__(
        self,
        source: Settings | Searcher,
        *,
        similarity_top_k: int = DEFAULT_SIMILARITY_TOP_K,
        filter: GivenFilter = None,
        **base: Any,
    ) -> None:
        super().__init__(**base)
        self._searcher = searcher_of(source)
        self._similarity_top_k = similarity_top_k
        self._where = filter_of(filter)

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        vector = query_bundle.embedding
        if vector is None and query_bundle.custom_embedding_strs:
            vector = self._searcher.embed(query_bundle.custom_embedding_strs).mean(axis=0).tolist()
        if vector is None:
            hits = self._searcher.search(query_bundle.query_str, k=self._similarity_top_k, where=self._where)
        else:
            hits = self._searcher.search_vector(vector, k=self._similarity_top_k, where=self._where)
        return [NodeWithScore(node=_node(hit), score=hit.score) for hit in hits]

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return await asyncio.to_thread(self._retrieve, query_bundle)


def _node(hit: Hit) -> TextNode:
    return TextNode(
        id_=hit.chunk_id,
        text=hit.text,
        metadata=metadata_of(asdict(hit)),
        # It means nothing to a language model.
        excluded_llm_metadata_keys=["document_id"],
        relationships={NodeRelationship.SOURCE: RelatedNodeInfo(node_id=hit.document_id)},
    )
