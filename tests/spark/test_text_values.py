"""Texts as values: Python's own parsers say what each text is as each type, for many texts and types in one frame."""

from __future__ import annotations

import json
import re
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal, localcontext
from itertools import product
from typing import Any

from transformations.tables.records import fit, recovered
from transformations.tables.text_values import Reading

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
