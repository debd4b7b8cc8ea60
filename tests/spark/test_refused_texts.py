"""An embedder that is down, and a text that it refuses: the index stays as it was, and what can be applied is."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from pipelines.conductor.run import new_context, run_stages
from pipelines.flow.stage import Context
from pipelines.operations.replay import replay
from pipelines.operations.status import describe
from tests.support.chunked import INDEX_STAGES, chunk, deliver, is_equal, lance_of, manifest, settings_for, sync
from tests.support.embedders import away

CHUNKS = [chunk(document, place) for document in range(4) for place in range(10)]


def test_an_embedder_that_is_down_leaves_the_index_as_it_was(tmp_path: Path, spark):
    settings = settings_for(tmp_path, model="Away")
    deliver(settings, CHUNKS[:20])
    sync(settings)
    seen = manifest(settings)
    # More of them than could each be the text's own fault.
    deliver(settings, [chunk(1, place, f"New text {place} of a document.") for place in range(30)], [CHUNKS[10]])
    away().touch()
    try:
        with pytest.raises(Exception, match="the embedding server is down"):
            run_stages(new_context(settings), stages=INDEX_STAGES)
    finally:
        away().unlink()
    assert manifest(settings) == seen
    assert CHUNKS[10]["chunk_id"] in lance_of(settings).to_table(columns=["chunk_id"])["chunk_id"].to_pylist()
    sync(settings)
    assert is_equal(settings)


def test_a_text_that_the_model_refuses_stays_alone_until_it_is_tried_again(tmp_path: Path, spark, monkeypatch):
    settings = settings_for(tmp_path, model="Refusing")
    deliver(settings, CHUNKS[:40])
    sync(settings)
    poison = chunk(0, 3, f"POISON({tmp_path / 'cured'})")
    edited = chunk(1, 5, "Edited while another is refused.")
    deliver(settings, [poison, edited], [CHUNKS[3], CHUNKS[15], *CHUNKS[30:35]])
    outcome = run_stages(new_context(settings), stages=INDEX_STAGES)
    assert outcome.exit_code() == 6
    assert dict(outcome.stages[0].counts) == {
        "computed": 1, "cached": 0, "set_aside": 1, "insert": 1, "update": 0, "delete": 7,
    }  # fmt: skip
    (letter,) = new_context(settings).lake.read_arrow("ops.dead_letters").to_pylist()
    assert (letter["chunk_id"], letter["document_id"], letter["attempts"]) == (poison["chunk_id"], "document-0", 1)
    assert letter["error"] == "ValueError: this text is refused"
    assert is_equal(settings)
    assert describe(settings)[0]["dead_letters"] == 1

    assert replay(new_context(settings)) == {"tried": 1, "still_open": 1}
    assert new_context(settings).lake.read_arrow("ops.dead_letters")["attempts"].to_pylist() == [2]
    (tmp_path / "cured").touch()
    assert sync(settings) == {}, "its time has not come"
    later = datetime.now(timezone.utc) + timedelta(hours=1)
    monkeypatch.setattr(Context, "now", staticmethod(lambda: later))
    counts = sync(settings)  # nothing new: only what failed before
    assert (counts["embed-chunks"]["computed"], counts["sync-index"]["upserts"]) == (1, 1)
    assert replay(new_context(settings)) == {"tried": 0, "still_open": 0}
    assert poison["chunk_id"] in lance_of(settings).to_table(columns=["chunk_id"])["chunk_id"].to_pylist()
    assert is_equal(settings)
    assert sync(settings) == {}
