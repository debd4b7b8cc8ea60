"""Spark and delta-rs write and read the same tables: over all types and their edges they must see the same values."""

from __future__ import annotations

import struct
from datetime import date, datetime, timezone
from decimal import Decimal
from typing import Any

import deltalake
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from pipelines.lakehouse.schemas.spec import TIMESTAMP, TableSpec
from pipelines.lakehouse.tables import Lakehouse

NAN, INF = float("nan"), float("inf")


def _at(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=timezone.utc)  # type: ignore[misc, arg-type]


INSTANTS = [
    _at(1, 1, 1), _at(1066, 10, 14, 1, 2, 3, 4), _at(1582, 10, 10), _at(1677, 9, 21, 0, 12, 43), _at(1816, 3, 29),
    _at(1969, 12, 31, 23, 59, 59, 999999), _at(2024, 1, 1, 0, 0, 0, 123456), _at(2024, 1, 1, 0, 0, 0, 123999),
    _at(2262, 4, 11, 23, 47, 17, 1), _at(9999, 12, 31, 23, 59, 59, 999999), None,
]  # fmt: skip
TEXTS = [
    "", "a'b", "a''b", "a\\'b", "\\", "\\n", "nul\0", "nul\0x", '"q"', "`b`", "%_", " pad ", "line\nfeed\r\t", "/*",
    "--;", "e\u0301", "\u00e9", "\U0010ffff" * 40, "\ud7ff" * 33, "x" * 31 + "\U0001f600y", "\x7f" * 40, "NULL", None,
]  # fmt: skip
DAYS = [date(1, 1, 1), date(1500, 2, 28), date(1582, 10, 4), date(1582, 10, 5), date(1582, 10, 14), date(9999, 12, 31)]
PAIR = pa.struct([("x", pa.int32()), ("f", pa.float64()), ("at", TIMESTAMP)])
TYPES: dict[str, tuple[pa.DataType, list[Any]]] = {
    "flag": (pa.bool_(), [True, False, None]),
    "byte": (pa.int8(), [-128, 127, None]),
    "short": (pa.int16(), [-(2**15), 2**15 - 1]),
    "int": (pa.int32(), [-(2**31), 2**31 - 1, None]),
    "long": (pa.int64(), [-(2**63), 2**63 - 1, 2**53 + 1, None]),
    "float": (pa.float32(), [NAN, -0.0, INF, -INF, 1e-45, 3.4028235e38, None]),
    "double": (pa.float64(), [NAN, -0.0, 0.0, INF, 5e-324, 1.7976931348623157e308, None]),
    "all_scale": (pa.decimal128(38, 38), [Decimal("0." + "9" * 38), Decimal("-0." + "9" * 38), Decimal(0), None]),
    "no_scale": (pa.decimal128(38, 0), [Decimal("9" * 38), Decimal("-" + "9" * 38), Decimal(2**53 + 1)]),
    "small": (pa.decimal128(9, 2), [Decimal("9999999.99"), Decimal("-0.01"), None]),
    "middle": (pa.decimal128(18, 3), [Decimal("999999999999999.999"), Decimal("9007199254740.993"), None]),
    "Text of any": (pa.string(), TEXTS),
    "bytes": (pa.binary(), [b"", b"\0\xff", b"'", b"\xff" * 40, None]),
    "day": (pa.date32(), [*DAYS, None]),
    "at": (TIMESTAMP, INSTANTS),
    "texts": (pa.list_(pa.string()), [[], [None], ["", None, "x"], None]),
    "instants": (pa.list_(TIMESTAMP), [[_at(9999, 12, 31), None, _at(1, 1, 1)], [], None]),
    "numbers": (pa.list_(pa.float32()), [[NAN, -0.0, None], [], None]),
    "map": (pa.map_(pa.string(), pa.int64()), [[], [("", None), ("k", 1)], None]),
    "dated": (pa.map_(pa.string(), TIMESTAMP), [[("k", _at(9999, 12, 31)), ("n", None)], None]),
    "pair": (PAIR, [{"x": None, "f": None, "at": None}, {"x": 1, "f": NAN, "at": _at(9999, 12, 31)}, None]),
    "pairs": (pa.list_(PAIR), [[None, {"x": None, "f": -0.0, "at": _at(1066, 1, 1)}], [], None]),
    "deep": (
        pa.struct([("pair", PAIR), ("list", pa.list_(pa.int32())), ("map", pa.map_(pa.string(), pa.int32()))]),
        [{"pair": None, "list": None, "map": None}, {"pair": {"x": None}, "list": [], "map": []}, None],
    ),
    "lists": (pa.map_(pa.string(), pa.list_(pa.decimal128(38, 10))), [[("a", [Decimal(1), None]), ("b", None)], None]),
    "nested": (pa.list_(pa.list_(pa.int32())), [[[], None, [1, None]], None]),
}
COUNT = max(len(values) for _, values in TYPES.values())
TYPES = {("text" if name == "Text of any" else name): of for name, of in TYPES.items()}
SCHEMA = pa.schema([("Id", pa.int64()), *((name, of) for name, (of, _) in TYPES.items())])
ROWS = pa.table(
    [pa.array(range(COUNT), pa.int64())]
    + [pa.array([values[n % len(values)] for n in range(COUNT)], of) for of, values in TYPES.values()],
    schema=SCHEMA,
)
SPEC = TableSpec(SCHEMA, key=("Id",), change_feed=True)


def _bits(value: Any) -> Any:
    """A value that is equal to no other: -0.0 is not 0.0, and NaN is NaN."""
    if isinstance(value, float):
        return "NaN" if value != value else struct.pack("<d", value)
    if isinstance(value, dict):
        return {name: _bits(of) for name, of in value.items()}
    if isinstance(value, list | tuple):
        return [_bits(of) for of in value]
    return value


def _said(rows: pa.Table, *more: str) -> list[str]:
    """The rows as texts, in an order of their own; with columns of a change feed where named."""
    schema = pa.schema([*SCHEMA, *((c, pa.int64() if c.endswith("version") else pa.string()) for c in more)])
    return sorted(repr(_bits(row)) for row in rows.select(schema.names).cast(schema).to_pylist())


def _changes(rows: pa.Table, op: str) -> pa.Table:
    return rows.append_column("_op", pa.array([op] * rows.num_rows, pa.string()))


EXPECTED = _said(ROWS)


def _written(lake: Lakehouse, writer: str) -> str:
    table = f"silver.by_{writer}"
    lake.declare(table, SPEC)
    if writer == "spark":
        lake.append(table, lake.frame(ROWS))
    else:
        lake.append_arrow(table, ROWS)
    return table


def _both_see(lake: Lakehouse, table: str, expected: list[str]) -> None:
    assert _said(lake.read_arrow(table)) == expected, "delta-rs"
    assert _said(lake.read(table).toArrow()) == expected, "Spark"


@pytest.mark.parametrize("writer", [pytest.param("spark", marks=pytest.mark.long), "delta_rs"])
def test_what_one_engine_writes_and_delta_rs_rewrites_beside_a_change_is_the_same_to_both(lake: Lakehouse, writer: str):
    table = _written(lake, writer)
    _both_see(lake, table, EXPECTED)
    lake.merge_arrow(table, _changes(ROWS.slice(0, 1), "update"))  # delta-rs writes all rows of the file anew
    _both_see(lake, table, EXPECTED)
    lake.merge_arrow(table, _changes(ROWS, "update"))
    _both_see(lake, table, EXPECTED)
    head = lake.head(table)
    assert head is not None
    feed = _said(lake.read_changes(table, after=1, until=head.version).toArrow(), "_change_type", "_commit_version")
    delta = deltalake.DeltaTable(str(lake.folder(table)))
    assert feed == _said(pa.table(delta.load_cdf(starting_version=2)), "_change_type", "_commit_version")
    assert len(feed) == 2 + 2 * COUNT


@pytest.mark.long
def test_what_spark_rewrites_and_deletes_is_the_same_to_both(lake: Lakehouse):
    tables = [_written(lake, writer) for writer in ("spark", "delta_rs")]
    for table in tables:
        lake.merge(table, lake.frame(_changes(ROWS.slice(0, 1), "update")))
        _both_see(lake, table, EXPECTED)
        lake.merge(table, lake.frame(_changes(ROWS.slice(3, 2), "delete")))
        kept = _said(pa.concat_tables([ROWS.slice(0, 3), ROWS.slice(5)]))
        _both_see(lake, table, kept)


def test_a_text_finds_and_deletes_the_rows_that_hold_it_and_no_other(lake: Lakehouse):
    table = _written(lake, "spark")
    texts = ROWS["text"].to_pylist()
    for text in filter(lambda text: text is not None, TEXTS):
        places = [place for place, other in enumerate(texts) if other == text]
        found = lake.read_arrow(table, columns=["Id"], where={"text": text})["Id"].to_pylist()
        assert sorted(found) == places, repr(text)
    odd = ["a\\'b", "nul\0x", "\\n"]
    found = [row["Id"] for row in lake.read_keys(table, "text", odd).select("Id").collect()]
    assert sorted(found) == [place for place, other in enumerate(texts) if other in odd]
    by_spark = [text for text in TEXTS if text is not None]
    for text in by_spark[:8]:
        assert lake.delete(table, {"text": [text]}) == texts.count(text), repr(text)
    assert lake.delete(table, {"text": by_spark}) == COUNT - texts.count(None) - sum(map(texts.count, by_spark[:8]))
    assert lake.read_arrow(table, columns=["text"])["text"].to_pylist() == [None] * texts.count(None)


@pytest.mark.long
def test_files_that_are_put_together_hold_the_same_values_for_both_engines(lake: Lakehouse):
    """Files of both in one table, rows gone by a deletion vector; by no statistics is a row passed over."""
    from pyspark.sql import functions as F

    table = _written(lake, "spark")
    lake.append_arrow(table, ROWS)
    lake.set_properties(table, {"delta.enableDeletionVectors": "true"})
    lake.append(table, lake.frame(ROWS))
    gone = [0, 7]
    lake.spark.sql(f"DELETE FROM {lake.identifier(table)} WHERE Id IN (0, 7)")
    kept = ROWS.filter(pc.invert(pc.is_in(ROWS["Id"], pa.array(gone, pa.int64()))))
    _both_see(lake, table, sorted(_said(kept) * 3))
    files = lake.file_count(table)
    assert lake.compact(table) == files > 2
    assert lake.file_count(table) == 1
    _both_see(lake, table, sorted(_said(kept) * 3))
    rows, held = lake.read(table), lake.read_arrow(table)
    for name in KEYS:
        value = ROWS[name][5].as_py()
        found = rows.where(F.col(name).eqNullSafe(F.lit(value).cast(rows.schema[name].dataType))).count()
        assert found == held[name].to_pylist().count(value), name


KEYS = ("Id", "text", "day", "at", "all_scale", "no_scale", "middle", "bytes", "long", "flag")


@pytest.mark.long
def test_a_merge_finds_every_row_by_keys_of_any_type_whoever_wrote_its_statistics(lake: Lakehouse):
    """One file a row: each edge is the least and the greatest value of a file, by which it may be left unread."""
    spec = TableSpec(pa.schema([*(SCHEMA.field(k) for k in KEYS), ("value", pa.float64())]), KEYS, change_feed=True)
    base = ROWS.select(KEYS)

    def valued(value: float) -> pa.Table:
        return base.append_column("value", pa.array([value] * COUNT, pa.float64()))

    for writer in ("spark", "delta_rs"):
        for merger in ("spark", "delta_rs"):
            table = f"silver.{writer}_{merger}"
            lake.declare(table, spec)
            if writer == "spark":
                lake.append(table, lake.frame(valued(0.0)).repartitionByRange(COUNT, "Id"))
            else:
                for place in range(COUNT):
                    lake.append_arrow(table, valued(0.0).slice(place, 1))
            changes = _changes(valued(1.0), "update")
            if merger == "spark":
                lake.merge(table, lake.frame(changes))
            else:
                lake.merge_arrow(table, changes)
            found = lake.read_arrow(table).sort_by("Id")
            assert found.num_rows == COUNT, f"{merger} took rows of {writer} for new ones"
            assert found.to_pylist() == valued(1.0).to_pylist(), (writer, merger)
            assert lake.read(table).where("Id = 0 OR value > 0").count() == COUNT


def test_nan_minus_zero_and_null_are_one_key_each_and_nan_is_found_whoever_wrote_it(lake: Lakehouse):
    spec = TableSpec(pa.schema([("key", pa.float64()), ("name", pa.string()), ("n", pa.int64())]), ("key", "name"))
    lake.declare("silver.keyed", spec)
    keys = pa.table({"key": [NAN, -0.0, 1.0, None], "name": ["a", "b", None, None]})
    lake.append_arrow("silver.keyed", keys.append_column("n", pa.array([0] * 4, pa.int64())))
    assert lake.read("silver.keyed").where("key > 1").count() == 1, "to Spark, NaN is the greatest number"
    large = pa.schema([("key", pa.decimal128(38, 0)), ("name", pa.string())])
    lake.declare("silver.large", TableSpec(large, ("key",)))
    lake.append_arrow("silver.large", [{"key": Decimal("9" * 38), "name": "a"}])
    assert lake.read("silver.large").where(f"key = {'9' * 38}BD").count() == 1, "by its statistics it is left unread"
    again = pa.table({"key": [-NAN, 0.0, 1.0, None], "name": ["a", "b", None, None], "n": [1] * 4})
    lake.merge_arrow("silver.keyed", _changes(again, "update"))
    assert lake.read_arrow("silver.keyed")["n"].to_pylist() == [1] * 4


@pytest.mark.long
def test_files_in_the_old_form_of_instants_are_read_and_rewritten_right(lake: Lakehouse):
    """As an earlier version, or another session of Spark, wrote them."""
    for table, instants in {"silver.far": INSTANTS, "silver.near": [_at(2024, 1, 1, 0, 0, 0, 123456), None]}.items():
        schema = pa.schema([("Id", pa.int64()), ("pair", pa.list_(PAIR)), ("s", pa.string())])
        lake.declare(table, TableSpec(schema, key=("Id",), change_feed=True))
        pairs = [[{"x": n, "f": 0.5, "at": at}] for n, at in enumerate(instants)]
        rows = pa.table({"Id": range(len(pairs)), "pair": pairs, "s": ["a"] * len(pairs)}, schema=schema)
        session = lake.spark
        session.conf.set("spark.sql.parquet.outputTimestampType", "INT96")
        try:
            lake.append(table, lake.frame(rows))
        finally:
            session.conf.set("spark.sql.parquet.outputTimestampType", "TIMESTAMP_MICROS")
        expected = [_bits(row) for row in rows.to_pylist()]

        def found(table: str = table) -> list[Any]:
            return [_bits(row) for row in lake.read_arrow(table).sort_by("Id").to_pylist()]

        assert found() == expected
        assert lake.read_keys(table, "s", ["a"]).count() == len(pairs)
        lake.merge_arrow(table, _changes(rows.slice(0, 1), "update"))
        assert found() == expected
        more = rows.slice(0, 1).set_column(0, "Id", pa.array([99], pa.int64())).set_column(2, "s", pa.array(["b"]))
        lake.merge_arrow(table, _changes(more, "insert"))
        assert lake.delete(table, {"s": ["b"]}) == 1
        assert found() == expected
