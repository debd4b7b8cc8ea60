"""The promises of docs/vector-index.md about one index, each with a test that can fail."""

from __future__ import annotations

import os
import shutil
import threading
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from deltalake import DeltaTable

from pipelines.answering.search import Searcher
from pipelines.conductor.run import new_context, run_stages
from pipelines.operations.replay import replay
from pipelines.operations.status import describe
from pipelines.settings.sections import Settings
from pipelines.vector_index.audit import audit
from pipelines.vector_index.lease import writing
from pipelines.vector_index.repair import repair
from pipelines.vector_index.state import change, served, states, updated
from tests.support.chunked import INDEX_STAGES, chunk, deliver, is_equal, lance_of, manifest, runs, settings_for, sync
from tests.support.embedders import counted
from transformations.errors import ConfigurationError, RefusedError

CHUNKS = [chunk(document, place) for document in range(12) for place in range(10)]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory, spark) -> Settings:
    """A workspace with 120 chunks of 12 documents, all in the index."""
    settings = settings_for(tmp_path_factory.mktemp("template"))
    deliver(settings, CHUNKS)
    counts = sync(settings)
    assert counts["embed-chunks"]["computed"] == 120
    assert counts["sync-index"] == {"upserts": 120, "deletes": 0, "skipped": 0, "set_aside": 0, "rows": 120}
    return settings


@pytest.fixture
def built(template: Settings, tmp_path: Path) -> Settings:
    """A copy of it, of the test's own."""
    shutil.copytree(template.root, tmp_path, dirs_exist_ok=True)
    settings = settings_for(tmp_path)
    name = served(new_context(settings).lake, "chunks").index_name
    change(new_context(settings).lake, lambda rows: updated(rows, name, uri=settings.index_uri))
    return settings


def show(dataset: Any) -> None:
    """Let readers see what was done behind our back."""
    dataset.tags.update("served", dataset.latest_version)


@pytest.mark.long
def test_one_row_changed_by_hand_is_named_and_mended_alone(built: Settings):
    ids = [row["chunk_id"] for row in CHUNKS]
    dataset = lance_of(built)
    dataset.update({"source": "'elsewhere'"}, where=f"chunk_id = '{ids[1]}'")
    dataset.update({"text": "'altered'"}, where=f"chunk_id = '{ids[2]}'")
    dataset.update({"row_hash": "'0'"}, where=f"chunk_id = '{ids[3]}'")
    row = dataset.to_table(filter=f"chunk_id = '{ids[4]}'")
    other = dataset.to_table(filter=f"chunk_id = '{ids[5]}'")
    dataset.merge_insert("chunk_id").when_matched_update_all().execute(row.set_column(10, "vector", other["vector"]))
    dataset.insert(dataset.to_table(filter=f"chunk_id = '{ids[6]}'"))
    show(dataset)
    found = audit(new_context(built), served(new_context(built).lake, "chunks")).to_json()
    assert {(d["chunk_id"], d["kind"]) for d in found["differences"]} == {
        (ids[1], "wrong_filter"),
        (ids[2], "stale"),
        (ids[3], "stale"),
        (ids[4], "wrong_vector"),
        (ids[6], "duplicate"),
    }
    before = counted()
    result = repair(new_context(built), served(new_context(built).lake, "chunks"))
    assert (result["upserts"], result["deletes"]) == (5, 0)
    assert counted() == before
    assert is_equal(built)


@pytest.mark.long
def test_ten_lost_rows_and_three_ghosts_are_thirteen_writes_and_no_embedding(built: Settings):
    dataset = lance_of(built)
    ids = [row["chunk_id"] for row in CHUNKS[:10]]
    ghosts = dataset.to_table(limit=3)
    ghosts = ghosts.set_column(0, "chunk_id", [[f"ghost-{n}" for n in range(3)]])
    dataset.delete(f"chunk_id IN {tuple(ids)}")
    dataset.insert(ghosts)
    show(dataset)
    before = counted()
    assert not is_equal(built)
    result = repair(new_context(built), served(new_context(built).lake, "chunks"))
    assert result["differences"] == {"missing": 10, "ghost": 3}
    assert (result["upserts"], result["deletes"], counted() - before) == (10, 3, 0)
    assert is_equal(built)
    assert repair(new_context(built), served(new_context(built).lake, "chunks"))["upserts"] == 0
    assert sync(built) == {}


@pytest.mark.long
def test_vacuumed_history_and_a_table_made_anew_cost_hashes_and_no_embedding(built: Settings, spark):
    before = counted()
    lake = new_context(built).lake
    edited = chunk(3, 4, "Edited text.")
    deliver(built, [edited], [CHUNKS[34]])
    run_stages(new_context(built), stages=INDEX_STAGES[:1])
    delta = DeltaTable(str(lake.folder("gold.chunk_index")))
    delta.vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False, full=True)
    counts = sync(built)["sync-index"]
    assert (counts["upserts"], counts["deletes"], counts["rows"]) == (1, 1, 120)
    assert runs(built)[-1]["mode"] == "difference"
    assert is_equal(built)
    assert counted() - before == 1

    folder = lake.folder("gold.chunk_index")
    rows = lake.read_arrow("gold.chunk_index")
    folder.rename(folder.with_name("old"))
    lake.append_arrow("gold.chunk_index", rows)
    counts = sync(built)
    assert counts["sync-index"] == {"upserts": 0, "deletes": 0, "skipped": 120, "set_aside": 0, "rows": 120}
    assert counted() - before == 1
    assert is_equal(built)


@pytest.mark.long
def test_a_table_rewritten_with_equal_content_is_no_write_to_the_index(built: Settings):
    version = lance_of(built).version
    before = counted()
    lake = new_context(built).lake
    folder = str(lake.folder("gold.chunk_index"))
    rows = lake.read_arrow("gold.chunk_index")
    values = {c: f"s.{c}" for c in rows.column_names}
    merge = DeltaTable(folder).merge(rows, "t.chunk_id = s.chunk_id", source_alias="s", target_alias="t")
    merge.when_matched_update(values).execute()
    lake.read("gold.chunk_index").write.format("delta").mode("overwrite").save(folder)
    counts = sync(built)["sync-index"]
    assert counts == {"upserts": 0, "deletes": 0, "skipped": 120, "set_aside": 0, "rows": 120}
    assert lance_of(built).version == version + 1, "only the manifest moved"
    assert counted() == before
    assert is_equal(built)


def test_other_filter_values_are_written_and_nothing_is_embedded(built: Settings):
    before = counted()
    deliver(built, [row | {"source": "wiki"} for row in CHUNKS[:10]])
    counts = sync(built)
    assert counts["embed-chunks"]["computed"] == 0
    assert counts["sync-index"]["upserts"] == 10
    assert counted() == before
    assert is_equal(built)


def test_many_versions_of_a_chunk_fold_into_the_last(built: Settings):
    for edition in range(3):
        deliver(built, [CHUNKS[0] | {"source": f"edition {edition}"}])
        run_stages(new_context(built), stages=INDEX_STAGES[:1])
    deliver(built, [chunk(20, 0)])
    run_stages(new_context(built), stages=INDEX_STAGES[:1])
    deliver(built, [], [chunk(20, 0)])
    counts = sync(built)["sync-index"]
    assert (counts["upserts"], counts["deletes"]) == (1, 0)
    assert is_equal(built)


def test_a_row_that_no_index_may_hold_stays_alone(built: Settings):
    lake = new_context(built).lake
    rows = lake.read_arrow("gold.chunk_index").slice(0, 4).to_pylist()
    wrong = [
        rows[0] | {"chunk_id": "x" * 10_000},
        rows[1] | {"chunk_id": "nan", "vector": [float("nan")] * 64},
        rows[2] | {"chunk_id": "zero", "vector": [0.0] * 64},
        rows[3] | {"chunk_id": "short", "vector": [1.0] * 63},
    ]
    lake.append_arrow("gold.chunk_index", wrong)
    counts = sync(built)["sync-index"]
    assert counts == {"upserts": 0, "deletes": 0, "skipped": 0, "set_aside": 4, "rows": 120}
    errors = {r["chunk_id"][:5]: r["error"] for r in lake.read_arrow("ops.dead_letters").to_pylist()}
    assert errors == {
        "xxxxx": "the chunk_id has 10000 characters, 1 to 512 are allowed",
        "nan": "the vector holds NaN or infinity",
        "zero": "the vector has norm zero",
        "short": "the vector has 63 dimensions, the index holds 64",
    }
    assert is_equal(built)
    lake.delete("gold.chunk_index", {"chunk_id": [row["chunk_id"] for row in wrong]})
    counts = sync(built)["sync-index"]
    assert (counts["rows"], counts["set_aside"]) == (120, 0)
    assert replay(new_context(built)) == {"tried": 0, "still_open": 0}
    assert is_equal(built)


def test_a_mass_delete_is_refused_and_the_index_is_untouched(built: Settings):
    seen, version = manifest(built), lance_of(built).version
    deliver(built, [], CHUNKS[40:])
    with pytest.raises(RefusedError, match=r"80 of 120 rows would leave the index .* --force"):
        sync(built)
    assert (manifest(built), lance_of(built).version) == (seen, version)
    assert served(new_context(built).lake, "chunks").is_clean, "a refused sync wrote nothing: its rows are in no doubt"
    assert sync(built, force=True)["sync-index"]["deletes"] == 80
    assert is_equal(built)


def test_an_open_searcher_outlives_an_index_that_was_lost_and_built_again(built: Settings):
    searcher = Searcher(built)
    assert searcher.search("Paragraph 1 of document 1.", k=1)
    shutil.rmtree(built.root / "index")
    before = counted()
    assert sync(built)["sync-index"]["upserts"] == 120
    assert counted() == before
    assert searcher.search("Paragraph 1 of document 1.", k=1)[0].path == "1.md"


def test_a_rewritten_document_is_no_mass_delete(built: Settings):
    deliver(built, [chunk(d, 0, f"Document {d}, written anew.") for d in range(12)], CHUNKS)
    assert sync(built)["sync-index"]["rows"] == 12


def test_two_writers_at_once_one_is_refused_and_nothing_is_lost(built: Settings):
    context = new_context(built)
    name = served(context.lake, "chunks").index_name
    deliver(built, [chunk(30, 0)])
    run_stages(new_context(built), stages=INDEX_STAGES[:1])
    with writing(context, name, at_least=0) as lease:
        with pytest.raises(RefusedError, match="is writing to the index"):
            sync(built)
        lease.release(None)
    assert sync(built)["sync-index"]["upserts"] == 1
    assert manifest(built).fence > lease.fence
    assert is_equal(built)


def test_a_writer_that_was_paused_past_its_lease_can_no_longer_commit(built: Settings):
    zombie = served(new_context(built).lake, "chunks").open(built)
    seen = zombie.manifest()
    deliver(built, [chunk(30, 0)])
    sync(built)
    with pytest.raises(RefusedError):
        zombie.commit(seen, expected=seen)
    assert is_equal(built)


def test_the_lease_of_a_dead_process_is_taken_over_and_of_a_living_one_when_its_time_is_over(built: Settings):
    context = new_context(built)
    name = served(context.lake, "chunks").index_name
    other = f"other-run another-machine {os.getpid()}"

    def held_for(seconds: float, holder: str):

        until = context.now() + timedelta(seconds=seconds)
        change(context.lake, lambda rows: updated(rows, name, lease_holder=holder, lease_until=until))

    deliver(built, [chunk(30, 0)])
    held_for(3600, other)
    with pytest.raises(RefusedError, match="other-run"):
        sync(built)
    held_for(-1, other)
    assert sync(built)["sync-index"]["upserts"] == 1
    deliver(built, [chunk(31, 0)])
    import platform

    held_for(3600, f"dead-run {platform.node()} 999999999")
    assert sync(built)["sync-index"]["upserts"] == 1


def test_a_lease_is_renewed_while_the_writer_lives(built: Settings):
    short = built.model_copy(update={"index": built.index.model_copy(update={"lease_seconds": 0.6})})
    context = new_context(short)
    name = served(context.lake, "chunks").index_name
    with writing(context, name, at_least=0) as lease:
        time.sleep(1.5)
        lease.check()
        (state,) = states(context.lake, "chunks")
        assert state.lease_until > context.now()
        lease.release(None)
    assert not [t for t in threading.enumerate() if t.name == "lease" and t.is_alive() and not t.daemon]


def test_lag_is_told_in_three_units_and_every_run_leaves_a_row(built: Settings):
    deliver(built, [chunk(1, 0, "Edited.")], [CHUNKS[10]])
    run_stages(new_context(built), stages=INDEX_STAGES[:1])
    deliver(built, [chunk(30, 0), chunk(30, 1)])
    run_stages(new_context(built), stages=INDEX_STAGES[:1])
    lag = describe(built)[0]["index"]["lag"]
    assert (lag["versions"], lag["rows"]) == (2, 4)
    assert 0 < lag["seconds"] < 600
    assert describe(built)[0]["warnings"] == []
    sync(built)
    first, last = runs(built)[0], runs(built)[-1]
    assert (first["mode"], first["inserted"], first["embedded"], first["rows"]) == ("everything", 120, 120, 120)
    assert first["bytes"] > 120 * 64 * 4
    wanted = {
        "mode": "changes",
        "inserted": 3,
        "updated": 0,
        "deleted": 1,
        "skipped": 0,
        "rows": 122,
        "lag_versions": 2,
    }
    assert {key: last[key] for key in wanted} == wanted
    assert last["lag_seconds"] > 0
    assert {step for step, _ in last["stage_seconds"]} == {"compare", "upsert", "delete", "letters", "commit"}
    assert describe(built)[0]["index"]["lag"]["versions"] == 0


def test_history_that_ends_soon_is_a_warning(built: Settings):
    delta = DeltaTable(str(new_context(built).lake.folder("gold.chunk_index")))
    delta.alter.set_table_properties({"delta.deletedFileRetentionDuration": "interval 2 hours"})
    deliver(built, [chunk(30, 0)])
    run_stages(new_context(built), stages=INDEX_STAGES[:1])
    (warning,) = describe(built)[0]["warnings"]
    assert "the history that its next sync reads ends in 2.0 hours" in warning


def test_an_index_of_another_table_and_an_alias_to_nothing_are_named(built: Settings):
    store = served(new_context(built).lake, "chunks").open(built)
    seen = store.manifest()
    store.commit(replace(seen, source_table="sales.orders"), expected=seen)
    deliver(built, [chunk(30, 0)])
    version = lance_of(built).version
    with pytest.raises(ConfigurationError, match=r"was made by the table sales.orders, not by gold.chunk_index"):
        sync(built)
    assert lance_of(built).version == version
    store.drop()
    with pytest.raises(ConfigurationError, match=r"the alias 'chunks' points at the index .* lakeloop sync-index"):
        Searcher(built)
    sync(built)
    assert Searcher(built).search("Paragraph 1 of document 1.", k=1)[0].path == "1.md"
