"""Texts as values: Python's own parsers say what each text is as each type, for many texts and types in one frame."""

from __future__ import annotations

import json
import re
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal, localcontext
from itertools import product
from typing import Any

import pytest

from transformations.tables.records import fit, recovered
from transformations.tables.text_values import Reading, is_null_text, pattern_fault, read_text

NUMBER = re.compile(r"[+-]?(?:(?:0|[1-9]\d*)(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d{1,4})?", re.ASCII)
RANGES = {"tinyint": 7, "smallint": 15, "int": 31, "bigint": 63}
UTC = timezone.utc


def _decimal(text: str, precision: int, scale: int) -> Decimal | None:
    if not NUMBER.fullmatch(text):
        return None
    with localcontext() as exact:
        exact.prec = 20_000
        value = Decimal(text)
        if value != 0 and not -60 < value.adjusted() < 60:
            return None
        is_exact = value == value.quantize(Decimal(1).scaleb(-scale)) and abs(value) < Decimal(10) ** (
            precision - scale
        )
        return value.quantize(Decimal(1).scaleb(-scale)) if is_exact else None


def _double(text: str) -> float | None:
    if re.fullmatch(r"(?i)[+-]?inf(inity)?|nan", text):
        return float(text)
    if not NUMBER.fullmatch(text):
        return None
    value = float(text)
    return value if Decimal(text) == Decimal(repr(value)) else None


def _int(text: str, bits: int) -> int | None:
    value = int(text) if re.fullmatch(r"[+-]?(0|[1-9]\d*)", text, re.ASCII) else None
    return value if value is not None and -(2**bits) <= value < 2**bits else None


def _date(text: str) -> date | None:
    try:
        return date.fromisoformat(text) if re.fullmatch(r"\d{4}-\d\d-\d\d", text, re.ASCII) else None
    except ValueError:
        return None


def _instant(text: str) -> datetime | None:
    found = re.fullmatch(
        r"(\d{4}-\d\d-\d\d)(?:[T ](\d\d:\d\d)(:\d\d(?:\.\d{1,6}(?=0*)0*)?)?(?: ?(Z|UTC|[+-]\d\d(?::?\d\d)?))?)?",
        text,
        re.ASCII,
    )
    if found is None:
        return None
    day, clock, second, zone = found.groups()
    second = (second or ":00")[:10]
    zone = "+00:00" if zone in (None, "Z", "UTC") else zone
    zone = f"{zone[:3]}:{zone[3:].lstrip(':') or '00'}"
    try:
        value = datetime.fromisoformat(f"{day}T{clock or '00:00'}{second}{zone}")
        offset = value.utcoffset()
        assert offset is not None
        return value.astimezone(UTC) if abs(offset) <= timedelta(hours=18) else None
    except (ValueError, OverflowError):
        return None


def _boolean(text: str) -> bool | None:
    said = text.lower()
    return True if said in ("true", "t", "yes", "y", "1") else False if said in ("false", "f", "no", "n", "0") else None


ORACLES: dict[str, Any] = {
    **{name: (lambda text, bits=bits: _int(text, bits)) for name, bits in RANGES.items()},
    "decimal(10,2)": lambda text: _decimal(text, 10, 2),
    "decimal(38,18)": lambda text: _decimal(text, 38, 18),
    "decimal(5,0)": lambda text: _decimal(text, 5, 0),
    "double": _double,
    "boolean": _boolean,
    "date": _date,
    "timestamp": _instant,
}


def _texts() -> list[str]:
    wholes = ["0", "1", "-1", "+5", "01234", "007", "127", "128", "-128", "-129", "32768", "2147483647", "2147483648"]
    wholes += ["9223372036854775807", "9223372036854775808", "-9223372036854775808", "99999999", "100000000", "-0"]
    fractions = ["", ".", ".0", ".5", ".239", ".23", ".2300", ".995", ".7891", ".000000000000000001", "." + "3" * 30]
    exponents = ["", "e0", "e2", "E-2", "e400", "e-400", "e10000", "e+3"]
    numbers = [w + f + e for w, f, e in product(wholes, fractions, exponents)]
    numbers += [
        "1234567890123456.7891",
        "0.1",
        "1e23",
        "2e22",
        "9007199254740993",
        ".5",
        "5.",
        ".",
        "-",
        "1e",
        "e5",
        "--1",
    ]
    numbers += ["1d", "1f", "1L", "0x10", "1_000", "1,000", "1 000", "\u0661", "1\n", "1.7976931348623157e308", "1e309"]
    numbers += [
        "NaN",
        "nan",
        "Infinity",
        "-inf",
        "Inf",
        "infinit",
        "1e-300",
        "123456789012345e-20",
        "9.9999999999999999",
    ]
    days = [
        "2024-01-02",
        "2024-02-30",
        "2023-02-29",
        "2024-02-29",
        "1900-02-29",
        "0001-01-01",
        "0000-01-01",
        "9999-12-31",
    ]
    days += ["2024", "2024-1-2", "2024-01", "20240102", "2024-01-02 junk", "12024-01-01", "+12024-01-01", "-0001-01-01"]
    days += [
        "2024-13-01",
        "2024-00-10",
        "1066-10-14",
        "1582-10-10",
        "02.01.2024",
        "2024/01/02",
        "08:15:00",
        "2024-01-02T",
    ]
    clocks = [
        "08:15",
        "08:15:00",
        "08:15:00.123456",
        "08:15:00.1234567",
        "08:15:00.1234560000",
        "24:00:00",
        "23:59:60",
        "8:15",
    ]
    clocks += ["08:15:00,5", "08:15:00.", "08:60:00", "23:59:59.999999"]
    zones = [
        "",
        "Z",
        "z",
        " Z",
        "UTC",
        " UTC",
        "+02:00",
        "+0200",
        "-11",
        " +02:00",
        "+19:00",
        "-18:00",
        "[Europe/Paris]",
        " CET",
    ]
    instants = [f"{d}T{c}{z}" for d, c, z in product(("2024-01-02", "0001-01-01", "9999-12-31"), clocks, zones)]
    instants += [f"{d}{t}08:15:00+02:00" for d, t in product(days, ["T", " ", "t", "  "])]
    words = [
        "",
        "true",
        "TRUE",
        "t",
        "Yes",
        "no",
        "y",
        "n",
        "on",
        "off",
        "null",
        "None",
        "x" * 50,
        "é",
        "\x00",
        "today",
    ]
    return list(dict.fromkeys([*numbers, *days, *instants, *words, " 5", "5 ", "\t5", " 2024-01-02 ", "5\n", "now"]))


def _same(one: Any, other: Any) -> bool:
    return one == other or (one is not None and one != one and other != other)


def test_every_text_is_of_every_type_what_pythons_parsers_say_and_comes_back_as_it_was(spark):
    texts = _texts()
    types = {f"c{n}": of for n, of in enumerate(ORACLES)}
    arrived = [(text, None, None, dict.fromkeys(types, text)) for text in texts]
    record = ", ".join(f"{name}: string" for name in types)
    ddl = f"text string, _unreadable string, _unknown map<string,string>, _record struct<{record}>"
    rows = spark.createDataFrame(arrived, ddl)
    fitted = fit(rows, columns=types, arriving=dict.fromkeys(types, "string"))
    # As a later contract that knows them as texts: each as it came, whether it was a value or not.
    later = recovered(fitted, columns=dict.fromkeys(types, "string"), is_text=True)
    # By Arrow: Python's own rows hold instants as times of the process's zone.
    both = fitted.toArrow().to_pylist(), later.toArrow().to_pylist()
    wrong = []
    for row, after in zip(*both, strict=True):
        said = json.loads(row["_rescued"] or "{}").get("wrong_type", {})
        for name, of in types.items():
            text = row["text"]
            expected = ORACLES[of](text.strip(" \t"))
            found = row[name]
            found = found.astimezone(UTC) if isinstance(found, datetime) else found
            if not _same(found, expected) or (said.get(name) != (text if expected is None else None)):
                wrong.append((text, of, found, expected, said.get(name)))
            assert after[name] == text, (text, of)
    assert not wrong, f"{len(wrong)} differ: {wrong[:20]}"


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


def test_what_is_read_again_under_another_contract_is_what_a_first_reading_gives(spark):
    texts = [
        "1",
        "01234",
        "1.50",
        "1.505",
        "NA",
        "02.01.2024",
        "2024-01-02",
        "1.234,5",
        "x",
        "true",
        "1e2",
        None,
        "[1, 2]",
    ]
    contracts: list[tuple[str, Reading]] = [
        ("string", Reading()),
        ("int", Reading()),
        ("decimal(10,2)", Reading()),
        ("double", Reading(null_texts=("NA",))),
        ("date", Reading(format="dd.MM.yyyy")),
        ("date", Reading(format="MM.dd.yyyy")),
        ("decimal(12,3)", Reading(thousands_mark=".", decimal_mark=",")),
        ("timestamp", Reading()),
        ("boolean", Reading()),
        ("array<int>", Reading()),
    ]
    from pyspark.sql import functions as F

    names = [f"c{n}" for n in range(len(contracts))]
    record = ", ".join(f"{name}: string" for name in names)
    ddl = f"t string, _unreadable string, _unknown map<string,string>, _record struct<{record}>"
    rows = spark.createDataFrame([(t, None, None, dict.fromkeys(names, t)) for t in texts], ddl)

    def contract(shift: int) -> dict[str, Any]:
        wanted = {name: contracts[(n + shift) % len(contracts)] for n, name in enumerate(names)}
        return {
            "columns": {name: of for name, (of, _) in wanted.items()},
            "readings": {name: reading for name, (_, reading) in wanted.items()},
        }

    arriving = dict.fromkeys(names, "string")
    first = fit(rows, **contract(0), arriving=arriving)
    frames = None
    for shift in (1, 4):
        again = recovered(first, **contract(shift), is_text=True)
        fresh = fit(rows, **contract(shift), arriving=arriving)
        for kind, frame in (("again", again), ("fresh", fresh)):
            said = frame.select(
                F.lit(shift).alias("shift"),
                F.lit(kind).alias("kind"),
                "t",
                F.to_json(F.struct(*names)).alias("values"),
                "_rescued",
            )
            frames = said if frames is None else frames.unionByName(said)
    assert frames is not None
    told: dict[Any, dict[str, Any]] = {}
    for shift, kind, text, values, rescued in (row.values() for row in frames.toArrow().to_pylist()):
        told.setdefault((shift, text), {})[kind] = (values, rescued)
    assert not [(key, one) for key, one in told.items() if one["again"] != one["fresh"]][:10]
