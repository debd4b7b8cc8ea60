"""Columns that change on the way: what each evolution makes of it, and how what was set aside comes back."""

from __future__ import annotations

import io
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.conductor.run import new_context
from tests.support.recorded import ORDERS, now, put, refused, rows, run, settings_for, versions
from transformations.errors import ExpectationFailedError

PLAIN = {
    "format": "parquet",
    "location": "p",
    "key": ["k"],
    "columns": {"k": "string", "amount": "int", "price": "decimal(10,2)", "note": "string"},
}
AMOUNTS = {"k": pa.string(), "amount": pa.int32(), "price": pa.decimal128(10, 2), "note": pa.string()}

WITHOUT_NOTE = {name: of for name, of in AMOUNTS.items() if name != "note"}


def _parquet(rows: list[dict[str, Any]], types: dict[str, pa.DataType]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=pa.schema(list(types.items()))), sink)
    return sink.getvalue()


@pytest.mark.long
def test_every_kind_of_change_in_parquet_under_evolve_and_quarantine(tmp_path, spark):
    evolving = {**PLAIN, "location": "e", "evolution": "evolve"}
    settings = settings_for(tmp_path, kept=PLAIN, evolving=evolving)
    price = Decimal("1.50")
    good = {"k": "a", "amount": 1, "price": price, "note": "as agreed"}
    files = {
        "0 as agreed": _parquet([good], AMOUNTS),
        "1 new": _parquet([{**good, "k": "new", "color": "red"}], {**AMOUNTS, "color": pa.string()}),
        "2 missing": _parquet([{"k": "missing", "amount": 2, "price": price}], WITHOUT_NOTE),
        "3 widened": _parquet(
            [{**good, "k": "fits", "amount": 3}, {**good, "k": "large", "amount": 3_000_000_000}],
            {**AMOUNTS, "amount": pa.int64()},
        ),
        "4 narrowed": _parquet([{**good, "k": "narrow", "amount": 4}], {**AMOUNTS, "amount": pa.int16()}),
        "5 changed": _parquet(
            [{**good, "k": "number", "amount": "5"}, {**good, "k": "word", "amount": "five"}],
            {**AMOUNTS, "amount": pa.string()},
        ),
        "6 inexact": _parquet([{**good, "k": "half", "amount": 0.5}], {**AMOUNTS, "amount": pa.float64()}),
        "7 nan": _parquet([{**good, "k": "nan", "amount": float("nan")}], {**AMOUNTS, "amount": pa.float64()}),
        "8 renamed": _parquet(
            [{"k": "renamed", "amuont": 8, "price": price, "note": "n"}],
            {"k": pa.string(), "amuont": pa.int32(), "price": AMOUNTS["price"], "note": pa.string()},
        ),
        "9 cut in half": _parquet([good] * 1000, AMOUNTS)[:200],
    }
    for name, content in files.items():
        for source in ("kept", "evolving"):
            put(settings, f"{name}.parquet", content, source=source)
    run(settings)

    kept = now(settings, "kept")
    assert set(kept) == {"a", "fits", "narrow", "number"}
    why = {row["_source_file"].split(".")[0]: row for row in refused(settings, "kept")}
    assert {name: row["failed_rules"] for name, row in why.items()} == {
        "1 new": ["has_known_columns"],
        "2 missing": ["has_all_columns"],
        "3 widened": ["has_type_amount"],
        "5 changed": ["has_type_amount"],
        "6 inexact": ["has_type_amount"],
        "7 nan": ["has_type_amount"],
        "8 renamed": ["has_known_columns", "has_all_columns"],
        "9 cut in half": ["is_readable"],
    }
    assert "did you mean 'amuont'" in why["8 renamed"]["reason"]
    assert "9 cut in half.parquet" in why["9 cut in half"]["reason"]

    evolved = now(settings, "evolving")
    assert set(evolved) == {"a", "new", "missing", "fits", "large", "narrow", "number", "renamed"}
    assert evolved["large"]["amount"] == 3_000_000_000
    assert (evolved["new"]["color"], evolved["a"]["color"]) == ("red", None)
    assert (evolved["renamed"]["amuont"], evolved["renamed"]["amount"]) == (8, None)
    assert {row["_source_file"][0] for row in refused(settings, "evolving")} == {"5", "6", "7", "9"}

    # Quarantine with replay: the contract learns what it did not know, and the rows pass the same door.
    columns = {**PLAIN["columns"], "color": "string", "amount": "bigint"}
    repaired = settings_for(tmp_path, kept={**PLAIN, "columns": columns}, evolving=evolving)
    arrived = len(rows(settings, "bronze.records_kept"))
    counts = run(repaired)
    assert "ingest-records" not in counts
    assert len(rows(settings, "bronze.records_kept")) == arrived
    assert now(repaired, "kept")["new"]["color"] == "red"
    assert now(repaired, "kept")["large"]["amount"] == 3_000_000_000
    closed = {row["_source_file"][0]: row for row in refused(repaired, "kept", is_open=False)}
    assert set(closed) == {"1", "3"}
    assert all(row["attempts"] == 1 and row["replayed_at"] for row in closed.values())
    assert run(repaired) == {}


@pytest.mark.long
def test_a_frozen_contract_stops_the_stage_and_nothing_is_written(tmp_path, spark):
    columns = {"order_id": "string", "updated_at": "timestamp", "amount": "int"}
    settings = settings_for(tmp_path, orders={**ORDERS, "columns": columns, "op": None, "evolution": "freeze"})
    put(settings, "1.csv", "order_id,updated_at,amount\na,2024-01-01,1\n")
    run(settings)
    bronze = versions(settings)["bronze.records_orders"]
    bad = put(settings, "2.csv", "order_id,updated_at,amuont\nb,2024-01-01,1\n")
    for _ in range(2):  # as often as it is tried
        with pytest.raises(ExpectationFailedError, match="did you mean 'amuont', which is new"):
            run(settings)
        assert versions(settings)["bronze.records_orders"] == bronze
    bad.write_text("order_id,updated_at,amount\nb,2024-01-01,1\n")
    run(settings)
    assert set(now(settings)) == {"a", "b"}
    assert refused(settings) == []


@pytest.mark.long
def test_json_lines_whose_form_changes_from_line_to_line_and_a_rule_that_stops(tmp_path, spark):
    source = {
        "format": "json",
        "location": "j",
        "key": ["k"],
        "order_by": ["seq"],
        "columns": {"k": "string", "seq": "int", "tags": "array<string>", "inner": "struct<a:int,b:struct<c:string>>"},
        "evolution": "evolve",
        "rules": [
            {"name": "is_not_forbidden", "predicate": "NOT k <=> 'forbidden'", "level": "fail"},
            {"name": "has_tags", "predicate": "size(tags) > 0", "level": "warn"},
        ],
    }
    settings = settings_for(tmp_path, events=source)
    lines = [
        '{"k": "a", "seq": 1, "tags": ["x", null], "inner": {"a": 1, "b": null}}',
        '{"k": "a", "seq": 2, "tags": null, "inner": null, "score": 1.5, "is_new": true, "more": {"deep": [1]}}',
        '{"k": "b", "seq": 3000000000, "tags": [], "n": 7}',
        '{"k": "c", "seq": "x"}',
        '{"k": "d", "seq": 1',
        '{"k": "e", "seq": 1, "inner": {"a": "no", "b": {"c": "x"}}}',
        "",
        '{"k": null, "seq": 1}',
    ]
    put(settings, "1 [odd] name+100%.jsonl", "\n".join(lines), source="events")
    counts = run(settings)
    assert counts["ingest-records"]["columns"] == 5
    found = now(settings, "events")
    assert set(found) == {"a", "b"}
    assert found["b"]["seq"] == 3_000_000_000
    assert (found["a"]["score"], found["a"]["is_new"], found["a"]["more"]) == (1.5, True, '{"deep":[1]}')
    first = [row for row in rows(settings, "silver.records_events_history") if row["seq"] == 1]
    assert first[0]["tags"] == ["x", None]
    assert first[0]["inner"] == {"a": 1, "b": None}
    broken = sorted(rule for row in refused(settings, "events") for rule in row["failed_rules"] if rule != "has_tags")
    assert broken == ["has_key", "has_seq", "has_type_inner", "has_type_seq", "is_readable"]
    assert refused(settings, "events")[0]["_source_file"] == "1 [odd] name+100%.jsonl"

    silver = {table: version for table, version in versions(settings).items() if table.startswith("silver")}
    put(settings, "2.jsonl", '{"k": "forbidden", "seq": 1}', source="events")
    with pytest.raises(ExpectationFailedError, match="is_not_forbidden"):
        run(settings)
    assert {t: v for t, v in versions(settings).items() if t.startswith("silver")} == silver
    judged = rows(settings, "monitoring.rule_results", "table_name", "rule", "failed_rows")
    assert {"table_name": "silver.records_events", "rule": "is_not_forbidden", "failed_rows": 1} in judged
    assert new_context(settings).lake.head("silver.records_events") is not None
