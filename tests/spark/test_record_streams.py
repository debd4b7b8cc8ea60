"""Records arrive exactly once: killed between two steps, replayed, rewritten, out of order."""

from __future__ import annotations

import json
import os
import random
import shutil
import threading
import time
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake
from pyarrow import parquet

from pipelines.bronze import ingest_records
from pipelines.conductor.continuous import ingest_until_stopped
from pipelines.conductor.run import new_context
from pipelines.records.appending import append, batch_of_files
from pipelines.records.files import new_files, note_files
from pipelines.records.source import declare, record_source
from tests.support.recorded import ORDERS, history, now, put, refused, rows, run, settings_for, versions

HEADER = "order_id,updated_at,amount,note,op\n"
START = datetime(2024, 1, 1, tzinfo=timezone.utc)


def _csv(changes: list[tuple[str, int, int | None, str | None]]) -> str:
    """(key, hour, amount, note); an amount of None deletes."""
    lines = [
        f"{key},{START + timedelta(hours=hour):%Y-%m-%dT%H:%M:%SZ},{'' if amount is None else amount},{note or ''},"
        f"{'D' if amount is None else 'U'}"
        for key, hour, amount, note in changes
    ]
    return HEADER + "\n".join(lines) + "\n"


def _oracle(changes: list[tuple[str, int, int | None, str | None]]) -> tuple[dict[str, Any], set[tuple[Any, ...]]]:
    """The rows now, and (key, from, to, amount, note) of each version, by plain Python."""
    current: dict[str, Any] = {}
    versions: set[tuple[Any, ...]] = set()
    for key in {change[0] for change in changes}:
        last: tuple[Any, ...] | None = None
        by_hour = {}
        for change in changes:
            if change[0] == key:
                # A tie: an upsert before a delete, then the greater values.
                rank = (change[2] is not None, change[2] or 0, change[3] is not None, change[3] or "")
                if change[1] not in by_hour or rank > by_hour[change[1]][0]:
                    by_hour[change[1]] = (rank, change)
        for hour in sorted(by_hour):
            _, _, amount, note = by_hour[hour][1]
            if amount is None:
                if last is not None:
                    versions.add((key, last[0], hour, *last[1:]))
                last, _gone = None, current.pop(key, None)
                continue
            current[key] = (hour, amount, note)
            if last is None or last[1:] != (amount, note):
                if last is not None:
                    versions.add((key, last[0], hour, *last[1:]))
                last = (hour, amount, note)
        if last is not None:
            versions.add((key, last[0], None, *last[1:]))
    return current, versions


def _hour(at: datetime | None) -> int | None:
    return None if at is None else int((at - START).total_seconds() // 3600)


def _found(settings: Any, source: str) -> tuple[dict[str, Any], set[tuple[Any, ...]]]:
    current = {k: (_hour(r["updated_at"]), r["amount"], r["note"]) for k, r in now(settings, source).items()}
    versions = {
        (r["order_id"], _hour(r["valid_from"]), _hour(r["valid_to"]), r["amount"], r["note"])
        for r in rows(settings, f"silver.records_{source}_history")
        if r["_marks"] is None
    }
    return current, versions


@pytest.mark.longest
def test_any_cut_of_a_change_log_in_any_order_ends_as_one_batch_does_and_as_plain_python_says(tmp_path, spark):
    chance = random.Random(7)
    log = [
        (
            f"k{chance.randrange(12)}",
            chance.randrange(9),
            chance.choice([None, 1, 2, 3]),
            chance.choice(["x", "y", None]),
        )
        for _ in range(160)
    ]
    names = ("whole", "cut", "reversed")
    settings = settings_for(tmp_path, **{name: {**ORDERS, "location": name} for name in names})
    shuffled = chance.sample(log, len(log))
    put(settings, "1.csv", _csv(shuffled), source="whole")
    by_time = sorted(log, key=lambda change: -change[1])
    for number, (start, end) in enumerate([(0, 50), (50, 160)]):
        put(settings, f"{number}.csv", _csv(shuffled[start:end]), source="cut")
        put(settings, f"{number}.csv", _csv(by_time[start:end]), source="reversed")
        if end == len(log):  # and all of it once more, as another file
            put(settings, "again.csv", _csv(log), source="cut")
        run(settings)
    expected = _oracle(log)
    for name in names:
        current, versions = _found(settings, name)
        assert current == expected[0], name
        assert versions == expected[1], name


@pytest.mark.long
def test_a_batch_that_was_appended_before_a_crash_is_not_appended_again(tmp_path, spark, monkeypatch, caplog):
    settings = settings_for(tmp_path, orders=ORDERS)
    put(settings, "1.csv", _csv([("a", 1, 1, "x"), ("b", 1, 2, "y")]))

    def dies_after_the_append(*arguments: Any, **named: Any) -> Any:
        append(*arguments, **named)
        raise OSError("killed between the append and the record of the run")

    with monkeypatch.context() as broken:
        broken.setattr(ingest_records, "append", dies_after_the_append)
        with pytest.raises(Exception, match="killed between"):
            run(settings)
    assert len(rows(settings, "bronze.records_orders")) == 2
    put(settings, "2.csv", _csv([("c", 1, 3, "z")]))
    assert run(settings)["ingest-records"]["records"] == 1
    assert sorted(row["order_id"] for row in rows(settings, "bronze.records_orders")) == ["a", "b", "c"]

    # Touched, renamed: the records are not read again. Rewritten with the same content elsewhere: silver stays.
    before = {t: v for t, v in versions(settings).items() if t.startswith("silver")}
    file = settings.path("orders/1.csv")
    os.utime(file, (1, 1))
    file.rename(file.with_name("renamed.csv"))
    run(settings)
    assert len(rows(settings, "bronze.records_orders")) == 3
    put(settings, "copy.csv", file.with_name("renamed.csv").read_bytes())
    run(settings)
    assert len(rows(settings, "bronze.records_orders")) == 5
    assert {t: v for t, v in versions(settings).items() if t.startswith("silver")} == before
    # Rewritten in place: the change arrives.
    put(settings, "2.csv", _csv([("c", 2, 4, "new")]))
    assert run(settings)["ingest-records"] == {"records": 1, "files": 1, "columns": 0}
    assert now(settings)["c"]["amount"] == 4

    # A lost state: bronze itself says what was read.
    context = new_context(settings)
    context.states.forget("ingest-records", ["orders"])
    put(settings, "3.csv", _csv([("d", 1, 1, "d")]))
    assert run(settings)["ingest-records"]["records"] == 1
    # Bronze with rows of somebody: everything arrives a second time, and changes nothing.
    silver = (now(settings), history(settings))
    context.states.reload()
    context.states.put(replace(context.states.get("ingest-records", "orders"), position=None))
    bronze = DeltaTable(str(context.lake.folder("bronze.records_orders")))
    write_deltalake(bronze, bronze.to_pyarrow_table(), mode="overwrite")
    put(settings, "4.csv", _csv([("e", 1, 1, "e")]))
    assert run(settings)["ingest-records"]["files"] == 5  # the one that was renamed, too
    assert {k: v for k, v in now(settings).items() if k != "e"} == silver[0]
    assert history(settings) > silver[1]

    # A batch that another process appends meanwhile is one.
    source = declare(context.lake, record_source(settings, "orders"))
    batch = batch_of_files(context, ["2.csv"])
    assert append(context, source, batch, txn=("mine", 0))["records"] == 1
    assert append(context, source, batch, txn=("mine", 0))["records"] == 0

    # A file that goes between its discovery and its reading is noted as gone; it arrives when it is there again.
    put(settings, "5.csv", _csv([("f", 1, 1, "f")]))
    put(settings, "6.csv", _csv([("g", 1, 1, "g")]))
    note_files(context, source, new_files(context, source))
    file = settings.path("orders/5.csv")
    file.rename(tmp_path / "5.csv")
    with caplog.at_level("WARNING"):
        assert run(settings)["ingest-records"]["records"] == 1
    assert any("gone before they were read: 5.csv" in message for message in caplog.messages)
    assert run(settings) == {}
    (tmp_path / "5.csv").rename(file.with_name("again.csv"))
    assert run(settings)["ingest-records"]["records"] == 1
    assert {"f", "g"} <= now(settings).keys()
    assert not refused(settings)


@pytest.mark.long
@pytest.mark.parametrize(
    "format",
    ["csv", pytest.param("json", marks=pytest.mark.longest), pytest.param("parquet", marks=pytest.mark.longest)],
)
def test_a_file_that_goes_while_its_batch_is_read_is_not_taken_for_read(tmp_path, spark, monkeypatch, format):
    of = {"location": "orders", "key": ["k"], "order_by": ["n"], "columns": {"k": "string", "n": "bigint"}}
    settings = settings_for(tmp_path, orders={**of, "format": format})
    folder = settings.path("orders")

    def write(name: str, number: int) -> None:
        row = {"k": name, "n": number}
        if format == "parquet":
            parquet.write_table(pa.Table.from_pylist([row]), folder / name)
        else:
            (folder / name).write_text(json.dumps(row) if format == "json" else f"k,n\n{name},{number}\n")

    names = [f"{letter}.{format}" for letter in "abc"]
    for number, name in enumerate(names):
        write(name, number)
    found = ingest_records.paths_now

    def goes_after_the_look(*arguments: Any, **named: Any) -> Any:
        there = found(*arguments, **named)
        (folder / names[1]).rename(tmp_path / "away")
        return there

    with monkeypatch.context() as late:
        late.setattr(ingest_records, "paths_now", goes_after_the_look)
        run(settings)
    assert {row["k"] for row in rows(settings, "bronze.records_orders") if row["k"]} == {names[0], names[2]}
    (tmp_path / "away").rename(folder / f"other.{format}")
    run(settings)
    assert sorted(row["k"] for row in rows(settings, "bronze.records_orders") if row["k"]) == names
    assert run(settings) == {}


@pytest.mark.long
def test_many_files_are_several_batches_and_a_crash_among_them_neither_loses_nor_doubles(tmp_path, spark, monkeypatch):
    monkeypatch.setattr(ingest_records, "_MOST_FILES", 2)
    settings = settings_for(tmp_path, orders=ORDERS)
    for number in range(5):
        put(settings, f"{number}.csv", _csv([(f"k{number}", 1, number, "x")]))
    put(settings, "empty.csv", "")
    batches: list[int] = []

    def dies_after_the_second(*arguments: Any, **named: Any) -> Any:
        append(*arguments, **named)
        batches.append(len(rows(settings, "bronze.records_orders")))
        if len(batches) == 2:
            raise OSError("killed")

    with monkeypatch.context() as broken:
        broken.setattr(ingest_records, "append", dies_after_the_second)
        with pytest.raises(OSError, match="killed"):
            run(settings)
    assert batches == [2, 4]
    put(settings, "0.csv", _csv([("k0", 2, 9, "later")]))
    assert run(settings)["ingest-records"] == {"records": 2, "files": 3, "columns": 0}
    assert len(rows(settings, "bronze.records_orders")) == 6
    assert {key: row["amount"] for key, row in now(settings).items()} == {"k0": 9, "k1": 1, "k2": 2, "k3": 3, "k4": 4}
    assert run(settings) == {}


@pytest.mark.long
@pytest.mark.parametrize("which", ["bronze", "files", pytest.param("both", marks=pytest.mark.longest)])
def test_what_was_read_into_tables_that_were_put_back_is_read_again(tmp_path, spark, which):
    settings = settings_for(tmp_path, orders=ORDERS)
    put(settings, "1.csv", _csv([("a", 1, 1, "x")]))
    run(settings)
    lake, wanted = new_context(settings).lake, {"a": 1, "b": 2, "c": 3}
    tables = {"bronze": ["bronze.records_orders"], "files": ["bronze.records_orders_files"]}
    tables["both"] = tables["bronze"] + tables["files"]
    for table in tables[which]:
        shutil.copytree(lake.folder(table), tmp_path / "copies" / table)
    put(settings, "2.csv", _csv([("b", 1, 2, "y"), ("c", 1, 3, "z")]))
    run(settings)
    silver = now(settings), history(settings)

    def are_read_again() -> None:
        assert "ingest-records" in run(settings)
        found = rows(settings, "bronze.records_orders", "order_id", "amount")
        assert {row["order_id"]: row["amount"] for row in found} == wanted
        assert (now(settings), history(settings)) == silver
        assert run(settings) == {}

    for table in tables[which]:
        shutil.rmtree(lake.folder(table))
        shutil.copytree(tmp_path / "copies" / table, lake.folder(table))
    are_read_again()
    for table in tables[which]:
        delta = DeltaTable(str(lake.folder(table)))
        delta.restore(1)
    are_read_again()


@pytest.mark.long
def test_without_an_order_the_later_arrival_and_the_later_line_win(tmp_path, spark):
    columns = {"order_id": "string", "amount": "int"}
    settings = settings_for(
        tmp_path, orders={"format": "csv", "location": "orders", "key": ["order_id"], "columns": columns}
    )
    lines = "\n".join(f"k{n % 7},{n}" for n in range(700))
    put(settings, "1.csv", f"order_id,amount\n{lines}\n")
    run(settings)
    assert {key: row["amount"] for key, row in now(settings).items()} == {f"k{n % 7}": n for n in range(693, 700)}
    put(settings, "2.csv", "order_id,amount\nk0,1\nk0,693\n")
    run(settings)
    assert len(history(settings)) == 7
    put(settings, "3.csv", "order_id,amount\nk0,2\n")
    run(settings)
    assert now(settings)["k0"]["amount"] == 2
    assert len(history(settings)) == 8


@pytest.mark.longest
def test_sources_that_are_read_without_end_take_what_comes_and_stop_cleanly(tmp_path, spark):
    settings = settings_for(tmp_path, orders=ORDERS)
    put(settings, "1.csv", _csv([("a", 1, 1, "x")]))
    stop = threading.Event()
    counts: dict[str, Any] = {}

    context = new_context(settings)
    assert context.lake.spark is spark  # which another thread would not find by itself

    def work() -> None:
        counts.update(ingest_until_stopped(context, seconds=0.2, stop=stop))

    thread = threading.Thread(target=work)
    thread.start()
    deadline = time.monotonic() + 120
    try:
        while "a" not in now(settings) and time.monotonic() < deadline:
            time.sleep(0.2)
        put(settings, "2.csv", _csv([("b", 1, 2, "y")]))
        while "b" not in now(settings) and time.monotonic() < deadline:
            time.sleep(0.2)
    finally:
        stop.set()
        thread.join(120)
    assert counts["orders"]["records"] == 2
    # A run goes on where it ended.
    put(settings, "3.csv", _csv([("c", 1, 3, "z")]))
    assert run(settings)["ingest-records"]["records"] == 1
    assert set(now(settings)) == {"a", "b", "c"}
