"""The LlamaIndex face of an index: what a retriever finds, by itself and inside LlamaIndex's query engine."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from llama_index.core.llms import MockLLM
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle

from pipelines.answering.search import Searcher
from pipelines.cli.main import main
from pipelines.integrations.llamaindex import LakeloopRetriever
from pipelines.settings.sections import Settings
from tests.support.chunked import settings_for
from tests.support.served import chunk, serve
from transformations.errors import ConfigurationError, MissingDependencyError
from transformations.tables.filters import In


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A workspace that serves three chunks."""
    settings = settings_for(tmp_path)
    guide = {"path": "guide.rst", "format": "rst", "title": "Guide", "document_id": "g", "heading_path": ["Guide"]}
    serve(settings, [chunk("a", "Install it.", **guide), chunk("b", "Run it.", **guide), chunk("c", "It is free.")])
    return settings


def ids(found: list[NodeWithScore]) -> list[str]:
    return [node.node_id for node in found]


def test_a_node_carries_its_chunk_its_score_and_its_document(settings: Settings) -> None:
    (found,) = LakeloopRetriever(settings, similarity_top_k=1).retrieve("Guide\nRun it.")
    assert (found.node_id, found.text) == ("b", "Run it.")
    assert found.score == pytest.approx(1, abs=1e-5)
    assert found.metadata == {"document_id": "g", "path": "guide.rst", "title": "Guide", "heading_path": ["Guide"]}
    assert found.node.ref_doc_id == "g"
    assert "guide.rst" in found.get_content(MetadataMode.LLM)


def test_it_finds_what_the_searcher_finds_best_first(settings: Settings) -> None:
    searcher = Searcher(settings)
    hits = searcher.search("it", k=3)
    found = LakeloopRetriever(searcher, similarity_top_k=3).retrieve("it")
    assert [(node.node_id, node.score) for node in found] == [(hit.chunk_id, hit.score) for hit in hits]
    assert ids(LakeloopRetriever(searcher).retrieve("it")) == ids(found)[:2]


@pytest.mark.parametrize("given", [{"format": "rst"}, "format = 'rst'", In("format", ("rst",))])
def test_a_filter_is_given_typed_as_text_or_as_a_dict(settings: Settings, given: Any) -> None:
    retriever = LakeloopRetriever(settings, similarity_top_k=9, filter=given)
    assert sorted(ids(retriever.retrieve("it"))) == ["a", "b"]
    vector = Searcher(settings).embed(["it"])[0].tolist()
    assert sorted(ids(retriever.retrieve(QueryBundle("", embedding=vector)))) == ["a", "b"]


def test_a_query_that_brings_its_vector_or_other_texts_is_searched_for_by_these(settings: Settings) -> None:
    searcher = Searcher(settings)
    retriever = LakeloopRetriever(searcher, similarity_top_k=2)
    vector = searcher.embed(["It is free."])[0].tolist()
    assert ids(retriever.retrieve(QueryBundle("Guide\nRun it.", embedding=vector)))[0] == "c"
    assert ids(retriever.retrieve(QueryBundle("it", custom_embedding_strs=["It is free."])))[0] == "c"
    both = QueryBundle("it", custom_embedding_strs=["It is free.", "Guide\nRun it."])
    assert sorted(ids(retriever.retrieve(both))) == ["b", "c"]


@pytest.mark.asyncio
async def test_it_finds_the_same_asynchronously(settings: Settings) -> None:
    retriever = LakeloopRetriever(settings)
    assert await retriever.aretrieve("it") == retriever.retrieve("it")


def test_it_serves_a_query_engine(settings: Settings) -> None:
    retriever = LakeloopRetriever(settings, filter="path = c.md")
    answer = RetrieverQueryEngine.from_args(retriever, llm=MockLLM()).query("What does it cost?")
    assert ids(answer.source_nodes) == ["c"]
    assert "It is free." in str(answer)  # this model repeats its prompt


def test_what_cannot_be_meant_is_an_error(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="unknown filter column 'titel'"):
        LakeloopRetriever(settings, filter={"titel": "Guide"}).retrieve("it")
    for empty in ({}, "", "  "):
        with pytest.raises(ConfigurationError, match="is empty, and so would let everything pass"):
            LakeloopRetriever(settings, filter=empty)
    with pytest.raises(ConfigurationError, match="empty"):
        LakeloopRetriever(settings).retrieve(" ")
    with pytest.raises(TypeError, match="filters"):
        LakeloopRetriever(settings, filters={"format": "rst"})


def test_without_an_index_it_says_how_to_build_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="lakeloop run"):
        LakeloopRetriever(settings_for(tmp_path))


def test_without_llamaindex_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "pipelines.integrations.llamaindex")
    monkeypatch.setitem(sys.modules, "llama_index.core.base.base_retriever", None)
    with pytest.raises(MissingDependencyError, match=r"'llama-index-core'.* pip install 'lakeloop\[llamaindex\]'"):
        import_module("pipelines.integrations.llamaindex")


def test_the_command_line_refuses_a_filter_that_says_nothing(
    settings: Settings, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `--where "$FILTER"` is where the variable is not set."""
    monkeypatch.setattr("pipelines.cli.main.settings_of", lambda *_: settings)
    with pytest.raises(SystemExit, match="5"):
        main(["search", "it", "--where", ""])
    assert "the filter '' is empty" in capsys.readouterr().err
    main(["search", "it", "--where", "path = c.md"])
