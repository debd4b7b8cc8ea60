"""A watched workspace follows its folders, by real events of the file system; the stages are those that need no JVM."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pipelines.bronze import ingest_documents
from pipelines.cli.options import round_line
from pipelines.conductor import watch as watching
from pipelines.conductor.run import new_context
from pipelines.conductor.watch import Round, watch
from pipelines.flow.lock import only_writer
from pipelines.flow.signals import stopped_by_signals
from pipelines.settings.records import RecordSettings
from pipelines.settings.sections import Settings
from tests.support import toy_stage
from transformations.errors import ConfigurationError

STAGES = [ingest_documents.STAGE, toy_stage.STAGE]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "landing").mkdir()
    return Settings(root=tmp_path)


@contextmanager
def _watched(
    settings: Settings, *, seconds: float = 60, read: Callable[[], Settings] | None = None
) -> Iterator[list[Round]]:
    """A watch in a thread of its own; what it told."""
    told: list[Round] = []
    stop = threading.Event()
    context = new_context(settings)

    def follow() -> None:
        watch(context, stages=STAGES, seconds=seconds, on_round=told.append, settings=read, stop=stop)

    thread = threading.Thread(target=follow)
    thread.start()
    try:
        yield told
    finally:
        stop.set()
        thread.join(30)
        assert not thread.is_alive()


def _until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _sizes(settings: Settings) -> dict[str, int]:
    lake = new_context(settings).lake
    lake.declare(toy_stage.TARGET, toy_stage.SPEC)
    return {row["path"]: row["bytes"] for row in lake.read_arrow(toy_stage.TARGET).to_pylist()}


def test_what_is_there_is_brought_in_then_what_comes_changes_and_goes(settings: Settings):
    landing = settings.landing_path
    (landing / "a.md").write_text("one")
    with _watched(settings) as told:
        _until(lambda: len(told) == 1)
        assert told[0].files == ()
        (landing / "deep").mkdir()
        (landing / "deep" / "b.md").write_text("three")
        _until(lambda: _sizes(settings) == {"a.md": 3, "deep/b.md": 5})
        (landing / "a.md").write_text("four")
        _until(lambda: _sizes(settings).get("a.md") == 4)
        (landing / "deep" / "b.md").unlink()
        _until(lambda: _sizes(settings) == {"a.md": 4})
    assert "a.md" in told[-2].files
    assert "deep/b.md" in told[-1].files
    assert len({of.outcome.run_id for of in told}) == len(told), "each run has an id of its own"
    line = round_line(told[-1].files, told[-1].outcome)
    assert all(part in line for part in ("deep/b.md", "1 gone", "1 delete"))


def test_what_nobody_takes_in_begins_no_run(settings: Settings):
    (settings.landing_path / "a.md").write_text("one")
    with _watched(settings) as told:
        _until(lambda: len(told) == 1)
        (settings.landing_path / ".hidden.md").write_text("x")
        (settings.landing_path / "~$a.docx").write_text("x")
        time.sleep(0.5)
        (settings.landing_path / "b.md").write_text("xy")
        _until(lambda: len(told) == 2)
    assert told[1].files == ("b.md",)


def test_a_landing_folder_that_is_the_workspace_is_not_woken_by_its_own_writes(settings: Settings, monkeypatch):
    own = settings.model_copy(update={"landing": "."})
    (settings.root / "a.md").write_text("one")
    runs: list[Any] = []
    run = watching.run_to_end
    monkeypatch.setattr(watching, "run_to_end", lambda *a, **k: (runs.append(1), run(*a, **k))[1])
    with _watched(own) as told:
        _until(lambda: len(told) == 1)
        time.sleep(1)
    assert len(runs) == 1


def test_after_the_time_there_is_a_run_without_a_change(settings: Settings, monkeypatch):
    runs: list[Any] = []
    run = watching.run_to_end
    monkeypatch.setattr(watching, "run_to_end", lambda *a, **k: (runs.append(1), run(*a, **k))[1])
    with _watched(settings, seconds=0.2) as told:
        _until(lambda: len(runs) >= 4)
    assert told == []


def test_a_run_that_fails_is_told_of_and_the_next_one_goes_on(settings: Settings):
    for number in range(20):
        (settings.landing_path / f"{number}.md").write_text("x")
    with _watched(settings) as told:
        _until(lambda: len(told) == 1)
        for number in range(19):
            (settings.landing_path / f"{number}.md").unlink()
        _until(lambda: bool(told and told[-1].outcome.failures))
        assert "FAILED ingest-documents: 19 of 20" in round_line(told[-1].files, told[-1].outcome)
        for number in range(19):
            (settings.landing_path / f"{number}.md").write_text("xy")
        _until(lambda: _sizes(settings).get("3.md") == 2)


def test_while_another_process_writes_the_watch_waits(settings: Settings, monkeypatch, caplog):
    monkeypatch.setattr(watching, "_BUSY_SECONDS", 0.1)
    (settings.landing_path / "a.md").write_text("one")
    with only_writer(settings), _watched(settings) as told:
        _until(lambda: "another lakeloop run" in caplog.text)
        time.sleep(0.3)
        assert told == []
        assert caplog.text.count("another lakeloop run") == 1


def test_the_lock_that_is_let_go_lets_the_watch_go_on(settings: Settings, monkeypatch):
    monkeypatch.setattr(watching, "_BUSY_SECONDS", 0.1)
    (settings.landing_path / "a.md").write_text("one")
    lock = only_writer(settings)
    lock.__enter__()
    with _watched(settings):
        time.sleep(0.3)
        lock.__exit__(None, None, None)
        _until(lambda: _sizes(settings) == {"a.md": 3})


def test_folders_of_records_are_watched_and_have_to_be_there(settings: Settings):
    orders = RecordSettings(format="csv", location="orders", key=["id"], columns={"id": "bigint"})
    topic = orders.model_copy(update={"format": "kafka", "location": "topic"})
    settings = settings.model_copy(update={"records": {"orders": orders, "topic": topic}})
    with pytest.raises(ConfigurationError, match=r"no folder .*orders to watch"):
        watch(new_context(settings), stages=STAGES, seconds=60, on_round=print)
    assert watching.watched_folders(settings) == [settings.landing_path, settings.root / "orders"]


def test_a_folder_that_is_put_in_the_place_of_another_is_watched(settings: Settings):
    landing = settings.landing_path
    (landing / "a.md").write_text("one")
    with _watched(settings) as told:
        _until(lambda: _sizes(settings) == {"a.md": 3})
        landing.rename(settings.root / "before")
        _until(lambda: bool(told and told[-1].outcome.failures))
        landing.mkdir()
        (landing / "a.md").write_text("four")
        _until(lambda: _sizes(settings) == {"a.md": 4})
        (landing / "b.md").write_text("three")
        _until(lambda: _sizes(settings) == {"a.md": 4, "b.md": 5})
    assert told[-1].files == ("b.md",), "an event, not the time"


def test_a_watch_follows_its_settings_and_waits_while_they_cannot_be_read(settings: Settings, caplog):
    (settings.landing_path / "a.md").write_text("one")
    other = settings.model_copy(update={"landing": "other"})
    other.landing_path.mkdir()
    (other.landing_path / "a.md").write_text("three")
    now: list[Settings | Exception] = [settings]

    def read() -> Settings:
        if isinstance(now[-1], Exception):
            raise now[-1]
        return now[-1]

    with _watched(settings, seconds=0.3, read=read) as told:
        _until(lambda: _sizes(settings) == {"a.md": 3})
        now.append(ConfigurationError("the settings are no YAML"))
        _until(lambda: "the settings are no YAML" in caplog.text)
        runs = len(told)
        (settings.landing_path / "b.md").write_text("xy")
        time.sleep(1)
        assert len(told) == runs
        now.append(other)
        _until(lambda: _sizes(settings) == {"a.md": 5})
        (other.landing_path / "c.md").write_text("x")
        _until(lambda: _sizes(settings) == {"a.md": 5, "c.md": 1})


def test_the_first_signal_asks_for_the_end_and_the_second_acts_as_ever():
    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # not that of a Spark of another module
    try:
        with stopped_by_signals(threading.Event()) as stop:
            signal.raise_signal(signal.SIGINT)
            assert stop.wait(5)
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
