"""Rows of bronze under another contract: what they said before is in the columns of now, or is told of."""

from __future__ import annotations

import json

import pytest

from tests.support.recorded import now, put, refused, rows, run, settings_for
from transformations.tables.records import recovered
from transformations.tables.text_values import Reading


def test_names_that_differ_in_their_case_alone_stop_nothing_and_stay_told_of(spark):
    unknown = {"Foo": "1", "foo": "2", "Bar": "3"}
    bronze = spark.createDataFrame(
        [("a", None, json.dumps({"unknown": unknown}))], "k string, _texts map<string,string>, _rescued string"
    )
    (row,) = recovered(bronze, columns={"k": "string", "foo": "int", "bar": "int"}, is_text=True).collect()
    assert (row.k, row.foo, row.bar) == ("a", None, 3)
    assert json.loads(row._rescued) == {"unknown": {"Foo": "1", "foo": "2"}}


def test_a_renamed_column_has_the_values_texts_and_faults_of_its_former_names(spark):
    bronze = spark.createDataFrame(
        [
            ("a", 1, None, None, None),
            ("b", None, None, {"n": "02"}, None),
            ("c", None, None, None, json.dumps({"wrong_type": {"n": "x"}})),
            ("d", None, 4, None, None),
            ("e", None, None, None, json.dumps({"unknown": {"was N": "5"}})),
        ],
        "k string, n int, size int, _texts map<string,string>, _rescued string",
    )
    readings = {"size": Reading(source="was N")}
    for of, second in (("int", None), ("string", "02")):
        columns, given = {"k": "string", "size": of}, bronze.withColumn("size", bronze["size"].cast(of))
        found = recovered(given, columns=columns, readings=readings, is_text=True, earlier={"size": ["n"]}).collect()
        texts = ["1", second, None if of == "int" else "x", "4", "5"]
        assert [row["size"] for row in found] == [
            text if of == "string" or text is None else int(text) for text in texts
        ]
        wrong = [(json.loads(row._rescued) if row._rescued else {}).get("wrong_type") for row in found]
        assert wrong == ([None, {"size": "02"}, {"size": "x"}, None, None] if of == "int" else [None] * 5)


ORDERS = {"format": "json", "location": "orders", "key": ["k"]}


@pytest.mark.long
def test_a_column_renamed_in_the_contract_keeps_what_arrived_and_a_nested_one_becomes_its_json(tmp_path, spark):
    before = {"k": "string", "n": "int", "odd": {"type": "int", "from": "x"}, "many": "array<int>", "raw": "binary"}
    settings = settings_for(tmp_path, orders={**ORDERS, "columns": before})
    put(settings, "1.json", '{"k": "a", "n": 1, "x": 7, "many": [1, 2], "raw": "AQI="}\n')
    run(settings)
    # `odd` was read from x, and is no former name of what the source calls odd.
    after = {
        "k": "string",
        "size": {"type": "int", "from": "n"},
        "x": "int",
        "other": {"type": "int", "from": "odd"},
        "many": "string",
        "raw": "string",
    }
    settings = settings_for(tmp_path, orders={**ORDERS, "columns": after})
    put(settings, "2.json", '{"k": "b", "n": 2, "x": 8, "odd": 9, "many": "m", "raw": "r"}\n')
    run(settings)
    found = now(settings)
    values = {k: tuple(row[c] for c in ("size", "x", "other", "many", "raw")) for k, row in found.items()}
    assert values == {"a": (1, 7, None, "[1,2]", "AQI="), "b": (2, 8, 9, "m", "r")}
    bronze = {row["k"]: (row["many"], row["raw"]) for row in rows(settings, "bronze.records_orders")}
    assert bronze["a"] == ("[1,2]", "AQI=")
    assert refused(settings) == []


@pytest.mark.long
def test_what_the_settings_say_stops_the_run_and_no_file_is_blamed(tmp_path, spark, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("pipelines.settings.records.pattern_fault", lambda *_: None)
    columns = {"k": "string", "at": {"type": "timestamp", "format": "dd.MM.yyyy MMMMM"}}
    settings = settings_for(tmp_path, orders={**ORDERS, "columns": columns})
    for name in ("1.json", "2.json"):
        put(settings, name, '{"k": "a", "at": "01.01.2024"}\n')
    with pytest.raises(Exception, match=r"MMMMM|pattern"):
        run(settings)
    assert rows(settings, "bronze.records_orders") == []
