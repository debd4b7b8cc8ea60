"""What a stream without end tells of: each failure once."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from pipelines.conductor import continuous, run
from pipelines.conductor.run import new_context
from pipelines.flow.stage import Context
from pipelines.settings.records import RecordSettings
from pipelines.settings.sections import Settings

ORDERS = {
    "format": "kafka",
    "location": "orders",
    "key": ["id"],
    "columns": {"id": "bigint"},
    "options": {"bootstrap.servers": "127.0.0.1:1"},
}


@pytest.mark.parametrize("stage", ["ingest-records", "refine-records"])
def test_a_failure_is_logged_once(tmp_path, monkeypatch: pytest.MonkeyPatch, caplog, stage: str):
    stopped: list[bool] = []

    def fails(*_: Any, **__: Any) -> None:
        raise OSError("a disk is gone")

    def passes(*_: Any, **__: Any) -> None:
        return None

    query, source = SimpleNamespace(stop=lambda: stopped.append(True)), SimpleNamespace(name="orders")
    stream = SimpleNamespace(query=query, source=source, batches=None)
    stream.go_on = fails if stage == "ingest-records" else passes

    def begin(context: Context, *, seconds: float) -> SimpleNamespace:
        stream.context = context
        return stream

    monkeypatch.setattr(continuous.Running, "begin", begin)
    monkeypatch.setattr(run, "_run_if_due", fails if stage == "refine-records" else passes)
    stop = threading.Event()
    stop.set()
    context = new_context(Settings(root=tmp_path, records={"orders": RecordSettings(**ORDERS)}))
    with pytest.raises(OSError, match="a disk is gone"):
        continuous.ingest_until_stopped(context, seconds=0.1, stop=stop)
    assert [r.getMessage().count("a disk is gone") for r in caplog.records if r.levelname == "ERROR"] == [1]
    assert stopped == [True]
