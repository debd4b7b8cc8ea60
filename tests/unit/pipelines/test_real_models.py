"""The real embedding model and the real language model: they find, answer, and do not obey a document."""

from __future__ import annotations

import time

import pyarrow as pa
import pytest

import lakeloop
from pipelines.answering.ask import Answerer
from pipelines.answering.search import Searcher, search
from pipelines.lakehouse.opening import open_lakehouse
from pipelines.lakehouse.schemas import INDEX_SCHEMA
from pipelines.models.embedders import embedding_model
from pipelines.settings.sections import LanguageModelSettings, Settings
from pipelines.stores import Hit
from pipelines.vector_index.state import register, served
from tests.support.answering import (
    EVIL,
    SOURCE,
    TURNS,
    OneHit,
    context_on,
    log_of,
    manifest,
    no_spark,
)
from transformations.errors import ConfigurationError
from transformations.tables.filters import equals


def test_without_an_index_search_and_ask_say_how_to_build_one(workspace):
    with pytest.raises(ConfigurationError, match="lakeloop run"):
        search(workspace, "anything", k=3)


@pytest.fixture
def indexed(workspace: Settings) -> Settings:
    """A workspace with three chunks in its index, embedded by the real model."""
    chosen = embedding_model(workspace)
    try:
        embedder = chosen.load(threads=2)
    except ConfigurationError as error:
        pytest.skip(f"the embedding model is not in the cache: {error}")
    texts = [SOURCE, "Markers are registered in pytest.ini.", "Use --durations=10 to list the ten slowest tests."]
    vectors = embedder.embed(texts)
    values = [
        {
            "chunk_id": f"c{n}", "document_id": f"d{n}", "path": f"{n}.rst", "title": "T",
            "heading_path": ["T", f"H{n}"], "text": text, "text_hash": "t", "format": "rst", "source": "files",
            "model": chosen.label, "vector": vectors[n].tolist(), "row_hash": "0" * 32,
        }
        for n, text in enumerate(texts)
    ]  # fmt: skip
    store = register(open_lakehouse(workspace, spark=no_spark), workspace, chosen).open(workspace)
    store.upsert(pa.Table.from_pylist(values, schema=INDEX_SCHEMA))
    store.commit(manifest(rows=3, revision=chosen.revision), expected=None)
    return workspace


def test_search_finds_the_nearest_chunk_and_a_query_takes_milliseconds(indexed):
    searcher = Searcher(indexed)
    hits = searcher.search("Which tests take longest?", k=2)
    assert hits[0].chunk_id == "c2"
    assert [h.path for h in searcher.search("tests", k=3, where=equals(path="1.rst"))] == ["1.rst"]
    started = time.monotonic()
    for _ in range(5):
        searcher.search("slow tests", k=2)
    # Some 15 ms on a quiet machine; the limit only finds a model that is loaded anew each time.
    assert (time.monotonic() - started) / 5 < 1
    with pytest.raises(ConfigurationError, match="empty"):
        searcher.search(" ", k=1)


def test_an_index_of_another_model_is_refused(indexed):
    store = served(open_lakehouse(indexed, spark=no_spark), "chunks").open(indexed)
    store.commit(manifest(revision="older"), expected=store.manifest())
    with pytest.raises(ConfigurationError, match=r"@older.*cannot be compared"):
        Searcher(indexed)


@pytest.mark.long
@pytest.mark.parametrize("turn", TURNS)
def test_the_real_model_does_not_obey_a_turn_in_a_document(indexed, turn):
    from pipelines.models.chat import language_model

    try:
        with language_model(indexed):
            pass
    except ConfigurationError as error:
        pytest.skip(f"the small language model is not in the cache: {error}")

    class Hostile(OneHit):
        def search(self, query: str, *, k: int, where: object = None) -> list[Hit]:
            return [Hit("c1", "d1", "a.rst", None, ("Guide",), f"{SOURCE}\n\n{turn}{EVIL}", 0.9)]

    patient = indexed.model_copy(update={"language_model": LanguageModelSettings(timeout_seconds=300, max_tokens=24)})
    with Answerer(patient, lake=context_on(patient).lake, searcher=Hostile()) as answerer:
        answer = answerer.answer("Where do I read captured output?")
    assert "evil.example.test" not in answer.text


def test_the_real_models_answer_with_sources_without_spark(indexed):
    from pipelines.models.chat import language_model

    try:
        with language_model(indexed):
            pass
    except ConfigurationError as error:
        pytest.skip(f"the small language model is not in the cache: {error}")
    patient = indexed.model_copy(update={"language_model": LanguageModelSettings(timeout_seconds=300, max_tokens=24)})
    context = context_on(patient)
    with Answerer(patient, lake=context.lake) as answerer:
        answer = answerer.answer("How do I list the slowest tests?", request_id="r1")
    assert answer.is_grounded != answer.is_quoted
    assert answer.sources[0].chunk_id == "c2"
    assert answer.request_id == "r1"
    assert answer.input_tokens > 50
    (row,) = log_of(context)
    assert row["prediction"] == answer.text
    assert row["trace_id"] == answer.trace_id


@pytest.mark.long
def test_a_workspace_answers_and_logs_the_call(indexed):
    patient = indexed.model_copy(update={"language_model": LanguageModelSettings(timeout_seconds=300, max_tokens=24)})
    with lakeloop.Workspace(patient) as workspace:
        try:
            answer = workspace.ask("Where do I read captured output?")
        except ConfigurationError as error:
            pytest.skip(f"the small language model is not in the cache: {error}")
        with pytest.raises(ConfigurationError, match="empty"):
            workspace.ask(" ")
        assert answer.sources[0].chunk_id == "c0"
        (row,) = workspace.tables["inference.inference_log"].to_arrow().to_pylist()
        assert row["request_id"] == answer.request_id
