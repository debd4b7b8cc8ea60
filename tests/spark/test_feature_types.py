"""Every aggregate over every type against exact arithmetic by hand; what cannot be aggregated; what is left out."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pyarrow as pa
import pytest
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from pipelines.conductor.run import run_stages
from pipelines.conductor.stages import stage_named
from pipelines.features.feature_tables import table_spec_of, typed
from pipelines.features.training_set import Lookup, cut
from pipelines.flow.stage import Context
from pipelines.lakehouse.schemas.spec import LONG, STRING, TIMESTAMP, TableSpec
from tests.support.feature_tables import SHORT_LIVED
from transformations.errors import ConfigurationError
from transformations.features.feature_table import Aggregate, FeatureTable, feature_rows
from transformations.features.point_in_time import Features, as_of_join

HOUR = timedelta(hours=1)
START = datetime(1969, 12, 31, 22, tzinfo=timezone.utc)
NAN, INF = float("nan"), float("inf")
NUMBERS: dict[str, tuple[pa.DataType, list[Any]]] = {
    "tiny": (pa.int8(), [-128, 127, 0, None]),
    "short": (pa.int16(), [-(2**15), 2**15 - 1, None]),
    "int.dotted": (pa.int32(), [-(2**31), 2**31 - 1, None]),
    "long": (pa.int64(), [2**63 - 1, 2**63 - 1, -(2**63), 2**53 + 1, None]),
    "float": (pa.float32(), [NAN, -0.0, 1.5, 3.25, None]),
    "double": (pa.float64(), [NAN, 0.5, 2.25, -1e15, None]),
    "money": (pa.decimal128(9, 2), [Decimal("9999999.99"), Decimal("-0.01"), None]),
    "large": (pa.decimal128(28, 10), [Decimal("9" * 18 + "." + "9" * 10), Decimal("0.0000000001"), None]),
}
ORDERED: dict[str, tuple[pa.DataType, list[Any]]] = {
    "flag": (pa.bool_(), [True, False, None]),
    "text": (pa.string(), ["", "a", "B", "é", "\U0001f600", "\uffff", None]),
    "bytes": (pa.binary(), [b"", b"\xff", b"a", None]),
    "day": (pa.date32(), [date(1, 1, 1), date(1582, 10, 10), date(9999, 12, 31), None]),
    "seen_at": (
        TIMESTAMP,
        [datetime(1, 1, 1, tzinfo=timezone.utc), datetime(9999, 12, 31, 23, 59, 59, 999999, timezone.utc), None],
    ),
    "full": (pa.decimal128(38, 0), [Decimal("9" * 38), Decimal(1), None]),
}
ALL = {**NUMBERS, **ORDERED}
SCHEMA = pa.schema(
    [("a.b", STRING), ("at", TIMESTAMP), ("known", TIMESTAMP), *((name, of) for name, (of, _) in ALL.items())]
)


def _aggregates() -> tuple[Aggregate, ...]:
    made = []
    for column in ALL:
        functions = ("count", "min", "max", *(("sum", "mean") if column in NUMBERS else ()))
        made += [
            Aggregate(f"{f}_{column.replace('.', '_')}_{h}", f, column, h * HOUR) for f in functions for h in (1, 3)
        ]
    return (*made, Aggregate("mean_full", "mean", "full", HOUR))


TABLE = FeatureTable(
    "typed", "silver.typed", ("a.b",), _aggregates(), event_at="at", known_at="known", every=HOUR, max_age=2 * HOUR
)


def _rows(count: int) -> list[dict[str, Any]]:
    chance = random.Random(4)
    found = []
    for _ in range(count):
        at = START + timedelta(minutes=chance.randrange(300))
        row = {"a.b": chance.choice("xyz"), "at": at, "known": at}
        found.append({**row, **{name: chance.choice(values) for name, (_, values) in ALL.items()}})
    return found


def _by_hand(of: Aggregate, rows: list[dict[str, Any]]) -> Any:
    values = [v for row in rows if (v := row[of.column]) is not None and v == v]
    if of.function == "count":
        return len(values)
    if not values:
        return None
    if of.function in ("min", "max"):
        # The order of bytes, as UTF-8 has it; Python's own is that of code points, which is the same.
        return min(values) if of.function == "min" else max(values)
    total = sum(map(Fraction, values))
    if of.function == "mean":
        return float(total) / len(values)
    return float(total) if isinstance(values[0], float) else total


def test_every_aggregate_over_every_type_is_what_exact_arithmetic_gives(spark):
    rows = _rows(120)
    source = spark.createDataFrame(pa.Table.from_pylist(rows, schema=SCHEMA))
    spec = table_spec_of(TABLE, SCHEMA)
    made = feature_rows(source, TABLE).withColumns({"_run_id": F.lit(""), "_source_version": F.lit(1)})
    found = typed(made, spec).toArrow().cast(spec.schema).to_pylist()
    assert len(found) > 10
    for row in found:
        mine = [r for r in rows if r["a.b"] == row["a.b"]]
        for of in TABLE.aggregates:
            taken = [r for r in mine if row["event_at"] - of.over <= r["at"] < row["event_at"]]
            expected, value = _by_hand(of, taken), row[of.name]
            if isinstance(expected, float) and value is not None:
                assert math.isclose(value, expected, rel_tol=1e-12), of
            else:
                assert value == expected, of


def test_a_function_that_a_type_does_not_have_is_refused_with_both_names(spark):
    source = spark.createDataFrame(pa.Table.from_pylist(_rows(1), schema=SCHEMA))
    source = source.withColumns({"list": F.array(F.lit(1)), "when": F.lit("2024")})
    for function in ("sum", "mean"):
        for column in ("text", "flag", "bytes", "day", "seen_at", "list"):
            table = replace(TABLE, aggregates=(Aggregate("m", function, column, HOUR),))
            with pytest.raises(ConfigurationError, match=f"m is the {function} of '{column}', which is "):
                feature_rows(source, table)
            if column != "list":
                with pytest.raises(ConfigurationError, match=f"m is the {function} of '{column}', which is "):
                    table_spec_of(table, SCHEMA)
    with pytest.raises(ConfigurationError, match="m is the min of 'list'"):
        feature_rows(source, replace(TABLE, aggregates=(Aggregate("m", "min", "list", HOUR),)))
    with pytest.raises(ConfigurationError, match="'when' says when, but is string"):
        feature_rows(source, replace(TABLE, event_at="when"))


def test_a_sum_of_more_digits_than_any_type_has_is_an_error_that_names_it(spark):
    source = spark.createDataFrame(
        pa.Table.from_pylist([{**_rows(1)[0], "full": Decimal("9" * 38)}] * 2, schema=SCHEMA)
    )
    with pytest.raises(Exception, match="the feature table 'typed': a sum of 'full' has over 38 digits"):
        feature_rows(source, replace(TABLE, aggregates=(Aggregate("s", "sum", "full", HOUR),))).collect()
    mean = feature_rows(source, replace(TABLE, aggregates=(Aggregate("m", "mean", "full", HOUR),))).first()
    assert mean["m"] == pytest.approx(1e38)


def _source(context: Context, rows: list[tuple[Any, ...]]) -> None:
    spec = TableSpec(pa.schema([("n", LONG), ("e", STRING), ("at", TIMESTAMP), ("known", TIMESTAMP)]), ("n",), True)
    if not context.lake.is_declared("silver.short"):
        context.lake.declare("silver.short", spec)
    changes = [dict(zip(spec.columns, row, strict=True), _op="upsert") for row in rows]
    context.lake.merge_arrow("silver.short", pa.Table.from_pylist(changes, spec.schema.append(pa.field("_op", STRING))))


@pytest.mark.long
def test_rows_that_count_nowhere_are_counted_and_a_table_says_how_old_its_rows_may_be(context: Context, caplog):
    settings = context.settings.model_copy(update={"features": ("tests.support.feature_tables:SHORT_LIVED",)})
    context = replace(context, settings=settings)
    lake, last = context.lake, datetime(9999, 12, 31, 23, 30, tzinfo=timezone.utc)
    good = [(n, "x", START + n * HOUR, START + n * HOUR) for n in range(3)]
    _source(
        context, [*good, (3, None, START, START), (4, "x", None, START), (5, "x", START, None), (6, "x", last, last)]
    )
    (outcome,) = run_stages(context, stages=[stage_named("build-features")]).stages
    assert outcome.counts == {"insert": 3, "update": 0, "delete": 0, "left_out": 4}
    assert any("4 rows of silver.short count in no row of gold.features_short" in line for line in caplog.messages)
    ends = sorted(row["event_at"] for row in lake.read_arrow("gold.features_short").to_pylist())
    assert ends == [START + n * HOUR for n in (1, 2, 3)], "and none of the year 10000"
    _source(context, [(7, "x", START + 5 * HOUR, START + 5 * HOUR), (8, "x", last, last), (6, "y", START, START)])
    (outcome,) = run_stages(context, stages=[stage_named("build-features")]).stages
    assert outcome.counts == {"insert": 2, "update": 0, "delete": 0, "left_out": 1}
    labels = pa.schema([("e", STRING), ("asked", TIMESTAMP)])
    lake.declare("silver.asked", TableSpec(labels))
    lake.append_arrow("silver.asked", [{"e": "x", "asked": START + hours * HOUR} for hours in (2, 4, 5)])
    lookup = Lookup("gold.features_short", ("e",), ("n_1h",))

    def joined(rows: DataFrame) -> list[Any]:
        return [row["n_1h"] for row in rows.orderBy("asked").collect()]

    expected = [1, 1, None]
    assert SHORT_LIVED.max_age == HOUR, "the row of START + 3 h is too old at START + 5 h"
    assert joined(cut(context, name="s", labels="silver.asked", at="asked", lookups=[lookup]).rows) == expected
    of = Features.of(lake.read("gold.features_short"), SHORT_LIVED)
    assert joined(as_of_join(lake.read("silver.asked"), of, at="asked")) == expected
    wider = cut(context, name="s", labels="silver.asked", at="asked", lookups=[replace(lookup, max_age=7200.0)]).rows
    assert joined(wider) == [1, 1, 1]
