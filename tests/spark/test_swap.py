"""A change of the embedding model: the old index answers until the new one has passed its gates, and again after."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from pipelines.answering import search as search_module
from pipelines.answering.search import Searcher
from pipelines.conductor.run import new_context, run_stages
from pipelines.models.embedders import embedding_model
from pipelines.operations.status import describe
from pipelines.settings.sections import Settings
from pipelines.vector_index.audit import audit
from pipelines.vector_index.state import served, states
from pipelines.vector_index.swap import finish, swap, swap_back
from tests.support.chunked import INDEX_STAGES, chunk, deliver, settings_for, sync
from tests.support.embedders import counted
from transformations.errors import ConfigurationError, RefusedError

CHUNKS = [chunk(document, place) for document in range(6) for place in range(10)]


def roles(settings: Settings) -> dict[str, str]:
    return {state.model_name.split(":")[1]: state.role for state in states(new_context(settings).lake, "chunks")}


def all_equal(settings: Settings) -> bool:
    context = new_context(settings)
    return all(audit(context, state).is_equal for state in states(context.lake, settings.index.name))


def test_a_model_changes_behind_the_alias_and_back_and_no_query_meets_two_models(tmp_path: Path, spark, monkeypatch):
    old, new = settings_for(tmp_path), settings_for(tmp_path, model="Other")
    monkeypatch.setattr(search_module, "_SECONDS_BETWEEN_LOOKS", 0.0)
    deliver(old, CHUNKS)
    sync(old)
    searcher, wrong, answered, stop = Searcher(old), [], [], threading.Event()

    def ask_all_the_time() -> None:
        number = 0
        while not stop.is_set():
            row = CHUNKS[number % len(CHUNKS)]
            number += 1
            (hit,) = searcher.search(row["text"], k=1)
            answered.append(hit.score)
            # A vector of one model against the vectors of the other finds anything but its own text.
            if hit.text != row["text"] or hit.score < 0.999:
                wrong.append((row["text"], hit))

    thread = threading.Thread(target=ask_all_the_time)
    thread.start()
    try:
        before = counted()
        sync(new)
        assert roles(new) == {"Free": "served", "Other": "shadow"}
        deliver(new, [chunk(7, 0)])
        sync(new)
        assert counted() - before >= 60 + 2, "all texts with the new model, and the new text with both"
        stored = new_context(new).lake.read_arrow("gold.embeddings")
        assert stored.num_rows == 61 * 2, "each text once with each model"
        assert all_equal(new)

        deliver(new, [chunk(7, 1)])
        run_stages(new_context(new), stages=INDEX_STAGES[:1])
        with pytest.raises(RefusedError, match="version: "):  # the table moved, the index has not followed yet
            swap(new_context(new))
        sync(new)
        done = swap(new_context(new))
        assert all(gate["is_passed"] for gate in done["gates"])
        gates = ["version", "chunks", "rows", "fingerprint", "dead letters", "recall@10"]
        assert [gate["name"] for gate in done["gates"]] == gates
        assert roles(new) == {"Free": "previous", "Other": "served"}
        with pytest.raises(ConfigurationError, match="already"):
            swap(new_context(new))

        deliver(new, [chunk(8, 0)])
        sync(new)
        assert all_equal(new), "the previous index is kept in step, so that the way back is whole"
        swap_back(new_context(new))
        assert roles(new) == {"Free": "served", "Other": "previous"}
        swap_back(new_context(new))
        assert describe(new)[0]["index"]["model"].endswith(":Other")
    finally:
        stop.set()
        thread.join()
    assert wrong == []
    assert len(answered) > 50

    result = finish(new_context(new))
    assert result["serves"] == served(new_context(new).lake, "chunks").index_name
    assert roles(new) == {"Other": "served"}
    label = embedding_model(new).label
    assert set(new_context(new).lake.read_arrow("gold.chunk_index")["model"].to_pylist()) == {label}
    before = counted()
    sync(new)
    assert all_equal(new)
    assert counted() == before
    with pytest.raises(ConfigurationError, match="no index that 'chunks' served before"):
        swap_back(new_context(new))


def test_two_aliases_over_one_table_have_watermarks_of_their_own(tmp_path: Path, spark):
    first, second = settings_for(tmp_path), settings_for(tmp_path, name="second")
    deliver(first, CHUNKS)
    sync(first)
    deliver(first, [chunk(9, 0)])
    before = counted()
    assert sync(second)["sync-index"]["rows"] == 61
    assert counted() - before == 1
    assert describe(first)[0]["index"]["lag"]["versions"] == 1
    assert sync(first)["sync-index"]["upserts"] == 1
    assert all_equal(first)
    assert all_equal(second)


def test_back_to_an_earlier_model_after_finish_and_another_index_over_the_table_keeps_its_rows(tmp_path: Path, spark):
    old, new = settings_for(tmp_path), settings_for(tmp_path, model="Other")
    second = settings_for(tmp_path, name="second")
    deliver(old, CHUNKS)
    sync(old)
    sync(new)
    swap(new_context(new))
    finish(new_context(new))
    assert sync(old)["sync-index"]["rows"] == len(CHUNKS), "the earlier model is filled again"
    assert all(gate["is_passed"] for gate in swap(new_context(old))["gates"])
    assert roles(old) == {"Free": "served", "Other": "previous"}
    assert all_equal(old)

    sync(second)
    swap_back(new_context(old))
    finish(new_context(new))  # drops the first index of Free; the second one serves it on
    assert roles(new) == {"Other": "served"}
    assert sync(second) == {}
    assert all_equal(second)
    assert sum(len(batch) for batch in Searcher(second).rows()) == len(CHUNKS)
