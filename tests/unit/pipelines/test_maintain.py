"""maintain: tables are in few files again after many runs, what somebody needs stays, and no row is another."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipelines.conductor.run import new_context, record, run_stages
from pipelines.conductor.stages import stage_named
from pipelines.flow.stage import Context, everything
from pipelines.flow.states import STAGE_RUNS, STAGE_STATE
from pipelines.models.embedders import embedding_model
from pipelines.ops.maintain import STAGE
from pipelines.settings.sections import EmbeddingSettings, MaintenanceSettings, Settings
from pipelines.vector_index.lag import lag_of
from pipelines.vector_index.state import change, register

INGEST, REFINE = stage_named("ingest-documents"), stage_named("refine-documents")
ARRIVALS = "bronze.documents"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "landing").mkdir()
    return Settings(root=tmp_path, maintenance=MaintenanceSettings(files=10))


def _deliver(settings: Settings, number: int) -> None:
    (settings.landing_path / f"{number}.md").write_text(f"# {number}\n", encoding="utf-8")
    run_stages(new_context(settings), stages=[INGEST])


def _refined(settings: Settings) -> None:
    """As if the documents had been refined: what was read is recorded, and the target is there."""
    context = new_context(settings)
    for table in REFINE.targets:
        context.lake.ensure(table)
    record(REFINE, context, everything(REFINE, context), counts={}, started_at=context.now(), seconds=0.0)


def _maintain(settings: Settings, *, now: bool = False, **how: Any) -> dict[str, int] | None:
    context = new_context(settings, **how)
    context.maintain_now = now
    outcomes = run_stages(context, stages=[STAGE]).stages
    return dict(outcomes[0].counts) if outcomes else None


def _rows(context: Context, table: str) -> list[dict[str, Any]]:
    return sorted(context.lake.read_arrow(table).to_pylist(), key=repr)


def _vacuumed(monkeypatch: pytest.MonkeyPatch, context: Context) -> dict[str, list[int]]:
    """Table → the versions that its vacuum was told to keep; no table that was not vacuumed."""
    asked: dict[str, list[int]] = {}
    original = type(context.lake).vacuum

    def noted(lake: Any, table: str, *, days: int, keep: list[int]) -> int:
        asked[table] = list(keep)
        return original(lake, table, days=days, keep=keep)

    monkeypatch.setattr(type(context.lake), "vacuum", noted)
    return asked


def test_many_small_files_become_one_and_no_row_changes_and_no_stage_takes_it_for_news(settings: Settings):
    for number in range(11):
        _deliver(settings, number)
    _refined(settings)
    context = new_context(settings)
    before = {table: _rows(context, table) for table in (ARRIVALS, STAGE_RUNS, STAGE_STATE)}
    versions = {table: context.lake.head(table).version for table in before}
    assert context.lake.file_count(ARRIVALS) == 11
    counts = _maintain(settings)
    assert counts is not None
    assert counts["compacted"] >= 11 + 12, "files of arrivals, and of the log of runs"
    context = new_context(settings)
    assert {table: _rows(context, table) for table in before} == before
    assert [context.lake.file_count(table) for table in before] == [1, 1, 1]
    assert context.lake.head(ARRIVALS).version > versions[ARRIVALS]
    assert REFINE.look(context) is None, "a commit that changes no row is no news"
    assert _maintain(settings) is None, "it is not due again"
    assert (_maintain(settings, now=True) or {})["compacted"] == 0
    _deliver(settings, 11)
    work = REFINE.look(new_context(settings))
    assert work is not None
    assert work.first.since == versions[ARRIVALS], "what comes after it is news, from where reading stopped"


def test_it_is_due_by_the_files_of_the_log_of_runs_and_never_where_it_is_switched_off(settings: Settings):
    assert STAGE.look(new_context(settings)) is None, "nothing has run yet"
    for number in range(11):
        assert STAGE.look(new_context(settings)) is None
        _deliver(settings, number)
    assert STAGE.look(new_context(settings)) is not None
    off = settings.model_copy(update={"maintenance": MaintenanceSettings(files=0)})
    assert STAGE.look(new_context(off)) is None
    assert STAGE.look(new_context(off, force=True)) is None, "what a limit refuses is another thing"
    context = new_context(off)
    context.maintain_now = True
    assert STAGE.look(context) is not None


def test_a_reader_that_is_behind_keeps_all_versions_and_is_named(settings: Settings, monkeypatch, caplog):
    _deliver(settings, 0)
    _refined(settings)
    _deliver(settings, 1)
    asked = _vacuumed(monkeypatch, new_context(settings))
    with caplog.at_level(logging.INFO):
        counts = _maintain(settings, now=True)
    assert counts is not None
    assert counts["kept"] == 1
    assert ARRIVALS not in asked
    assert STAGE_RUNS in asked
    assert f"maintain: all versions of {ARRIVALS} are kept for refine-documents" in caplog.messages


def test_a_training_set_keeps_the_version_that_it_was_cut_from_readable(settings: Settings, monkeypatch):
    context = new_context(settings)
    _deliver(settings, 0)
    version = context.lake.head(ARRIVALS).version
    context.lake.append_arrow(
        "ops.training_sets",
        [{"training_set_id": "abc", "name": "late", "created_at": context.now(), "versions": [(ARRIVALS, version)]}],
    )
    asked = _vacuumed(monkeypatch, context)
    _deliver(settings, 1)
    counts = _maintain(settings, now=True)
    assert counts is not None
    assert asked[ARRIVALS] == [version, version + 1]
    assert counts["kept"] == 1
    # And what is told to be kept is: however short the days are.
    removed = context.lake.vacuum(ARRIVALS, days=0, keep=[version])
    held = [batch.num_rows for batch in context.lake.read_batches(ARRIVALS, version=version)]
    assert sum(held) == 1
    assert removed == 1, "the second delivery's file, which lies in the larger one now"
    assert len(_rows(context, ARRIVALS)) == 2


def test_what_an_index_equals_stays_readable_and_upkeep_is_no_lag(settings: Settings, monkeypatch):
    served = settings.model_copy(update={"embedding": EmbeddingSettings(model="tests.support.embedders:Free")})
    context = new_context(served)
    lake = context.lake
    for number in range(3):
        lake.append_arrow("gold.chunk_index", [{"chunk_id": str(number), "model": "m"}])
    version = lake.head("gold.chunk_index").version
    register(lake, served, embedding_model(served))
    change(lake, lambda states: [replace(s, version=version, updated_at=context.now()) for s in states])
    asked = _vacuumed(monkeypatch, context)
    run_stages(new_context(served), stages=[INGEST])
    (served.landing_path / "a.md").write_text("# A\n", encoding="utf-8")
    run_stages(new_context(served), stages=[INGEST])
    assert _maintain(served, now=True) is not None
    assert asked["gold.chunk_index"] == [version]
    lake = new_context(served).lake
    assert lake.head("gold.chunk_index").version > version
    lag = lag_of(lake, "gold.chunk_index", version=version, now=context.now())
    assert (lag.versions, lag.seconds, lag.history_hours) == (0, 0.0, None)
    lake.vacuum("gold.chunk_index", days=0, keep=[version])
    assert sum(batch.num_rows for batch in lake.read_batches("gold.chunk_index", version=version)) == 3
    assert _maintain(served, now=True) is not None
    assert asked["gold.chunk_index"][0] == version, (
        "as long as the index equals it, however often tables are put in order"
    )


def test_a_version_that_the_log_has_forgotten_keeps_no_table_from_its_order(settings: Settings):
    for number in range(12):
        _deliver(settings, number)
    lake = new_context(settings).lake
    folder = lake.folder(ARRIVALS)
    assert folder is not None
    for commit in sorted((folder / "_delta_log").glob("*.json"))[:5]:
        commit.unlink()  # as the log's retention does, behind a checkpoint
    row = {"training_set_id": "abc", "name": "late", "created_at": new_context(settings).now()}
    lake.append_arrow("ops.training_sets", [row | {"versions": [(ARRIVALS, 2)]}])
    counts = _maintain(settings, now=True)
    assert counts is not None
    assert counts["left"] == 0
    assert lake.vacuum(ARRIVALS, days=0, keep=[2, 99]) == 12
    assert len(_rows(new_context(settings), ARRIVALS)) == 12


def test_the_chunks_that_were_stay_as_long_as_there_are_calls_to_score(settings: Settings, monkeypatch):
    _deliver(settings, 0)
    lake = new_context(settings).lake
    lake.append_arrow("silver.chunks", [{"chunk_id": "1"}])
    asked = _vacuumed(monkeypatch, new_context(settings))
    assert (_maintain(settings, now=True) or {})["kept"] == 0
    assert "silver.chunks" in asked
    asked.clear()
    lake.ensure("inference.inference_log")
    assert (_maintain(settings, now=True) or {})["kept"] == 1
    assert "silver.chunks" not in asked


def test_a_table_that_cannot_be_put_in_order_keeps_no_other_from_it(settings: Settings, caplog):
    for number in range(3):
        _deliver(settings, number)
    folder = new_context(settings).lake.folder(ARRIVALS)
    assert folder is not None
    next(folder.glob("*.parquet")).write_bytes(b"no parquet")
    counts = _maintain(settings, now=True)
    assert counts is not None
    assert counts["left"] == 1
    assert any(m.startswith(f"maintain: {ARRIVALS} stays as it is: ") for m in caplog.messages)
    assert new_context(settings).lake.file_count(STAGE_RUNS) == 1


@pytest.mark.parametrize("runs", [1, pytest.param(250, marks=pytest.mark.long)])
def test_what_an_idle_run_reads_of_the_log_does_not_grow(settings: Settings, runs: int):
    """Counts, since times cannot be asserted: entries after the last checkpoint, and files of a table."""
    _deliver(settings, 0)
    for _ in range(runs):
        _refined(settings)
        _maintain(settings)
    lake = new_context(settings).lake
    for table in (STAGE_STATE, STAGE_RUNS, ARRIVALS):
        folder = lake.folder(table)
        assert folder is not None
        log = folder / "_delta_log"
        checkpoint = max((f.name[:20] for f in log.glob("*.checkpoint*.parquet")), default="")
        assert sum(f.name[:20] > checkpoint for f in log.glob("*.json")) <= 10, table
        assert lake.file_count(table) <= 11, table
    context = new_context(settings)
    start = time.perf_counter()
    assert REFINE.look(context) is None
    print(f"an idle look after {runs} runs: {time.perf_counter() - start:.3f} s")
