"""`forget`: what a document said is on no disk of the workspace, and a receipt says what remains elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.conductor.run import new_context, run_stages
from pipelines.conductor.stages import DOCUMENT_STAGES
from pipelines.monitoring.monitor import PROFILE
from pipelines.monitoring.monitor import STAGE as MONITOR
from pipelines.operations.forget import forget
from pipelines.operations.plan import plan
from pipelines.operations.verify import verify
from pipelines.settings.sections import Settings
from pipelines.vector_index.places import Place, forget_place, note
from tests.support.chunked import settings_for
from tests.support.embedders import counted
from transformations.errors import ConfigurationError, RefusedError

SECRET = "Zanzibar-Quokka-7781"


def _texts(settings: Settings) -> None:
    for number in range(8):
        text = f"# Document {number}\n\nThis is about subject {number}.\n"
        (settings.landing_path / f"{number}.md").write_text(text, encoding="utf-8")
    private = f"# Private\n\n{SECRET} lives in a house.\n\n## More\n\nOf {SECRET} more is told here.\n"
    (settings.landing_path / "private.md").write_text(private, encoding="utf-8")


@pytest.mark.long
def test_a_plan_tells_what_a_run_then_does_and_a_forgotten_document_is_on_no_disk(tmp_path: Path, spark):
    settings = settings_for(tmp_path)
    _texts(settings)
    made = plan(new_context(settings))
    assert ({d.op for d in made.documents}, len(made.documents), made.embed, made.cached) == ({"+"}, 9, 10, 0)
    assert made.tokens > 50
    counts = {s.stage: s.counts for s in run_stages(new_context(settings), stages=DOCUMENT_STAGES).stages}
    assert counts["embed-chunks"]["computed"] == made.embed
    assert plan(new_context(settings)).documents == ()

    private = settings.landing_path / "private.md"
    private.write_text(private.read_text(encoding="utf-8") + f"\n## Last\n\n{SECRET} again.\n", encoding="utf-8")
    (settings.landing_path / "0.md").unlink()
    (settings.landing_path / "empty.md").touch()
    by_path = {d.path: d for d in plan(new_context(settings)).documents}
    assert {path: d.op for path, d in by_path.items()} == {"private.md": "~", "0.md": "-", "empty.md": "!"}
    assert (by_path["private.md"].chunks_added, by_path["private.md"].chunks_removed) == (1, 0)
    assert (by_path["private.md"].to_embed, by_path["0.md"].chunks_removed) == (1, 1)
    (settings.landing_path / "empty.md").unlink()
    run_stages(new_context(settings), stages=DOCUMENT_STAGES)

    with pytest.raises(RefusedError, match=r"still in .*: the next run would bring it back"):
        forget(new_context(settings), "private.md")
    with pytest.raises(ConfigurationError, match=r"unknown document 'privat.md'. Did you mean 'private.md'"):
        forget(new_context(settings), "privat.md")
    private.unlink()
    context = new_context(settings)
    chunks = context.lake.read_arrow("silver.chunks", columns=["document_id", "chunk_id", "text"]).to_pylist()
    chunk = next({**c, "doc_id": c["document_id"], "rank": 1} for c in chunks if SECRET in c["text"])
    answer = {"request_id": "a", "status_code": 200, "sampling_fraction": 1.0, "response": f"At {SECRET}'s."}
    day = {"request_time": context.now(), "request_date": context.now().date()}
    context.lake.append_arrow("inference.inference_log", [answer | day | {"retrieved": [chunk], "model_id": "m"}])
    run_stages(context, stages=[MONITOR])
    profiled = context.lake.read_arrow(PROFILE, columns=["frequent_items"]).to_pylist()
    assert SECRET in str(profiled), "an answer that is given often is an item of its day"
    before = counted()
    receipt = forget(new_context(settings), "private.md")

    assert counted() == before
    assert receipt["removed"]["bronze.documents"] == 3, "two editions, and that it is gone"
    assert receipt["removed"]["silver.documents_history"] == 3, "the same, as versions and a marker"
    assert receipt["removed"]["gold.embeddings"] == 4, "its three texts, and that of the document that went earlier"
    files = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert len(files) > 50
    assert context.lake.read_arrow(PROFILE).num_rows == 0
    assert [p for p in files if SECRET.encode() in p.read_bytes()] == []
    (row,) = new_context(settings).lake.read_arrow("ops.forget_receipts").to_pylist()
    assert row["receipt_id"] == receipt["receipt_id"]
    assert any("the backups of all of this" in line for line in receipt["remains"])
    result = verify(new_context(settings))
    assert result.is_equal, result.differences
    assert run_stages(new_context(settings), stages=DOCUMENT_STAGES).stages == ()


def test_a_plan_names_the_limits_that_would_stop_the_run(tmp_path: Path, spark):
    settings = settings_for(tmp_path)
    _texts(settings)
    limited = settings.model_copy(update={"embedding": settings.embedding.model_copy(update={"max_texts": 5})})
    (refusal,) = plan(new_context(limited)).refused_by
    assert refusal.startswith("embed-chunks: 10 texts would be embedded, embedding.max_texts allows 5")
    with pytest.raises(RefusedError, match="10 texts would be embedded"):
        run_stages(new_context(limited), stages=DOCUMENT_STAGES)
    assert new_context(limited).lake.read_arrow("gold.embeddings").num_rows == 0
    run_stages(new_context(limited, force=True), stages=DOCUMENT_STAGES)
    for path in settings.landing_path.iterdir():
        path.unlink()
    first, *_ = plan(new_context(settings)).refused_by
    assert "9 of 9 documents are gone" in first


@pytest.mark.long
def test_every_place_that_ever_held_a_document_is_cleared_or_named_in_the_receipt(tmp_path: Path, spark):
    first = settings_for(tmp_path, uri="first-place")
    _texts(first)
    run_stages(new_context(first), stages=DOCUMENT_STAGES)
    settings, other = settings_for(tmp_path), settings_for(tmp_path, name="other")
    faiss = settings_for(tmp_path, store="faiss", uri="by-faiss")
    for each in (faiss, settings, other):
        run_stages(new_context(each), stages=DOCUMENT_STAGES)
    lake = new_context(settings).lake
    gone = Place("chunks_12345678", "chunks", "chroma", "http://127.0.0.1:9", settings.embedding.model, 64)
    note(lake, [gone])
    (settings.landing_path / "private.md").unlink()
    receipt = forget(new_context(settings), "private.md")

    files = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert [p for p in files if SECRET.encode() in p.read_bytes()] == []
    for place in ("first-place", "by-faiss", "index"):
        assert any(str(tmp_path / place) in line for line in receipt["remains"]), place
    (line,) = receipt["not_cleared"]
    assert "NOT CLEARED index chunks_12345678 (chroma, http://127.0.0.1:9)" in line
    command = f"lakeloop forget {receipt['document_id']} --only-index --set index.store=chroma"
    assert command in line
    # The command does what it says, once there is somebody to answer.
    dead = settings_for(tmp_path, store="chroma", uri="http://127.0.0.1:9")
    again = forget(new_context(dead), receipt["document_id"], only_index=True)
    assert again["not_cleared"][0].startswith("NOT CLEARED index chunks_12345678")
    with pytest.raises(ConfigurationError, match="no index of this workspace was ever at"):
        forget(new_context(settings_for(tmp_path, uri="nowhere")), receipt["document_id"], only_index=True)
    forget_place(lake, gone)
    assert forget(new_context(settings), "private.md")["not_cleared"] == [], "again, by its path"

    # The other index goes on, with what is left.
    for each in (settings, other, first):
        run_stages(new_context(each), stages=DOCUMENT_STAGES)
        result = verify(new_context(each))
        assert result.is_equal, result.differences
