"""The LangChain face of an index: LangChain's own suites for stores and retrievers, and what is ours."""

from __future__ import annotations

import json
import sys
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.retrievers import BaseRetriever
from langchain_core.vectorstores import VectorStore
from langchain_tests.integration_tests import RetrieversIntegrationTests, VectorStoreIntegrationTests

from pipelines.answering.search import Searcher
from pipelines.integrations.langchain import LakeloopVectorStore, embedded_text
from pipelines.settings.sections import Settings
from pipelines.vector_index.state import open_served
from tests.support.chunked import settings_for
from tests.support.served import chunk, serve
from transformations.errors import ConfigurationError, MissingDependencyError, RefusedError
from transformations.tables.filters import And, In, Not, Or
from transformations.text.chunks import chunk_markdown

# LangChain's suites mix both kinds of tests and mark neither.
BOTH_KINDS = [
    pytest.mark.asyncio,
    pytest.mark.filterwarnings("ignore:The test .* is marked with '@pytest.mark.asyncio'"),
]


class WrittenPastTheTable(LakeloopVectorStore):
    """The suite writes what it then reads: here into the index itself, its metadata as JSON in the title."""

    def __init__(self, settings: Settings) -> None:
        serve(settings)
        super().__init__(settings)
        self._settings = settings

    def add_documents(self, documents: list[Document], **given: Any) -> list[str]:
        ids = given.get("ids") or [document.id or uuid.uuid4().hex for document in documents]
        pairs = zip(ids, documents, strict=True)
        serve(self._settings, [chunk(i, d.page_content, title=json.dumps(d.metadata)) for i, d in pairs])
        return list(ids)

    def delete(self, ids: list[str] | None = None, **given: Any) -> bool:
        serve(self._settings, deleted=ids or [])
        return True

    def _document(self, found: Any) -> Document:
        document = super()._document(found)
        return document.model_copy(update={"metadata": json.loads(document.metadata["title"])})


class TestSuiteOfVectorStores(VectorStoreIntegrationTests):
    pytestmark = BOTH_KINDS

    @pytest.fixture
    def vectorstore(self, tmp_path: Path) -> VectorStore:  # type: ignore[override]
        return WrittenPastTheTable(settings_for(tmp_path))


class TestSuiteOfRetrievers(RetrieversIntegrationTests):
    pytestmark = BOTH_KINDS

    @pytest.fixture(autouse=True)
    def store(self, guide: LakeloopVectorStore) -> None:
        self.guide = guide

    @property
    def retriever_constructor(self) -> Callable[..., BaseRetriever]:  # type: ignore[override]
        return lambda k=4: self.guide.as_retriever(search_kwargs={"k": k})

    @property
    def retriever_query_example(self) -> str:
        return "how to begin"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A workspace that serves four chunks; c and d say the same."""
    settings = settings_for(tmp_path)
    guide = {"path": "guide.rst", "format": "rst", "title": "Guide", "document_id": "g"}
    chunks = [
        chunk("a", "Install it.", heading_path=["Guide", "Start"], **guide),
        chunk("b", "Run it.", heading_path=["Guide", "Use"], **guide),
        chunk("c", "It is free.", source="wiki"),
        chunk("d", "It is free."),
    ]
    serve(settings, chunks)
    return settings


@pytest.fixture
def guide(settings: Settings) -> LakeloopVectorStore:
    return LakeloopVectorStore(settings)


def ids(documents: list[Document]) -> list[str | None]:
    return [document.id for document in documents]


def test_a_document_carries_its_chunk_and_where_it_comes_from(guide: LakeloopVectorStore) -> None:
    (found,) = guide.similarity_search("Guide > Use\nRun it.", k=1)
    where = {"document_id": "g", "path": "guide.rst", "title": "Guide", "heading_path": ["Guide", "Use"]}
    assert found == Document(id="b", page_content="Run it.", metadata=where)
    ((same, score),) = guide.similarity_search_with_score("Guide > Use\nRun it.", k=1)
    assert same == found == guide.get_by_ids(["b"])[0]
    assert score == pytest.approx(1, abs=1e-5)


def test_one_chunk_is_one_document_whatever_was_asked(guide: LakeloopVectorStore) -> None:
    found = [guide.similarity_search(query, k=4) for query in ("it", "Install", "free", "Run it.")]
    assert {str(d) for documents in found for d in documents} == {str(d) for d in guide.get_by_ids(list("abcd"))}


def test_all_ways_to_search_find_the_same(guide: LakeloopVectorStore) -> None:
    query = "Guide > Start\nInstall it."
    scored = guide.similarity_search_with_score(query, k=4)
    assert ids([document for document, _ in scored])[0] == "a"
    assert [score for _, score in scored] == sorted((score for _, score in scored), reverse=True)
    plain = [document for document, _ in scored]
    assert guide.similarity_search(query, k=4) == plain
    assert guide.similarity_search_by_vector(guide.embeddings.embed_query(query), k=4) == plain
    assert guide.search(query, "similarity", k=4) == plain
    assert guide.as_retriever(search_kwargs={"k": 4}).invoke(query) == plain


def test_relevance_is_the_cosine_between_0_and_1_and_a_threshold_keeps_what_reaches_it(
    guide: LakeloopVectorStore,
) -> None:
    query = "Guide > Start\nInstall it."
    cosines = [score for _, score in guide.similarity_search_with_score(query, k=4)]
    assert min(cosines) < 0  # the vectors are random, so one points away
    relevant = guide.similarity_search_with_relevance_scores(query, k=4)
    assert [score for _, score in relevant] == [min(max(score, 0), 1) for score in cosines]
    retriever = guide.as_retriever(search_type="similarity_score_threshold", search_kwargs={"score_threshold": 0.9})
    assert ids(retriever.invoke(query)) == ["a"]


@pytest.mark.parametrize(
    ("given", "passing"),
    [
        ({"format": "rst"}, "ab"),
        ({"format": "md", "source": "wiki"}, "c"),
        ("format = rst or source = wiki", "abc"),
        (Not(In("path", ("guide.rst", "c.md"))), "d"),
        (None, "abcd"),
    ],
)
def test_a_filter_is_given_typed_as_text_or_as_a_dict(guide: LakeloopVectorStore, given: Any, passing: str) -> None:
    vector = guide.embeddings.embed_query("it")
    for found in (
        guide.similarity_search("it", k=9, filter=given),
        guide.similarity_search_by_vector(vector, k=9, filter=given),
        guide.max_marginal_relevance_search("it", k=9, filter=given),
        guide.max_marginal_relevance_search_by_vector(vector, k=9, filter=given),
        guide.as_retriever(search_kwargs={"k": 9, "filter": given}).invoke("it"),
    ):
        assert "".join(sorted(map(str, ids(found)))) == passing


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"titel": "Guide"}, "unknown filter column 'titel'"),
        ({"path": {"$in": ["a.md"]}}, "takes one text or more"),
        ("format rst", "wants =, != or in"),
        (lambda document: True, "a filter is a lakeloop filter, its text, or a dict"),
        ({}, r"the filter \{\} is empty, and so would let everything pass. Leave it out"),
        ("", "the filter '' is empty"),
        (" \n", "is empty"),
        (And(()), "is empty"),
        (Not(Or(())), "is empty"),
        (Not(And((In("path", ("a.md",)), Or(())))), "is empty"),
        (In("path", ()), "takes one text or more"),
    ],
)
def test_a_filter_that_cannot_be_meant_is_an_error(guide: LakeloopVectorStore, given: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        guide.similarity_search("it", filter=given)


@pytest.mark.parametrize("k", [0, -1])
def test_fewer_than_one_document_cannot_be_asked_for(guide: LakeloopVectorStore, k: int) -> None:
    vector = guide.embeddings.embed_query("it")
    for ask in (lambda: guide.similarity_search("it", k=k), lambda: guide.similarity_search_by_vector(vector, k=k)):
        with pytest.raises(ConfigurationError, match=f"1 or more, but it is {k}"):
            ask()


def test_an_argument_that_is_not_known_is_an_error_and_not_passed_over(guide: LakeloopVectorStore) -> None:
    with pytest.raises(ConfigurationError, match="Did you mean 'filter'"):
        guide.similarity_search("it", filters={"format": "rst"})


def test_marginal_relevance_leaves_out_what_says_the_same(guide: LakeloopVectorStore) -> None:
    nearest = guide.similarity_search("It is free.", k=2)
    assert sorted(map(str, ids(nearest))) == ["c", "d"]
    varied = {"k": 3, "lambda_mult": 0.3}
    diverse = guide.max_marginal_relevance_search("It is free.", **varied)
    assert diverse[0] in nearest
    assert not {"c", "d"} <= set(ids(diverse))
    vector = guide.embeddings.embed_query("It is free.")
    assert guide.max_marginal_relevance_search_by_vector(vector, **varied) == diverse
    assert guide.as_retriever(search_type="mmr", search_kwargs=varied).invoke("It is free.") == diverse


def test_marginal_relevance_without_diversity_is_similarity_and_takes_only_what_was_fetched(
    guide: LakeloopVectorStore,
) -> None:
    nearest = guide.similarity_search("it", k=4)
    assert guide.max_marginal_relevance_search("it", k=4, lambda_mult=1) == nearest
    assert guide.max_marginal_relevance_search("it", k=4, fetch_k=2, lambda_mult=1) == nearest[:2]
    assert guide.max_marginal_relevance_search("it", filter={"path": "none"}) == []


def test_what_is_embedded_anew_is_what_was_embedded() -> None:
    chunks = chunk_markdown(
        "Before.\n\n# A\n\n## B\n\ntwo\n\nlines", max_tokens=32, count_tokens=lambda texts: [1] * len(texts)
    )
    assert len(chunks) > 1
    for made in chunks:
        assert embedded_text(made) == made.embed_text  # type: ignore[arg-type]


def test_documents_are_got_by_their_ids_in_the_order_that_was_asked(guide: LakeloopVectorStore) -> None:
    found = guide.get_by_ids(["d", "none", "a", "d"])
    assert ids(found) == ["d", "a"]
    assert found[1].metadata == {
        "document_id": "g", "path": "guide.rst", "title": "Guide", "heading_path": ["Guide", "Start"],
    }  # fmt: skip
    assert guide.get_by_ids([]) == []


@pytest.mark.parametrize(
    "write",
    [
        lambda store: store.add_texts(["new"]),
        lambda store: store.add_documents([Document("new")]),
        lambda store: store.as_retriever().add_documents([Document("new")]),
        lambda store: store.delete(["a"]),
        lambda store: store.delete(),
        lambda store: LakeloopVectorStore.from_texts(["new"], store.embeddings),
        lambda store: LakeloopVectorStore.from_documents([Document("new")], store.embeddings),
    ],
)
def test_a_write_is_refused_and_says_where_to_write(guide: LakeloopVectorStore, write: Callable[..., Any]) -> None:
    with pytest.raises(RefusedError, match=r"into the landing folder.* run: lakeloop run"):
        write(guide)
    assert ids(guide.get_by_ids(list("abcd"))) == list("abcd")


@pytest.mark.asyncio
async def test_what_is_asked_asynchronously_is_answered_or_refused_the_same(guide: LakeloopVectorStore) -> None:
    vector, only = await guide.embeddings.aembed_query("it"), {"filter": "format = md"}
    assert await guide.asimilarity_search("it", **only) == guide.similarity_search("it", **only)
    assert await guide.asimilarity_search_with_score("it") == guide.similarity_search_with_score("it")
    assert await guide.asimilarity_search_by_vector(vector) == guide.similarity_search_by_vector(vector)
    assert await guide.amax_marginal_relevance_search("it", **only) == guide.max_marginal_relevance_search("it", **only)
    assert await guide.aget_by_ids(["b"]) == guide.get_by_ids(["b"])
    for refused in (
        guide.aadd_texts(["new"]),
        guide.aadd_documents([Document("new")]),
        guide.adelete(["a"]),
        LakeloopVectorStore.afrom_texts(["new"], guide.embeddings),
    ):
        with pytest.raises(RefusedError, match="landing folder"):
            await refused


@pytest.mark.parametrize(
    "vector", [[0.0] * 64, [float("nan")] * 64, [1.0] * 63 + [float("inf")], [1e-30] * 64, [1e300] * 64]
)
def test_a_vector_without_a_direction_is_refused(guide: LakeloopVectorStore, vector: list[float]) -> None:
    with pytest.raises(ConfigurationError, match=r"the query's vector .*Nothing was searched"):
        guide.similarity_search_by_vector(vector)
    with pytest.raises(ConfigurationError, match="the query's vector"):
        guide.similarity_search_by_vector(["a", *vector[1:]])  # type: ignore[list-item]
    with pytest.raises(ConfigurationError, match="the query's vector"):
        guide.similarity_search_by_vector([[1.0], [1.0, 2.0]])  # type: ignore[list-item]


def test_a_batch_of_queries_goes_on_through_commits(guide: LakeloopVectorStore, settings: Settings) -> None:
    """LangChain asks a batch's queries in as many threads."""
    retriever, done = guide.as_retriever(search_kwargs={"k": 4}), threading.Event()

    def commit() -> None:
        for number in range(5):
            serve(settings, [chunk(letter, f"It is free. {number}") for letter in "ef"])
        done.set()

    writer = threading.Thread(target=commit)
    writer.start()
    while not done.is_set():
        for found in retriever.batch(["it"] * 32, config={"max_concurrency": 16}):
            assert len(found) == 4
            assert len({document.page_content.split()[-1] for document in found if document.id in "ef"}) <= 1
    writer.join()


def test_one_thread_looks_where_the_alias_points_and_the_others_search_on(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[int] = []
    inside = threading.Event()

    def slowly(*arguments: Any) -> Any:
        opened.append(threading.get_ident())
        inside.wait(1)
        return open_served(*arguments)

    searcher = Searcher(settings)
    monkeypatch.setattr("pipelines.answering.search.open_served", slowly)
    monkeypatch.setattr("pipelines.answering.search._SECONDS_BETWEEN_LOOKS", 0.0)
    together = threading.Barrier(40)

    def ask() -> int:
        together.wait()
        return len(searcher.search("it", k=4))

    with ThreadPoolExecutor(40) as pool:
        asked = [pool.submit(ask) for _ in range(40)]
        assert [one.result() for one in asked] == [4] * 40
    assert len(opened) < 5, "each thread opened the store for itself"


def test_a_sync_in_between_is_seen(guide: LakeloopVectorStore, settings: Settings) -> None:
    serve(settings, [chunk("e", "It is new.")], deleted=["c"])
    assert ids(guide.similarity_search("It is new.", k=1)) == ["e"]
    assert ids(guide.get_by_ids(["c", "e"])) == ["e"]


def test_the_embeddings_are_those_of_the_index(guide: LakeloopVectorStore) -> None:
    assert isinstance(guide.embeddings, Embeddings)
    one, two = guide.embeddings.embed_documents(["It is free.", "it"])
    assert (len(one), two) == (64, guide.embeddings.embed_query("it"))


def test_without_an_index_it_says_how_to_build_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="lakeloop run"):
        LakeloopVectorStore(settings_for(tmp_path))


def test_without_langchain_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "pipelines.integrations.langchain")
    monkeypatch.setitem(sys.modules, "langchain_core.documents", None)
    with pytest.raises(MissingDependencyError, match=r"'langchain-core'.* pip install 'lakeloop\[langchain\]'"):
        import_module("pipelines.integrations.langchain")
