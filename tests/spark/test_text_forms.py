"""Texts in forms of a column's own: what each reading makes of them, and which patterns may be given."""

from __future__ import annotations

from datetime import date, datetime, timezone
from decimal import Decimal
from typing import Any

import pytest

from transformations.tables.text_values import Reading, is_null_text, pattern_fault, read_text

UTC = timezone.utc
READINGS: list[tuple[str, Reading, dict[str, Any]]] = [
    (
        "decimal(10,2)",
        Reading(thousands_mark=".", decimal_mark=","),
        {"1.234,50": Decimal("1234.50"), "1234,5": Decimal("1234.50"), "1.5": None, "1.23.456": None, "12.345": 12345},
    ),
    ("int", Reading(thousands_mark="'"), {"1'234'567": 1234567, "1234567": 1234567, "1'23": None, "'123": None}),
    ("double", Reading(decimal_mark=","), {"1,5e3": 1500.0, "1.5": None, "0,1": 0.1}),
    (
        "date",
        Reading(format="dd.MM.yyyy"),
        {"31.01.2024": date(2024, 1, 31), "31.02.2024": None, "1.1.2024": None, "2024-01-31": None, "31.01.0000": None},
    ),
    ("date", Reading(format="d MMM yyyy"), {"5 Jan 1066": date(1066, 1, 5), "5 Jan 1066 x": None}),
    (
        "timestamp",
        Reading(format="dd.MM.yyyy HH:mm"),
        {"31.01.2024 10:30": datetime(2024, 1, 31, 10, 30, tzinfo=UTC), "31.01.2024": None},
    ),
    (
        "timestamp",
        Reading(format="yyyy-MM-dd'T'HH:mm:ssXXX"),
        {"2024-01-31T10:30:00+02:00": datetime(2024, 1, 31, 8, 30, tzinfo=UTC), "2024-01-31T10:30:00": None},
    ),
    (
        "timestamp",
        Reading(format="milliseconds"),
        {"1700000000123": datetime(2023, 11, 14, 22, 13, 20, 123000, tzinfo=UTC), "1.5": None, "9" * 18: None},
    ),
    ("int", Reading(null_texts=("NA", "-")), {"NA": None, "-": None, "na": None, "7": 7}),
    ("string", Reading(null_texts=("NA",)), {"NA": None, "x": "x"}),
    ("binary", Reading(), {"aGk=": b"hi", "aGk": None, "aGl=": None, "!": None}),
    (
        "array<int>",
        Reading(),
        {"[1,null]": [1, None], "[1.5]": None, "[1] x": None, "[1]}{": None, "1": None, "[]": []},
    ),
    (
        "struct<a:decimal(20,4),b:string>",
        Reading(),
        {
            '{"a": 1234567890123456.7891, "b": "x"}': {"a": Decimal("1234567890123456.7891"), "b": "x"},
            '{"a": 1.23456}': None,
            '{"A": 1}': None,
            '{"a": 1, "c": 2}': None,
            '{"a": 1, "a": 2}': None,
            '{"b": 1.50}': {"a": None, "b": "1.50"},
            '{"b": [1.50]}': None,
            '{"b": "[1.50]"}': {"a": None, "b": "[1.50]"},
            "{'a': 1}": None,
            "{}": {"a": None, "b": None},
        },
    ),
    (
        "map<string,array<struct<t:timestamp>>>",
        Reading(),
        {
            '{"k": [{"t": "2024-01-01"}, null], "l": []}': {
                "k": [{"t": datetime(2024, 1, 1, tzinfo=UTC)}, None],
                "l": [],
            },
            '{"k": [{"t": "08:15:00"}]}': None,
            '{"k": 1}': None,
        },
    ),
]


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.astimezone(UTC)
    if isinstance(value, list) and value and isinstance(value[0], tuple):
        return {name: _plain(one) for name, one in value}  # a map, as Arrow gives it
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return {name: _plain(one) for name, one in value.items()} if isinstance(value, dict) else value


@pytest.mark.parametrize("zone", ["UTC", "America/New_York"])
def test_a_columns_own_forms_and_nested_values_whatever_the_sessions_zone(spark, zone):
    from pyspark.sql import functions as F

    rows = [(n, text) for n, (_, _, cases) in enumerate(READINGS) for text in cases]
    frame = spark.createDataFrame(rows, "n int, text string")
    values = [read_text(F.col("text"), of, reading) for of, reading, _ in READINGS]
    spark.conf.set("spark.sql.session.timeZone", zone)
    try:
        columns = [F.when(F.col("n") == n, value).alias(f"v{n}") for n, value in enumerate(values)]
        nulls = is_null_text(F.col("text"), Reading(null_texts=("NA", "-")))
        found = frame.select("n", "text", nulls.alias("is_null"), *columns).toArrow().to_pylist()
    finally:
        spark.conf.set("spark.sql.session.timeZone", "UTC")
    told = {(row["n"], row["text"]): _plain(row[f"v{row['n']}"]) for row in found}
    assert told == {(n, text): value for n, (_, _, cases) in enumerate(READINGS) for text, value in cases.items()}
    assert {row["text"] for row in found if row["is_null"]} == {"NA", "-"}


@pytest.mark.parametrize(
    ("pattern", "of", "told"),
    [
        ("HH:mm", "timestamp", "a year, a month and a day"),
        ("MM.yyyy", "date", "a year, a month and a day"),
        ("dd.MM.yyyy HH:mm", "date", "it has a time"),
        ("yyyy-MM-dd HH:mm:ss.SSSSSSSSS", "timestamp", "six digits"),
        ("YYYY-MM-dd", "date", "mean nothing here"),
        ("seconds", "date", "say an instant"),
        ("uuuu-MM-dd", "date", "mean nothing here"),
        ("E dd.MM.yyyy", "date", "mean nothing here"),
        ("dd MMMMM yyyy", "date", "mean nothing here"),
        ("yyyyyyy-MM-dd", "date", "mean nothing here"),
        ("yyyy-MM-ddd", "date", "mean nothing here"),
        ("yyyy-MM-dd{", "date", "mean nothing here"),
        ("dd.MM.yyyy 'um", "date", "no other end"),
        ("dd.MM.yyyy]", "date", "no other end"),
        ("dd.MM[.yyyy]", "date", "a year, a month and a day"),
        ("yyyyMMdd", "date", None),
        ("yyyy-MM-dd[ HH:mm[:ss]]", "timestamp", None),
        ("dd.MM.yyyy '' '{E'", "date", None),
        ("dd. MMMM yyyy 'um' HH:mm", "timestamp", None),
    ],
)
def test_a_pattern_that_would_lose_a_part_of_a_value_is_refused(pattern, of, told):
    fault = pattern_fault(pattern, of)
    assert fault is None if told is None else told in str(fault)


def test_spark_takes_every_letter_that_a_pattern_may_have_as_often_as_it_may(spark):
    from pyspark.sql import functions as F

    runs = {"y": 8, "M": 6, "L": 6, "D": 4, "a": 3, "S": 8, "z": 6, "V": 4, "O": 5}
    runs |= dict.fromkeys("dHhKkms", 4) | dict.fromkeys("XxZ", 7) | dict.fromkeys("GuYwWEeFQqcABnNp#{}", 2)
    texts = [f"yyyy-MM-dd D {letter * n}" for letter, most in runs.items() for n in range(1, most)]
    texts += ["dd.MM.yyyy 'um", "dd.MM.yyyy '' yyyy", "dd.MM.yyyy]", "yyyy-MM-dd[ HH:mm[:ss]]", "'E' yyyy-MM-dd"]
    good = [text for text in texts if pattern_fault(text, "timestamp") is None]
    assert 40 < len(good) < len(texts)
    values = [read_text(F.col("text"), "timestamp", Reading(format=text)) for text in good]
    rows = spark.createDataFrame([("no instant",)], "text string").select(*values)
    assert rows.collect() == [(None,) * len(good)]
