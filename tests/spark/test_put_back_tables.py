"""Tables put back from a copy or by RESTORE, rows altered by hand: noticed, named by verify, and mended."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest
from deltalake import DeltaTable

from pipelines.conductor.run import new_context, run_stages
from pipelines.conductor.stages import DOCUMENT_STAGES
from pipelines.index.sync_index import STAGE as SYNC
from pipelines.lakehouse.catalog_log import named_commit_id
from pipelines.operations.plan import plan
from pipelines.operations.rebuild import rebuild
from pipelines.operations.status import describe
from pipelines.operations.verify import verify
from pipelines.settings.sections import Settings
from pipelines.vector_index.audit import audit
from pipelines.vector_index.state import served, states
from tests.support.chunked import INDEX_STAGES, chunk, deliver, runs, settings_for, sync
from tests.support.embedders import counted

pytestmark = pytest.mark.long

CHUNKS = [chunk(document, place) for document in range(6) for place in range(10)]


def texts_of(settings: Settings) -> set[str]:
    state = served(new_context(settings).lake, settings.index.name)
    return {text for batch in state.open(settings).rows() for text in batch["text"].to_pylist()}


def is_equal(settings: Settings) -> bool:
    context = new_context(settings)
    return all(audit(context, state).is_equal for state in states(context.lake, settings.index.name))


def test_a_lakehouse_put_back_from_a_copy_and_then_edited_is_what_the_index_says(tmp_path: Path, spark):
    settings = settings_for(tmp_path)
    deliver(settings, CHUNKS)
    sync(settings)
    shutil.copytree(tmp_path / "lakehouse", tmp_path / "copy")
    for edition in range(3):
        deliver(settings, [chunk(0, 0, f"Lost with the lakehouse {edition}.")], [CHUNKS[20 + edition]])
        sync(settings)
    shutil.rmtree(tmp_path / "lakehouse")
    (tmp_path / "copy").rename(tmp_path / "lakehouse")
    # As many commits as before, so that every version number is what it was.
    for edition in range(3):
        deliver(settings, [chunk(5, 0, f"Written after it was put back {edition}.")])
        run_stages(new_context(settings), stages=INDEX_STAGES[:1])
    lake = new_context(settings).lake
    assert served(lake, "chunks").manifest(settings).version == lake.head("gold.chunk_index").version
    assert next(s for s in describe(settings)[0]["stages"] if s["stage"] == "sync-index")["is_due"]
    sync(settings)
    wanted = {row["text"] for row in lake.read_arrow("silver.chunks").to_pylist()}
    assert texts_of(settings) == wanted
    assert not any("Lost" in text for text in texts_of(settings))
    assert is_equal(settings)
    assert sync(settings) == {}

    DeltaTable(str(lake.folder("gold.chunk_index"))).restore(1)
    before = counted()
    sync(settings)
    assert texts_of(settings) == wanted
    assert is_equal(settings)
    assert counted() == before
    assert sync(settings) == {}


def test_middle_tables_taken_back_are_mended_and_altered_rows_are_named_and_rebuilt(tmp_path: Path, spark):
    settings = settings_for(tmp_path)
    for number in range(6):
        (settings.landing_path / f"{number}.md").write_text(f"# Document {number}\n\nIts text.\n\n## More\n\nOf it.\n")
    run_stages(new_context(settings), stages=DOCUMENT_STAGES)
    (settings.landing_path / "0.md").write_text("# Document 0\n\nIts newer text.\n")
    run_stages(new_context(settings), stages=DOCUMENT_STAGES)
    lake, before = new_context(settings).lake, counted()

    for table in ("silver.chunks", "silver.documents"):
        delta = DeltaTable(str(lake.folder(table)))
        delta.restore(delta.version() - 1)
    run_stages(new_context(settings), stages=DOCUMENT_STAGES)
    assert verify(new_context(settings)).differences == ()
    assert run_stages(new_context(settings), stages=DOCUMENT_STAGES).stages == ()

    rows = lake.read_arrow("silver.chunks").sort_by("path").to_pylist()
    gone, altered = rows[0]["chunk_id"], rows[-1]["chunk_id"]
    DeltaTable(str(lake.folder("silver.chunks"))).delete(f"chunk_id = '{gone}'")
    run_stages(new_context(settings), stages=DOCUMENT_STAGES)
    DeltaTable(str(lake.folder("gold.chunk_index"))).update({"text": "'altered'"}, predicate=f"chunk_id = '{altered}'")
    result = verify(new_context(settings))
    found = {(d.where, d.kind, d.key) for d in result.differences}
    assert {("silver.chunks", "missing", gone), ("chunks", "stale", altered)} <= found
    assert result.remedies[:2] == ["lakeloop rebuild silver.chunks", "lakeloop rebuild gold.chunk_index"]
    for command in result.remedies:
        rebuild(new_context(settings), command.split()[-1])
    assert verify(new_context(settings)).differences == ()
    assert counted() == before, "the cache had every text"
    # A second time there is nothing to write.
    heads = [lake.head(table).version for table in ("silver.chunks", "gold.chunk_index")]
    for name in ("chunk-documents", "gold.chunk_index"):
        rebuild(new_context(settings), name)
    assert [lake.head(table).version for table in ("silver.chunks", "gold.chunk_index")] == heads


def test_a_sync_that_was_planned_before_that_of_another_host_does_not_move_the_index_back(tmp_path: Path, spark):
    settings = settings_for(tmp_path)
    deliver(settings, CHUNKS)
    sync(settings)
    deliver(settings, [chunk(7, 0)])
    run_stages(new_context(settings), stages=INDEX_STAGES[:1])
    late = new_context(settings)
    (late,) = SYNC.contexts(late)
    planned = SYNC.look(late)
    deliver(settings, [chunk(8, 0)], [CHUNKS[0]])
    sync(settings)
    SYNC.work(late, planned)
    lake = new_context(settings).lake
    assert served(lake, "chunks").manifest(settings).version == lake.head("gold.chunk_index").version
    assert runs(settings)[-1]["to_version"] == lake.head("gold.chunk_index").version
    assert chunk(8, 0)["text"] in texts_of(settings)
    assert is_equal(settings)


def test_a_renamed_folder_is_no_mass_delete_of_the_index_and_other_options_are_taken_up(tmp_path: Path, spark):
    settings = settings_for(tmp_path, store="faiss")
    deliver(settings, CHUNKS)
    sync(settings)
    before = counted()
    moved = [chunk(d + 100, p, CHUNKS[10 * d + p]["text"], path=f"new/{d}.md") for d in range(6) for p in range(10)]
    deliver(settings, moved, CHUNKS)
    counts = sync(settings)["sync-index"]
    assert (counts["upserts"], counts["deletes"], counts["rows"]) == (60, 60, 60)
    assert counted() == before
    assert sync(settings) == {}
    assert not list((tmp_path / "index").glob("*/index-*")), "so few rows need no index of the library"
    other = settings_for(tmp_path, store="faiss", options={"base_rows": "7"})
    counts = sync(other)["sync-index"]
    assert (counts["upserts"], counts["deletes"]) == (0, 0)
    assert list((tmp_path / "index").glob("*/index-*")), "of more than seven there is one"
    assert sync(other) == {}


def test_a_commit_of_a_catalog_is_the_same_one_in_every_time_zone(tmp_path: Path, spark, monkeypatch):
    context = new_context(settings_for(tmp_path))
    context.lake.append_arrow("silver.chunks", [CHUNKS[0]])
    name = context.lake.identifier("silver.chunks")
    told, zone = set(), spark.conf.get("spark.sql.session.timeZone")
    try:
        for other in ("UTC", "Asia/Tokyo", "America/Lima"):
            monkeypatch.setenv("TZ", other)
            time.tzset()
            spark.conf.set("spark.sql.session.timeZone", other)
            told.add(named_commit_id(spark, name, 1))
    finally:
        monkeypatch.undo()
        time.tzset()
        spark.conf.set("spark.sql.session.timeZone", zone)
    assert len(told) == 1
    assert told != {None}
    assert named_commit_id(spark, name, 0) not in told


def test_a_plan_knows_that_a_renamed_folder_is_no_mass_delete(tmp_path: Path, spark):
    settings = settings_for(tmp_path)
    (settings.landing_path / "old").mkdir()
    for number in range(15):
        (settings.landing_path / "old" / f"{number}.md").write_text(f"# Document {number}\n\nIts text.\n")
    run_stages(new_context(settings), stages=DOCUMENT_STAGES)
    (settings.landing_path / "old").rename(settings.landing_path / "new")
    made = plan(new_context(settings))
    assert (made.refused_by, made.embed) == ((), 0)
    before = counted()
    run_stages(new_context(settings), stages=DOCUMENT_STAGES)
    assert counted() == before
    assert plan(new_context(settings)).documents == ()
