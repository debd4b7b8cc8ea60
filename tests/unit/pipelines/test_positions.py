"""How far a source was read, as the commits of its bronze table and ops.stage_state say it."""

from __future__ import annotations

import shutil
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import CommitProperties, DeltaTable, write_deltalake

from pipelines.bronze.ingest_records import STAGE
from pipelines.conductor.run import new_context, record
from pipelines.flow.stage import Context, Versions, Work
from pipelines.records.positions import Position, is_forgettable, position_of
from pipelines.records.source import REWRITTEN, record_source
from pipelines.settings.records import RecordSettings
from pipelines.settings.sections import Settings

SETTINGS = {"format": "csv", "location": "orders", "key": ["id"], "columns": {"id": "bigint"}}


@pytest.fixture
def context(tmp_path: Path) -> Context:
    context = new_context(Settings(root=tmp_path, records={"orders": RecordSettings(**SETTINGS)}))
    (each,) = STAGE.contexts(context)
    each.lake.ensure("bronze.records_orders")
    return each


def _position(context: Context) -> Position:
    context.states.reload()
    return position_of(context, record_source(context.settings, "orders"), STAGE)


def _append(context: Context, note: str | None = None) -> None:
    """A commit of one row, as Spark notes it."""
    rows = pa.Table.from_pylist([{"id": 1}], schema=context.lake.spec("bronze.records_orders").schema)
    properties = CommitProperties(custom_metadata={"userMetadata": note} if note else None)
    folder = context.lake.folder("bronze.records_orders")
    write_deltalake(str(folder), rows, mode="append", commit_properties=properties)


def _next(context: Context, read: int) -> Position:
    return _position(context).following({"n": read})


def test_the_last_commit_that_says_so_counts_and_a_copy_of_the_table_has_its_own(context: Context, tmp_path: Path):
    assert _position(context).read is None
    first = _next(context, 7)
    _append(context, first.note)
    _append(context)
    _append(context, '{"of": "somebody else"}')
    assert _position(context) == first
    folder = context.lake.folder("bronze.records_orders")
    shutil.copytree(folder, tmp_path / "copy")
    second = _next(context, 9)
    _append(context, second.note)
    assert _position(context) == second
    assert (second.reading, second.batch, second.read) == (first.reading, first.batch + 1, {"n": 9})
    shutil.rmtree(folder)
    (tmp_path / "copy").rename(folder)
    assert _position(context) == first


def test_the_state_knows_it_once_the_log_has_forgotten_it(context: Context):
    last = _next(context, 7)
    _append(context, last.note)
    record(STAGE, context, Work((Versions(None, 1, "orders"),)), counts={}, started_at=context.now(), seconds=0.0)
    log = context.lake.folder("bronze.records_orders") / "_delta_log"
    _append(context)
    DeltaTable(str(log.parent)).create_checkpoint()
    for number in (0, 1):  # as the log's retention does
        (log / f"{number:020}.json").unlink()
    assert _position(context) == last
    newer = _next(context, 9)
    _append(context, newer.note)
    assert _position(context) == newer


def test_with_another_definition_nothing_is_known(context: Context, monkeypatch: pytest.MonkeyPatch):
    last = _next(context, 7)
    _append(context, last.note)
    with monkeypatch.context() as other:
        other.setattr(type(STAGE), "definition", lambda self, context: "another")
        assert _position(context).read is None
    assert _position(context) == last


def test_a_restore_goes_back_to_what_the_restored_version_said_and_counts_anew(context: Context):
    first = _next(context, 7)
    _append(context, first.note)
    record(STAGE, context, Work((Versions(None, 1, "orders"),)), counts={}, started_at=context.now(), seconds=0.0)
    _append(context, _next(context, 9).note)
    table = DeltaTable(str(context.lake.folder("bronze.records_orders")))
    table.restore(1)
    back = _position(context)
    assert back.read == {"n": 7}
    assert back.txn(record_source(context.settings, "orders")) != first.txn(record_source(context.settings, "orders"))
    assert (back.reading, back.batch) == (3, 0), "Delta has not forgotten the transactions that were taken back"
    _append(context, _next(context, 8).note)
    table.update_incremental()
    table.restore(0)
    assert (_position(context).read, _position(context).reading) == (None, 5)


def _overwritten(context: Context, **options: Any) -> None:
    table = DeltaTable(str(context.lake.folder("bronze.records_orders")))
    write_deltalake(table, table.to_pyarrow_table(), mode="overwrite", **options)


def test_rows_of_somebody_else_and_a_forgotten_log_are_not_what_was_read(context: Context):
    log = context.lake.folder("bronze.records_orders") / "_delta_log"
    _append(context, _next(context, 7).note)
    _overwritten(context, commit_properties=CommitProperties(custom_metadata={"userMetadata": REWRITTEN}))
    assert _position(context).read == {"n": 7}
    _overwritten(context)
    assert _position(context).read is None
    last = _next(context, 8)
    assert last.reading == 3
    _append(context, last.note)
    assert _position(context) == last
    _append(context)
    _append(context)
    DeltaTable(str(log.parent)).create_checkpoint()
    (log / f"{5:020}.json").unlink()
    assert _position(context).read is None, "the lost commit may have replaced all rows"


def test_two_processes_that_saw_the_same_table_take_the_same_transaction(context: Context):
    source = record_source(context.settings, "orders")
    one = _position(context)
    _append(context)  # as a new column is, before the first batch
    other = _position(context)
    mine = one.following({"n": 7})
    _append(context, mine.note)
    assert other.following({"n": 9}).txn(source) == mine.txn(source)
    assert other.anew().following({"n": 9}).txn(source) == mine.txn(source)
    assert _position(context).following({"n": 9}).txn(source) > mine.txn(source)


def test_a_state_that_is_old_is_noted_anew_before_the_log_forgets(context: Context):
    source = record_source(context.settings, "orders")
    assert not is_forgettable(context, source, STAGE)
    _append(context, _next(context, 7).note)
    record(STAGE, context, Work((Versions(None, 1, "orders"),)), counts={}, started_at=context.now(), seconds=0.0)
    context.states.reload()
    later = replace(context, clock=lambda: datetime.now(timezone.utc) + timedelta(days=8))
    assert not is_forgettable(later, source, STAGE), "bronze has not moved"
    _append(context)
    assert is_forgettable(later, source, STAGE)
    assert not is_forgettable(context, source, STAGE), "it is not old"
