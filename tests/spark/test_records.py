"""Records from files to silver: what arrives, what is set aside and why, and what a run with nothing new costs."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import pytest

from pipelines.conductor.run import new_context, run_stages
from pipelines.flow.stage import Context
from pipelines.lakehouse.opening import open_lakehouse
from tests.support.recorded import ORDERS, RECORD_STAGES, now, put, refused, rows, run, settings_for, versions

HEADER = "order_id,updated_at,amount,note,op\n"


def _day(day: int) -> datetime:
    return datetime(2024, 1, day, tzinfo=timezone.utc)


@pytest.fixture
def settings(tmp_path, spark) -> Any:
    return settings_for(tmp_path, orders=ORDERS)


def test_one_delivery_of_many_kinds_of_records_and_what_became_of_each(settings, spark):
    huge = "x" * 3_000_000
    lines = [
        "a,2024-01-01,1,first,I",
        "a,2024-01-03,3,third,U",
        "a,2024-01-02,2,late in its file,U",
        "b,2024-01-01T02:00:00+02:00,10,another zone,I",
        "b,2024-01-05,,,D",
        "c,1066-10-14,7,before 1970,I",
        "d,+12024-01-01,7,after 9999,I",
        "e,2024-01-01,seven,no number,I",
        ",2024-01-01,7,no key,I",
        "g,2024-01-01,7,too,many,fields,I",
        "h,2024-01-01,8,same,I",
        "h,2024-01-01,8,same,I",
        f"i,2024-01-01,9,{huge},I",
        'j,2024-01-01,9,"a ""quoted"" word, and a comma",I',
        "k,,9,no instant,I",
        "l,2024-01-01,NaN,,I",
        # Nobody can tell what follows from the value: the last of the file, or all that is behind it goes with it.
        'f,2024-01-01,7,"a broken quote,I',
    ]
    put(settings, "1.csv", HEADER + "\n".join(lines) + "\n")
    put(settings, "empty.csv", "")
    put(settings, "header only.csv", HEADER)
    counts = run(settings)
    assert counts["ingest-records"] == {"records": 17, "files": 3, "columns": 0}
    assert counts["refine-records"]["set_aside"] == 7

    found = now(settings)
    assert set(found) == {"a", "c", "h", "i", "j"}
    assert found["a"] == {"order_id": "a", "updated_at": _day(3), "amount": 3, "note": "third"}
    assert found["c"]["updated_at"] == datetime(1066, 10, 14, tzinfo=timezone.utc)
    assert found["i"]["note"] == huge
    assert found["j"]["note"] == 'a "quoted" word, and a comma'

    why = {
        (row["record"][:25].split('"')[3] if '"order_id"' in row["record"] else ""): row for row in refused(settings)
    }
    assert why["d"]["failed_rules"] == ["has_type_updated_at", "has_updated_at"]
    assert why["e"]["failed_rules"] == ["has_type_amount"]
    assert "seven" in why["e"]["reason"]
    assert why["k"]["failed_rules"] == ["has_updated_at"]
    by_rule = sorted(row["failed_rules"][0] for row in refused(settings))
    assert by_rule == [
        *["has_key", "has_type_amount", "has_type_amount", "has_type_updated_at", "has_updated_at"],
        *["is_readable", "is_readable"],
    ]
    assert all(row["_source_file"] == "1.csv" for row in refused(settings))
    # The versions of a: in their order, whatever the file's was.
    history = [r for r in rows(settings, "silver.records_orders_history") if r["order_id"] == "a"]
    spans = sorted((r["valid_from"], r["valid_to"], r["amount"]) for r in history if r["valid_to"]) + [
        (r["valid_from"], None, r["amount"]) for r in history if r["is_current"]
    ]
    assert spans == [(_day(1), _day(2), 1), (_day(2), _day(3), 2), (_day(3), None, 3)]

    # Nothing new: no stage, no write, no Spark.
    before = versions(settings)

    def explode():
        raise AssertionError("a run with nothing to do asked for Spark")

    idle = new_context(settings)
    lake = open_lakehouse(settings, spark=explode)
    lake._declared.update(idle.lake._declared)
    assert run_stages(Context(settings, lake, idle.run_id), stages=RECORD_STAGES).stages == ()
    assert versions(settings) == before
