"""Folders of record files as they are found: names that are none, and files that go while they are looked at."""

from __future__ import annotations

import os
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from pipelines.conductor.run import new_context
from pipelines.records.files import Arrival, new_files, note_files, paths_now, unread
from pipelines.records.source import record_source
from pipelines.settings.records import RecordSettings
from pipelines.settings.sections import Settings

ORDERS = {"format": "csv", "location": "orders", "key": ["id"], "columns": {"id": "bigint"}}


def _found(root: Path, **other: Any) -> list[str]:
    context = new_context(Settings(root=root, records={"orders": RecordSettings(**ORDERS | other)}))
    return [row["path"] for row in new_files(context, record_source(context.settings, "orders"))]


def test_a_file_or_folder_whose_name_is_not_utf_8_is_passed_over_and_told_of(tmp_path, caplog):
    folder = os.fsencode(tmp_path / "orders")
    os.makedirs(os.path.join(folder, b"\xff"))
    for name in (b"\xff/a.csv", b"\xfe.csv", b"b.csv"):
        with open(os.path.join(folder, name), "w") as file:
            file.write("id\n1\n")
    assert _found(tmp_path) == ["b.csv"]
    assert [message.count("is not UTF-8") for message in caplog.messages] == [1, 1]
    assert any("'\\udcff/a.csv'" in message for message in caplog.messages)


def test_a_file_that_goes_while_the_folder_is_listed_is_passed_over(tmp_path, monkeypatch: pytest.MonkeyPatch):
    for name in ("a.csv", "b.csv", "c.csv"):
        (tmp_path / "orders").mkdir(exist_ok=True)
        (tmp_path / "orders" / name).write_text("id\n1\n")
    stat = Path.stat

    def going(self: Path, *, follow_symlinks: bool = True) -> Any:
        if self.name == "b.csv" and not follow_symlinks:
            os.unlink(self)  # before this look
        found = stat(self, follow_symlinks=follow_symlinks)
        if self.name == "c.csv":
            os.unlink(self)  # before the next one
        return found

    monkeypatch.setattr(Path, "stat", going)
    assert _found(tmp_path) == ["a.csv"]


def test_what_lakeloop_writes_is_no_record_where_the_folder_of_the_source_is_the_workspace(tmp_path):
    names = ["lakehouse/silver/a.json", "mlruns/1/meta.json", "checkpoints/x/b.json", "mine/logs/d.json", "c.json"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}")
    assert sorted(_found(tmp_path, format="json", location=".")) == ["c.json", "mine/logs/d.json"]


def test_what_is_noted_later_is_read_later_whatever_the_clock_says(tmp_path):
    settings = Settings(root=tmp_path, records={"orders": RecordSettings(**ORDERS)})
    context, clock = new_context(settings), [datetime(2024, 1, 2, tzinfo=timezone.utc)]
    context.clock = lambda: clock[0]
    source = record_source(settings, "orders")
    (tmp_path / "orders").mkdir()

    def put(**modified: int) -> None:
        for name, modified_at in modified.items():
            file = tmp_path / "orders" / f"{name}.csv"
            file.write_text(f"id\n{modified_at}\n")
            os.utime(file, (modified_at, modified_at))
        note_files(context, source, new_files(context, source))

    put(b=2, a=2, z=1)
    found = unread(context, source, after=None)
    assert [arrival.path for arrival in found] == ["z.csv", "a.csv", "b.csv"]
    assert unread(context, source, after=asdict(found[1])) == found[2:]
    clock[0] = datetime(2024, 1, 1, tzinfo=timezone.utc)
    put(late=0)
    put(a=9)
    assert [arrival.path for arrival in unread(context, source, after=asdict(found[-1]))] == ["late.csv", "a.csv"]
    assert [arrival.path for arrival in unread(context, source, after=None)] == ["z.csv", "b.csv", "late.csv", "a.csv"]


def test_a_file_that_is_renamed_rewritten_or_goes_before_it_is_read(tmp_path):
    settings = Settings(root=tmp_path, records={"orders": RecordSettings(**ORDERS)})
    context, source = new_context(settings), record_source(settings, "orders")
    folder = tmp_path / "orders"
    folder.mkdir()
    for name in "acx":
        (folder / name).write_text(f"id\n{ord(name)}\n")
        (folder / name).rename(folder / f"{name}.csv")

    def read_now(*, after: Any = None, noting: bool = True) -> dict[str, str]:
        """Which files would be read now, if nothing was read since `after`."""
        waiting = unread(context, source, after=after)
        if noting:
            note_files(context, source, new_files(context, source, unread=waiting))
            waiting = unread(context, source, after=after)
        found = paths_now(context, source, waiting, unread=waiting)
        return {arrival.path[0]: path[0] for arrival, path in found.items()}

    assert read_now() == {"a": "a", "c": "c", "x": "x"}
    (folder / "a.csv").rename(folder / "b.csv")
    assert read_now() == {"b": "b", "c": "c", "x": "x"}, "it was not read as a.csv"
    (folder / "a.csv").write_text("id\n1\n")
    assert read_now() == {"a": "a", "b": "b", "c": "c", "x": "x"}, "neither the old content nor the new one is lost"
    (folder / "c.csv").rename(tmp_path / "c.csv")
    assert read_now() == {"a": "a", "b": "b", "x": "x"}
    (tmp_path / "c.csv").rename(folder / "d.csv")
    assert read_now() == {"a": "a", "b": "b", "d": "d", "x": "x"}
    (folder / "x.csv").write_text("id\nnew\n")
    assert read_now(noting=False) == {"a": "a", "b": "b", "d": "d"}, "what was noted is not what is there now"
    assert read_now() == {"a": "a", "b": "b", "d": "d", "x": "x"}
    os.utime(folder / "a.csv", (1, 1))
    assert read_now(noting=False)["a"] == "a", "it was only touched"

    # Read, then renamed, and all is read from the beginning.
    last = asdict(max(unread(context, source, after=None)))
    (folder / "b.csv").rename(folder / "e.csv")
    assert read_now(after=last) == {}
    assert read_now() == {"a": "a", "b": "e", "d": "d", "x": "x"}


def test_what_is_noted_is_later_than_what_was_read_though_the_table_has_lost_it(tmp_path):
    settings = Settings(root=tmp_path, records={"orders": RecordSettings(**ORDERS)})
    context, source = new_context(settings), record_source(settings, "orders")
    (tmp_path / "orders").mkdir()
    (tmp_path / "orders/a.csv").write_text("id\n1\n")
    read = asdict(Arrival(int(datetime(2999, 1, 1, tzinfo=timezone.utc).timestamp()) * 1_000_000, 0, "a.csv"))
    note_files(context, source, new_files(context, source), after=read)
    assert [arrival.path for arrival in unread(context, source, after=read)] == ["a.csv"]
