"""Folders of record files as they are found: names that are none, and files that go while they are looked at."""

from __future__ import annotations

import os
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from pipelines.conductor.run import new_context
from pipelines.records.files import new_files, note_files, paths_now, unread
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


def test_a_file_that_is_renamed_or_goes_before_it_is_read(tmp_path):
    settings = Settings(root=tmp_path, records={"orders": RecordSettings(**ORDERS)})
    context, source = new_context(settings), record_source(settings, "orders")
    folder = tmp_path / "orders"
    folder.mkdir()
    for name in ("a.csv", "c.csv"):
        (folder / name).write_text(f"id\n{ord(name[0])}\n")

    def noted() -> dict[str, str]:
        note_files(context, source, new_files(context, source))
        waiting = unread(context, source, after=None)
        return {arrival.path: path for arrival, path in paths_now(context, source, waiting).items()}

    assert noted() == {"a.csv": "a.csv", "c.csv": "c.csv"}
    (folder / "a.csv").rename(folder / "b.csv")
    assert noted() == {"a.csv": "b.csv", "c.csv": "c.csv"}
    (folder / "c.csv").rename(tmp_path / "c.csv")
    assert noted() == {"a.csv": "b.csv"}
    (tmp_path / "c.csv").rename(folder / "d.csv")
    assert noted() == {"a.csv": "b.csv", "d.csv": "d.csv"}
    (folder / "d.csv").rename(folder / "c.csv")
    assert noted() == {"a.csv": "b.csv", "d.csv": "c.csv", "c.csv": "c.csv"}, "a batch has a path once"
