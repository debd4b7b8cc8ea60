"""Files as they come, read as they are: odd ones, odd names, orders of arrival, and what becomes of each."""

from __future__ import annotations

import gzip
import io
import os
from datetime import date, datetime, time, timezone
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.recorded import now, put, refused, rows, run, settings_for

COLUMNS = {
    "order_id": {"type": "string", "from": "Order ID"},
    "day": {"type": "date", "from": "Datum (t.m.j)", "format": "dd.MM.yyyy"},
    "price": {"type": "decimal(10,2)", "from": "1. Preis/€", "thousands_mark": ".", "decimal_mark": ","},
    "size": {"type": "int", "from": "größe", "null_texts": ["k.A."]},
    "note": "string",
}
SOURCE = {"format": "csv", "location": "orders", "key": ["order_id"], "columns": COLUMNS, "options": {"sep": "\\t"}}
HEADER = "Order ID\tDatum (t.m.j)\t1. Preis/€\tgröße\tnote\n"


def _line(key: str, size: str = "1", note: str = "", price: str = "1.234,50") -> str:
    return f"{key}\t31.01.2024\t{price}\t{size}\t{note}\n"


@pytest.mark.long
def test_csv_files_of_many_kinds_and_the_order_in_which_they_count(tmp_path, spark):
    settings = settings_for(tmp_path, orders=SOURCE)
    quoted = '"Hello\nhacked\t31.01.2024\t1,00\t1\tbye"'
    files: list[tuple[str, str | bytes]] = [
        ("z first.csv", HEADER + _line("a", "9") * 50 + _line("a", "1") + _line("b", "k.A.")),
        ("a second.CSV", "\ufeff\n" + HEADER + _line("a", "2") + _line("c", "01234", quoted)),
        ("10:15.csv", HEADER.replace("Order ID", "ORDER id") + _line("d") + _line("d2", price="1,239")),
        ("cut.csv.gz", gzip.compress((HEADER + _line("cut") * 5000).encode())[:-20]),
        ("good.csv.GZ", gzip.compress((HEADER + _line("e")).encode())),
        ("latin.csv", (HEADER + _line("f", note="ä") + _line("g")).encode().replace("ä".encode(), b"\xe4")),
        ("headers.csv", HEADER + _line("h") + HEADER + _line("i")),
        ("open.csv", HEADER + _line("j") + _line("k", note='"never closed') + _line("l")),
        ("twice.csv", "note\tNOTE\nx\ty\n"),
    ]
    for second, (name, content) in enumerate(files):
        file = put(settings, name, content)
        os.utime(file, (1_700_000_000 + second, 1_700_000_000 + second))
    counts = run(settings)
    assert counts["ingest-records"]["files"] == len(files)

    found = now(settings)
    # The later file wins, not the later line or the later name.
    assert found["a"]["size"] == 2
    assert found["b"]["size"] is None
    assert set(found) == {"a", "b", "d", "e", "g", "h", "i", "j"}
    assert (found["e"]["day"], found["e"]["price"]) == (date(2024, 1, 31), Decimal("1234.50"))
    why = [(row["_source_file"], row["failed_rules"], row["reason"]) for row in refused(settings)]
    told = {(file, rules[0]) for file, rules, _ in why}
    assert told == {
        ("a second.CSV", "has_type_size"),
        ("10:15.csv", "has_type_price"),
        ("cut.csv.gz", "is_readable"),
        ("latin.csv", "is_readable"),
        ("headers.csv", "has_type_day"),
        ("open.csv", "is_readable"),
        ("twice.csv", "is_readable"),
    }
    assert all("01234" in reason for file, _, reason in why if file == "a second.CSV")
    assert all("lines 3 to 4" in reason for file, _, reason in why if file == "open.csv")

    # A file that went, and what it held under a new name later: delivered twice, and the second delivery counts.
    settings.path("orders/z first.csv").unlink()
    put(settings, "again.csv", files[0][1])
    # The contract is corrected: what came is there as it came, of bronze alone.
    columns = {
        **COLUMNS,
        "size": {"type": "string", "from": "größe"},
        "day": {"type": "string", "from": "Datum (t.m.j)"},
    }
    settings = settings_for(tmp_path, orders={**SOURCE, "columns": columns})
    run(settings)
    found = now(settings)
    assert (found["a"]["size"], found["b"]["size"], found["b"]["day"]) == ("1", "k.A.", "31.01.2024")
    assert (found["c"]["size"], found["c"]["note"]) == ("01234", quoted.strip('"'))


@pytest.mark.long
def test_json_of_many_layouts_each_record_once_and_in_order(tmp_path, spark):
    columns = {"k": "string", "n": {"type": "bigint", "from": "the number"}, "deep": "struct<price:decimal(20,4)>"}
    source = {"format": "json", "location": "j", "key": ["k"], "columns": columns}
    settings = settings_for(tmp_path, lines=source, whole={**source, "location": "w", "options": {"multiLine": True}})
    lines = [
        '{"k":"1","the number":1}{"k":"2","the number":2}',
        '{"k":"3"} junk',
        '{"k":"4","k":"5"}',
        '[{"k":"6","the number":9},{"K":"6","the number":7}]',
        '{"k":"7","deep":{"price":1234567890123456.7891}}',
        '{"k":"8","deep":{"price":0.12345}}',
        '{"k":"9","deep":{"Price":1}}',
        '{"k":"10","the number":1.0}',
    ]
    put(settings, "a.JSONL", "\ufeff" + "\n".join(lines), source="lines")
    array = ",\n".join(f'{{"k": "a{n % 3}",\n "the number": {n}}}' for n in range(3000))
    put(settings, "b.json", f"[{array}]\n", source="whole")
    run(settings)
    found = now(settings, "lines")
    assert {key: row["n"] for key, row in found.items()} == {"1": 1, "2": 2, "6": 7, "7": None}
    assert found["7"]["deep"] == {"price": Decimal("1234567890123456.7891")}
    rules = sorted(rule for row in refused(settings, "lines") for rule in row["failed_rules"])
    assert rules == ["has_type_deep", "has_type_deep", "has_type_n", "is_readable", "is_readable"]
    assert {key: row["n"] for key, row in now(settings, "whole").items()} == {"a0": 2997, "a1": 2998, "a2": 2999}
    assert len({row["_offset"] for row in rows(settings, "bronze.records_whole")}) == 3000


def _parquet(columns: dict[str, pa.Array]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue()


@pytest.mark.long
def test_parquet_of_other_writers_is_read_or_set_aside_file_by_file(tmp_path, spark):
    columns = {"k": "string", "at": "timestamp", "note": {"type": "string", "from": "a note."}}
    source = {"format": "parquet", "location": "p", "key": ["k"], "columns": columns, "evolution": "evolve"}
    settings = settings_for(tmp_path, p=source)
    noon = datetime(2024, 1, 1, 12)

    def of(key: str, at: pa.Array, **more: pa.Array) -> bytes:
        return _parquet({"k": pa.array([key] * len(at)), "at": at, "a note.": pa.array(["x"] * len(at)), **more})

    ns = 1_704_110_400_000_000_000
    utc = pa.array([noon.replace(tzinfo=timezone.utc)], pa.timestamp("us", "UTC"))
    files = {
        "naive": of("naive", pa.array([noon], pa.timestamp("us"))),
        "nanos": of("nanos", pa.array([ns + 123_456_000], pa.timestamp("ns"))),
        "old nanos": of("old", pa.array([-1_000], pa.timestamp("ns", "UTC"))),
        "too fine": of("fine", pa.array([ns + 1], pa.timestamp("ns"))),
        "void": of("void", utc, nothing=pa.nulls(1), empty=pa.nulls(1)),
        "odd struct": of("odd", utc, s=pa.array([{"x y": 1}])),
        "maps": of("maps", utc, m=pa.array([[[("a", 1)]]], pa.list_(pa.map_(pa.string(), pa.int64())))),
        "clock": of("clock", utc, t=pa.array([time(1, 2, 3)])),
        "a:b": of("colon", utc),
        "cut": of("cut", utc)[:200],
        "date": of("date", pa.array([date(2024, 1, 1)])),
        "seconds": of("seconds", pa.array([1_704_110_400])),
        "back`tick": of("tick", utc, **{"b`q": pa.array([1])}),
    }
    for name, content in files.items():
        put(settings, f"{name}.parquet", content, source="p")
    run(settings)
    found = now(settings, "p")
    at = {key: row["at"].astimezone(timezone.utc) for key, row in found.items()}
    whole = noon.replace(tzinfo=timezone.utc)
    assert at == {
        "naive": whole,
        "nanos": whole.replace(microsecond=123_456),
        "old": datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=timezone.utc),
        "void": whole,
        "maps": whole,
        "date": whole.replace(hour=0),
    }
    assert found["naive"]["note"] == "x"
    assert dict(found["maps"]["m"][0]) == {"a": 1}
    why: dict[str, Any] = {row["_source_file"].removesuffix(".parquet"): row for row in refused(settings, "p")}
    assert {name: row["failed_rules"] for name, row in why.items()} == {
        "too fine": ["has_type_at"],
        "odd struct": ["has_known_columns"],
        "back`tick": ["has_known_columns"],
        "seconds": ["has_type_at"],
        "clock": ["is_readable"],
        "a:b": ["is_readable"],
        "cut": ["is_readable"],
    }
    assert "2024-01-01T12:00:00.000000001Z" in why["too fine"]["reason"]
    assert "rename it" in why["a:b"]["reason"]


@pytest.mark.long
def test_a_delta_table_with_instants_without_a_zone_and_columns_without_a_type(tmp_path, spark):
    columns = {"k": "bigint", "at": "timestamp", "deep": "array<struct<at:timestamp>>", "none": "string"}
    source = {"format": "delta", "location": "./d", "key": ["k"], "columns": columns, "evolution": "evolve"}
    settings = settings_for(tmp_path, d=source)
    select = (
        "SELECT id AS k, timestamp_ntz'2024-01-01 12:00:00' + make_dt_interval(id) AS at, "
        "array(named_struct('at', timestamp_ntz'2024-01-01 12:00:00')) AS deep, null AS none, null AS more "
        "FROM range(2)"
    )
    writer = spark.sql(select).write.format("delta").option("delta.enableChangeDataFeed", "true")
    writer.save(str(settings.path("d")))
    spark.conf.set("spark.sql.session.timeZone", "America/New_York")
    try:
        run(settings)
    finally:
        spark.conf.set("spark.sql.session.timeZone", "UTC")
    noon = datetime(2024, 1, 1, 12, tzinfo=timezone.utc)
    found = now(settings, "d")
    assert [found[key]["at"] for key in (0, 1)] == [noon, noon.replace(day=2)]
    assert found[0]["deep"] == [{"at": noon}]
    assert set(found[0]) == set(columns)
    assert refused(settings, "d") == []
