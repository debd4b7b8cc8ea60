"""Settings and columns that change: what cannot be placed is set aside, the rest goes on, and tables follow."""

from __future__ import annotations

import io
import time
from datetime import datetime, timezone
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.conductor.run import new_context, run_to_end
from tests.support.recorded import ORDERS, RECORD_STAGES, now, put, refused, rows, run, settings_for
from transformations.errors import ConfigurationError

PARQUET = {"format": "parquet", "location": "p", "key": ["k"], "columns": {"k": "string", "n": "int"}}
LONG = "c" * 100


def _parquet(rows: list[dict[str, Any]], types: dict[str, pa.DataType]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=pa.schema(list(types.items()))), sink)
    return sink.getvalue()


@pytest.mark.long
def test_one_delivery_with_every_name_and_one_failing_source_beside_it(tmp_path, spark):
    keyed = {
        "format": "csv",
        "location": "keyed",
        "key": ["a", "b"],
        "order_by": ["at"],
        "columns": {"a": "string", "b": "int", "at": "timestamp", "n": "int", "old": "string"},
        "op": {"column": "op", "delete": ["D"]},
    }
    gone = {**ORDERS, "location": "gone"}
    evolving = {**PARQUET, "evolution": "evolve"}
    settings = settings_for(tmp_path, gone=gone, keyed=keyed, evolving=evolving)
    settings.path("gone").rmdir()
    base = {"k": pa.string(), "n": pa.int32()}
    put(settings, "1.parquet", _parquet([{"k": "a", "n": 1}], base), source="evolving")
    names = ["record_id", "reason", "record", "attempts", "replayed_at", LONG]
    new = {"n": pa.int64(), **dict.fromkeys(names, pa.string()), "nothing": pa.null()}
    put(
        settings,
        "2.parquet",
        _parquet([{"k": "b", "n": 1 << 40, **{name: f"my {name}" for name in names}}], {"k": pa.string(), **new}),
        source="evolving",
    )
    # Names that a table of records has itself, or that no column can have.
    for number, name in enumerate(["valid_from", "Valid_To", "is_current", "failed_rules", "d" * 101]):
        content = _parquet([{"k": name, "n": 1, name: "x"}], {**base, name: pa.string()})
        put(settings, f"3{number}.parquet", content, source="evolving")
    put(
        settings,
        "1.csv",
        "a,b,at,n,old,op\n"
        "x,1,2024-01-01T00:00:00Z,1,o,U\n"
        "x,2,2024-01-02T00:00:00Z,2,o,U\n"
        "y,1,2024-01-01T00:00:00Z,3,o,U\n"
        "y,1,,,,D\n"  # when was it deleted?
        "y,1,2024-01-03T00:00:00Z,no number,,D\n"  # what else a delete says makes no difference
        "z,1,2024-01-01T00:00:00.000001Z,no,o,U\n"
        "z,1,2024-01-01T00:00:00.000002Z,no,o,U\n",
        source="keyed",
    )
    outcome = run_to_end(new_context(settings), stages=RECORD_STAGES)
    assert [(f.stage, f.subject.name) for f in outcome.failures] == [
        ("ingest-records", "gone"),
        ("refine-records", "gone"),
    ]
    with pytest.raises(ConfigurationError, match="no folder at"):
        outcome.check()

    found = now(settings, "evolving")
    assert set(found) == {"a", "b"}
    assert (found["a"]["n"], found["b"]["n"]) == (1, 1 << 40)
    assert {name: found["b"][name] for name in names} == {name: f"my {name}" for name in names}
    assert found["b"].get("nothing") is None
    told = refused(settings, "evolving")
    assert [row["failed_rules"] for row in told] == [["has_known_columns"]] * 5
    assert any("is_current" in row["reason"] for row in told)

    held = {(r["a"], r["b"]): r["n"] for r in rows(settings, "silver.records_keyed")}
    assert held == {("x", 1): 1, ("x", 2): 2}
    assert sorted(rule for row in refused(settings, "keyed") for rule in row["failed_rules"]) == [
        "has_at",
        "has_type_n",
        "has_type_n",
    ]

    # The key is another one, and a column is taken out: the tables follow, files without the column are read.
    columns = {name: of for name, of in keyed["columns"].items() if name != "old"}
    settings = settings_for(tmp_path, keyed={**keyed, "key": ["a"], "columns": columns})
    put(settings, "2.csv", "a,b,at,n,op\nw,9,2024-01-05T00:00:00Z,9,U\n", source="keyed")
    run(settings)
    silver, past = rows(settings, "silver.records_keyed"), rows(settings, "silver.records_keyed_history")
    assert {row["a"]: row["b"] for row in silver} == {"x": 2, "w": 9}
    assert len(silver) == 2
    assert sorted((r["a"], r["b"]) for r in past if r["is_current"]) == [("w", 9), ("x", 2)]
    assert not {"old"} & {*silver[0], *past[0]}
    assert "old" in rows(settings, "bronze.records_keyed")[0]
    # And another order, of another type.
    put(settings, "3.csv", "a,b,at,n,op\nx,1,2024-01-09T00:00:00Z,5,U\n", source="keyed")
    settings = settings_for(tmp_path, keyed={**keyed, "key": ["a"], "columns": columns, "order_by": ["b", "at"]})
    run(settings)
    assert {r["a"]: (r["b"], r["n"]) for r in rows(settings, "silver.records_keyed")} == {"x": (2, 2), "w": (9, 9)}
    assert run(settings) == {}


@pytest.mark.long
def test_the_repeated_hour_of_autumn_in_a_process_of_another_zone(tmp_path, spark, monkeypatch):
    """05:30Z and 06:30Z are both half past one in New York, on 3 November 2024."""
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    spark.conf.set("spark.sql.session.timeZone", "America/New_York")
    try:
        source = {
            "format": "csv",
            "location": "o",
            "key": ["at"],
            "order_by": ["seen"],
            "columns": {"at": "timestamp", "seen": "timestamp", "n": "int"},
        }
        settings = settings_for(tmp_path, o=source)
        put(
            settings,
            "1.csv",
            "at,seen,n\n2024-11-03 05:30:00,2024-11-03 05:30:00,1\n2024-11-03 06:30:00,2024-11-03 05:30:00,2\n",
            source="o",
        )
        run(settings)
        put(
            settings,
            "2.csv",
            "at,seen,n\n2024-11-03 05:30:00,2024-11-03 06:30:00,3\n2024-11-03 06:30:00,2024-11-03 06:30:00,4\n",
            source="o",
        )
        run(settings)
        assert spark.conf.get("spark.sql.session.timeZone") == "UTC"
    finally:
        spark.conf.set("spark.sql.session.timeZone", "UTC")
        monkeypatch.undo()
        time.tzset()
    early, late = (datetime(2024, 11, 3, hour, 30, tzinfo=timezone.utc) for hour in (5, 6))
    assert {at: (row["seen"], row["n"]) for at, row in now(settings, "o").items()} == {
        early: (late, 3),
        late: (late, 4),
    }
    past = rows(settings, "silver.records_o_history")
    assert sorted((r["at"], r["valid_from"], r["valid_to"], r["n"]) for r in past if not r["is_current"]) == [
        (early, early, late, 1),
        (late, early, late, 2),
    ]
    assert sum(r["is_current"] for r in past) == 2


@pytest.mark.longest
@pytest.mark.parametrize("width", [300])
def test_a_wide_table(tmp_path, spark, width):
    columns = {"k": "string", **{f"c{n}": "int" if n % 2 else "string" for n in range(width)}}
    settings = settings_for(tmp_path, wide={**PARQUET, "format": "csv", "columns": columns})
    lines = [",".join([f"k{row}", *["x" if (row, n) == (3, 5) else str(n) for n in range(width)]]) for row in range(20)]
    put(settings, "1.csv", "\n".join([",".join(columns), *lines]), source="wide")
    run(settings)
    assert set(now(settings, "wide")) == {f"k{row}" for row in range(20) if row != 3}
    assert [row["failed_rules"] for row in refused(settings, "wide")] == [["has_type_c5"]]
