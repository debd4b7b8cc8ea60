"""Feature tables: windows by hand, the stage against a build from scratch through random edits, and lost sources."""

from __future__ import annotations

import math
import random
import shutil
from collections import defaultdict
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

import pyarrow as pa
import pytest

from pipelines.conductor.run import new_context, run_stages
from pipelines.conductor.stages import stage_named
from pipelines.flow.stage import Context
from pipelines.lakehouse.schemas.spec import DOUBLE, LONG, STRING, TIMESTAMP, TableSpec
from pipelines.lakehouse.tables import Lakehouse
from pipelines.operations.rebuild import rebuild
from tests.support import feature_tables
from tests.support.feature_tables import TRIPS
from transformations.errors import ConfigurationError
from transformations.features.feature_table import Aggregate, FeatureTable, feature_rows

HOUR = timedelta(hours=1)
START = datetime(1969, 12, 31, 21, tzinfo=timezone.utc)
SPEC = TableSpec(
    pa.schema(
        [
            ("trip_id", LONG),
            ("driver", STRING),
            ("zone", LONG),
            ("ended_at", TIMESTAMP),
            ("reported_at", TIMESTAMP),
            ("fare", LONG),
            ("tip", DOUBLE),
        ]
    ),
    key=("trip_id",),
    change_feed=True,
)
FIELDS = SPEC.columns
Trip = tuple[Any, ...]


def _trip(chance: random.Random, trip_id: int) -> Trip:
    """Hours on the dot, late reports, nulls, NaN and instants before 1970 are all common."""
    ended_at = START + timedelta(minutes=30 * chance.randrange(24))
    return (
        trip_id,
        None if chance.random() < 0.05 else chance.choice("abc"),
        chance.randrange(2),
        None if chance.random() < 0.05 else ended_at,
        None if chance.random() < 0.05 else ended_at + timedelta(minutes=chance.choice([0, 10, 500])),
        None if chance.random() < 0.1 else chance.randrange(100),
        chance.choice([None, math.nan, 0.5, 2.25]),
    )


def _by_hand(trips: list[Trip]) -> dict[tuple[Any, ...], tuple[Any, ...]]:
    of_entity = defaultdict(list)
    for trip in trips:
        if None not in trip[1:5]:
            of_entity[trip[1:3]].append(trip)
    rows = {}
    for entity, its in of_entity.items():
        for end in {START + HOUR * ((trip[3] - START) // HOUR + 1) for trip in its}:

            def over(hours: int, its: list[Trip] = its, end: datetime = end) -> list[Trip]:
                return [t for t in its if end - hours * HOUR <= t[3] < end]

            fares, last = [t[5] for t in over(3) if t[5] is not None], [t[5] for t in over(1) if t[5] is not None]
            tips, recent = ([t[6] for t in over(h) if t[6] is not None and not math.isnan(t[6])] for h in (3, 2))
            rows[(*entity, end)] = (
                max(end, *(t[4] for t in over(3))),
                len(over(3)),
                sum(last) if last else None,
                sum(fares) / len(fares) if fares else None,
                len(tips),
                max(recent, default=None),
            )
    return rows


def _found(rows: Any) -> dict[tuple[Any, ...], tuple[Any, ...]]:
    columns = [*TRIPS.key, "known_at", *TRIPS.columns]
    table = rows.select(*columns).toArrow().to_pylist()
    found = {tuple(row[c] for c in TRIPS.key): tuple(row[c] for c in columns[3:]) for row in table}
    assert len(found) == len(table), "one row an entity and instant"
    return found


def _context(context: Context, name: str = "TRIPS") -> Context:
    features = (f"tests.support.feature_tables:{name}",)
    return replace(context, settings=context.settings.model_copy(update={"features": features}))


def _build(context: Context) -> list[dict[str, int]]:
    outcome = run_stages(context, stages=[stage_named("build-features")])
    return [dict(stage.counts) for stage in outcome.stages]


def _write(lake: Lakehouse, trips: list[Trip], op: str = "upsert") -> None:
    if not lake.is_declared("silver.trips"):
        lake.declare("silver.trips", SPEC)
    rows = [dict(zip(FIELDS, trip, strict=True), _op=op) for trip in trips]
    lake.merge_arrow("silver.trips", pa.Table.from_pylist(rows, SPEC.schema.append(pa.field("_op", STRING))))


def _all(lake: Lakehouse) -> list[Trip]:
    return [tuple(row[c] for c in FIELDS) for row in lake.read_arrow("silver.trips").to_pylist()]


@pytest.mark.long
def test_after_any_edits_the_table_is_what_a_build_from_scratch_gives(context: Context):
    context = _context(context)
    chance, lake = random.Random(11), context.lake
    assert _build(context) == [], "no source yet: nothing to do"
    _write(lake, [_trip(chance, n) for n in range(150)])
    (counts,) = _build(context)
    assert counts["insert"] == len(_by_hand(_all(lake)))
    assert _found(lake.read("gold.features_trips")) == _by_hand(_all(lake))
    assert _build(context) == [], "nothing has changed"
    for number in range(2):
        # Late and early rows, rows that move to another entity or hour, and deleted ones: in two commits.
        _write(lake, [_trip(chance, n) for n in [*chance.sample(range(150), 4), 200 + number]])
        _write(lake, chance.sample(_all(lake), 3), op="delete")
        before = _found(lake.read("gold.features_trips"))
        (counts,) = _build(context)
        found, expected = _found(lake.read("gold.features_trips")), _by_hand(_all(lake))
        assert found == expected
        changed = sum(before.get(key) != found.get(key) for key in before.keys() | found.keys())
        assert sum(counts.values()) - counts["left_out"] == changed > 0, "what is equal is not written again"
    stamped = lake.read("gold.features_trips").select("_run_id", "_source_version").distinct().collect()
    assert {row["_source_version"] for row in stamped} <= set(range(1, 8))
    assert {row["_run_id"] for row in stamped} == {context.run_id}


@pytest.mark.long
def test_a_rebuild_gives_a_table_of_another_definition_its_columns_and_each_time_the_same_rows(
    context: Context, monkeypatch: pytest.MonkeyPatch
):
    settings = _context(context).settings
    trips = [_trip(random.Random(3), n) for n in range(20)]
    _write(new_context(settings).lake, trips)
    _build(new_context(settings))
    expected, target = _by_hand(trips), "gold.features_trips"

    def rebuilt() -> dict[str, int]:
        # A process of its own knows of no source that is the user's own.
        (stage,) = [s for s in rebuild(new_context(settings), target).stages if s.stage == "build-features"]
        return {op: stage.counts[op] for op in ("insert", "update", "delete")}

    assert rebuilt() == rebuilt() == {"insert": 0, "update": 0, "delete": 0}
    monkeypatch.setattr(feature_tables, "TRIPS", replace(TRIPS, aggregates=TRIPS.aggregates[:2]))
    with pytest.raises(ConfigurationError, match=f"make the table anew: lakeloop rebuild {target}"):
        _build(new_context(settings))
    assert rebuilt() == {"insert": len(expected), "update": 0, "delete": 0}
    kept = [field.name for field in context.lake.columns(target) if not field.nullable]
    assert kept == ["driver", "zone", "event_at", "known_at"]
    assert rebuilt() == {"insert": 0, "update": 0, "delete": 0}
    rows = context.lake.spark.read.format("delta").load(str(context.lake.folder(target)))
    columns = [*TRIPS.key, "known_at", *TRIPS.columns[:2]]
    found = rows.select(*columns).toArrow().to_pylist()
    assert {tuple(row[c] for c in TRIPS.key): tuple(row[c] for c in columns[3:]) for row in found} == {
        key: values[:3] for key, values in expected.items()
    }


@pytest.mark.long
def test_a_source_that_was_made_anew_or_whose_history_is_gone_is_compared_whole(context: Context):
    context = _context(context)
    chance, lake = random.Random(5), context.lake
    trips = [_trip(chance, n) for n in range(40)]
    _write(lake, trips)
    _build(context)
    shutil.rmtree(lake.folder("silver.trips"))
    _write(lake, trips[:30])
    _build(context)
    assert _found(lake.read("gold.features_trips")) == _by_hand(_all(lake))
    _write(lake, trips[5:10], op="delete")
    _write(lake, [_trip(chance, 99)])
    shutil.rmtree(lake.folder("silver.trips") / "_change_data")
    lake.purge("silver.trips")
    _build(context)
    assert _found(lake.read("gold.features_trips")) == _by_hand(_all(lake))


def test_the_keys_are_never_null_and_named_as_a_catalog_wants_them(context: Context):
    context = _context(context)
    _write(context.lake, [_trip(random.Random(1), n) for n in range(5)])
    _build(context)
    fields = {field.name: field.nullable for field in context.lake.read("gold.features_trips").schema}
    assert [name for name, nullable in fields.items() if not nullable] == ["driver", "zone", "event_at", "known_at"]
    properties = context.lake.properties("gold.features_trips")
    assert properties["lakeloop.primaryKey"] == "driver,zone,event_at"
    assert properties["lakeloop.timeseries"] == "event_at"
    assert properties["delta.enableChangeDataFeed"] == "true"


def test_equal_source_rows_count_as_often_as_they_are_there(spark):
    one = ("a", 1, START, START, 10, 1.0)
    source = spark.createDataFrame([one, one, one], SPEC.columns[1:])
    row = feature_rows(source, TRIPS).first()
    assert (row["trips_3h"], row["fares_1h"], row["fare_mean_3h"]) == (3, 30, 10.0)


def test_one_instant_written_in_two_time_zones_is_one_step(spark):
    source = spark.sql(
        """
        SELECT 'a' AS driver, 1 AS zone, timestamp(at) AS ended_at, timestamp(at) AS reported_at, 1 AS fare, 1.0D AS tip
        FROM VALUES ('2013-01-01 05:15:00-05:00'), ('2013-01-01 10:30:00Z'), ('2013-01-01 19:45:00+09:00') AS t(at)
        """
    )
    assert [row["trips_3h"] for row in feature_rows(source, TRIPS).collect()] == [3]


def test_a_definition_that_cannot_be_is_refused_with_its_name():
    ok = Aggregate("n", "count")
    for wrong, text in [
        ({"entity": ()}, "at least one entity"),
        ({"name": "Bad Name"}, "lower-case"),
        ({"aggregates": (ok, ok)}, "must differ"),
        ({"aggregates": (Aggregate("m", "sum"),)}, "m needs a column"),
        ({"aggregates": (Aggregate("m", "median", "x"),)}, "function 'median'"),
        ({"aggregates": (Aggregate("m", "count", over=timedelta(hours=36)),)}, "no multiple of every"),
        ({"every": timedelta(0)}, "longer than nothing"),
    ]:
        with pytest.raises(ConfigurationError, match=text):
            FeatureTable(**{"name": "t", "source": "silver.t", "entity": ("e",), "aggregates": (ok,), **wrong})


def test_what_a_setting_names_must_be_a_definition_whose_columns_the_source_has(context: Context):
    _write(context.lake, [_trip(random.Random(1), 1)])
    with pytest.raises(ConfigurationError, match=r"'drivers'. Did you mean 'driver'"):
        _build(_context(context, "MISSPELT"))
    with pytest.raises(ConfigurationError, match="cannot be imported"):
        _build(_context(context, "NOWHERE"))
    with pytest.raises(ConfigurationError, match="is a str, not a"):
        _build(_context(context, "NOT_A_TABLE"))


def test_without_feature_tables_in_the_settings_there_is_no_stage(context: Context):
    assert stage_named("build-features").contexts(context) == []
