"""The point-in-time join against a search by hand and against pandas: nothing that was not yet known is ever used."""

from __future__ import annotations

import random
from datetime import datetime, timedelta, timezone
from typing import Any

import pandas as pd
import pytest
from pyspark.sql import functions as F

from transformations.errors import ConfigurationError
from transformations.features.point_in_time import Features, as_of_join

START = datetime(1969, 12, 31, 23, 58, tzinfo=timezone.utc)
EVENTS = "event_id int, carrier string, route int, scheduled_at timestamp"
FEATURES = "carrier string, route int, event_at timestamp, known_at timestamp, delay int, note string"
ENTITY = ["carrier", "route"]


def _at(minute: int | None) -> datetime | None:
    """Minutes around 1970, so that negative instants are there too."""
    return None if minute is None else START + timedelta(minutes=minute)


def _made(seed: int) -> tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]:
    """Few instants and few entities: ties, late and early knowledge, corrections and nulls are all common."""
    chance = random.Random(seed)

    def minute() -> datetime | None:
        return _at(None if chance.random() < 0.05 else chance.randrange(12))

    def entity() -> tuple[str | None, int]:
        return (None if chance.random() < 0.05 else chance.choice("abc")), chance.randrange(3)

    events = [(n, *entity(), minute()) for n in range(300)]
    features = {
        (*entity(), minute(), minute()): (None if chance.random() < 0.1 else n, f"note {n}") for n in range(300)
    }
    return events, [(*key, *value) for key, value in features.items()]


def _by_hand(
    events: list[tuple[Any, ...]], features: list[tuple[Any, ...]], *, max_age: timedelta | None
) -> dict[int, tuple[Any, ...]]:
    found = {}
    for event_id, carrier, route, at in events:
        usable = [
            (event_at, known_at, delay, note)
            for f_carrier, f_route, event_at, known_at, delay, note in features
            if None not in (carrier, at, f_carrier, event_at, known_at)
            and (f_carrier, f_route) == (carrier, route)
            and event_at <= at
            and known_at <= at
        ]
        best = max(usable, key=lambda row: row[:2], default=None)
        is_used = best is not None and (max_age is None or at - best[0] <= max_age)
        found[event_id] = best[2:] if is_used and best is not None else (None, None)
    return found


# The ways to the same rows: one sort, pieces of it, and a search in memory.
WAYS: list[dict[str, Any]] = [{}, {"span": timedelta(minutes=5)}, {"broadcast": True}]


@pytest.mark.parametrize("way", WAYS, ids=["sort", "spans", "broadcast"])
@pytest.mark.parametrize("max_age", [None, timedelta(minutes=2)])
def test_each_event_gets_what_a_search_by_hand_finds(spark, way: dict[str, Any], max_age: timedelta | None):
    events, features = _made(seed=7)
    joined = as_of_join(
        spark.createDataFrame(events, EVENTS),
        Features(spark.createDataFrame(features, FEATURES), ENTITY, ["delay", "note"], max_age=max_age, **way),
        at="scheduled_at",
    )
    assert joined.columns == ["event_id", "carrier", "route", "scheduled_at", "delay", "note"]
    rows = joined.collect()
    assert len(rows) == 300
    found = {row["event_id"]: (row["delay"], row["note"]) for row in rows}
    expected = _by_hand(events, features, max_age=max_age)
    assert found == expected
    assert 50 < sum(note is not None for _, note in expected.values()) < 290, "both outcomes are there"


@pytest.mark.parametrize("broadcast", [False, True])
def test_where_all_is_known_at_once_it_is_the_join_of_pandas(spark, broadcast: bool):
    chance = random.Random(3)
    events = pd.DataFrame({"entity": [chance.randrange(5) for _ in range(500)], "at": range(500)})
    instants = chance.sample(range(600), 200)
    features = pd.DataFrame(
        {"entity": [chance.randrange(5) for _ in instants], "event_at": instants, "value": instants}
    )
    events["at"], features["event_at"] = (pd.to_datetime(c, unit="s") for c in (events["at"], features["event_at"]))
    expected = pd.merge_asof(
        events, features.sort_values("event_at"), left_on="at", right_on="event_at", by="entity", direction="backward"
    )
    known = spark.createDataFrame(features).withColumn("known_at", F.col("event_at"))
    frame = spark.createDataFrame(events)
    joined = as_of_join(frame, Features(known, ["entity"], ["value"], broadcast=broadcast), at="at")
    found = joined.orderBy("at").toPandas()["value"]
    pd.testing.assert_series_equal(found.astype(float), expected["value"].astype(float))


def test_two_rows_known_at_the_same_moment_are_told_apart_by_their_values_not_by_their_place(spark):
    features = [("a", 1, _at(1), _at(2), value, "n") for value in range(20)]
    events = spark.createDataFrame([(0, "a", 1, _at(5))], EVENTS)
    taken = set()
    for seed in range(3):
        random.Random(seed).shuffle(features)
        rows = spark.createDataFrame(features, FEATURES).repartition(2)
        for broadcast in (False, True):
            joined = as_of_join(events, Features(rows, ENTITY, ["delay"], broadcast=broadcast), at="scheduled_at")
            taken.add(joined.first()["delay"])
    assert len(taken) == 1


@pytest.mark.parametrize("broadcast", [False, True])
def test_values_of_any_type_come_over_as_they_are(spark, broadcast: bool):
    features = spark.sql(
        """
        SELECT 'a' AS entity, timestamp_micros(id) AS event_at, timestamp_micros(id) AS known_at,
            CAST('NaN' AS DOUBLE) AS ratio, CAST(1.10 AS DECIMAL(9, 2)) AS price, array(1, null) AS steps,
            map('k', timestamp'2020-01-01 00:00:00') AS seen, named_struct('x', binary('b'), 'y', null) AS pair,
            CAST(null AS STRING) AS nothing, timestamp'1969-12-31 23:59:59.999999' AS before, date'2020-02-29' AS day
        FROM range(3)
        """
    )
    columns = features.columns[3:]
    events = spark.sql("SELECT 'a' AS entity, timestamp_micros(9) AS at UNION ALL SELECT 'b', timestamp_micros(9)")
    joined = as_of_join(events, Features(features, ["entity"], columns, broadcast=broadcast), at="at")
    expected = features.limit(1).select(*columns)
    assert [(f.name, f.dataType) for f in joined.schema[2:]] == [(f.name, f.dataType) for f in expected.schema]
    found = {row["entity"]: row[2:] for row in joined.collect()}
    assert repr(found["a"]) == repr(tuple(expected.first()))
    assert set(found["b"]) == {None}


@pytest.mark.parametrize("broadcast", [False, True])
def test_instants_before_1970_and_after_9999_are_ordered_as_any_other(spark, broadcast: bool):
    years = [1, 1900, 1969, 1971, 9999, 10001, 200000]
    features = spark.sql(" UNION ALL ".join(f"SELECT 1 AS e, {year} AS value" for year in years))
    # make_timestamp ends at year 9999; an instant itself does not.
    at = F.timestamp_micros(F.round((F.col("value") - 1970) * 31556952.0).cast("long") * 1_000_000)
    features = features.withColumns({"event_at": at, "known_at": at})
    events = features.select(
        "e", F.col("value").alias("asked"), (F.col("event_at") + F.expr("INTERVAL 1 DAY")).alias("at")
    )
    joined = as_of_join(events, Features(features, ["e"], ["value"], broadcast=broadcast), at="at")
    assert sorted((r["asked"], r["value"]) for r in joined.select("asked", "value").collect()) == [
        (y, y) for y in years
    ]


@pytest.mark.parametrize("broadcast", [False, True])
def test_keys_of_any_plain_type_are_matched_and_neither_null_nor_nan_is_one(spark, broadcast: bool):
    rows = spark.sql(
        """
        SELECT CAST(k AS DOUBLE) AS k, d, s, at, at AS event_at, at AS known_at, n FROM VALUES
            ('NaN', date'2020-01-01', 'x', timestamp_micros(1), 1),
            ('-0.0', date'2020-01-01', 'x', timestamp_micros(1), 2),
            ('2.5', date'2020-01-02', null, timestamp_micros(1), 3),
            ('2.5', date'2020-01-02', 'y', timestamp_micros(1), 4)
            AS t(k, d, s, at, n)
        """
    )
    events = rows.select((F.col("k") + 0.0).alias("k"), "d", "s", "at", F.col("n").alias("asked"))
    joined = as_of_join(events, Features(rows, ["k", "d", "s"], ["n"], broadcast=broadcast), at="at")
    assert sorted((r["asked"], r["n"]) for r in joined.collect()) == [(1, None), (2, 2), (3, None), (4, 4)]


def test_equal_events_and_repeated_feature_rows_are_kept_and_counted_once_each(spark):
    events = spark.createDataFrame([(0, "a", 1, _at(5))] * 3, EVENTS)
    features = spark.createDataFrame([("a", 1, _at(1), _at(2), 7, "n")] * 4, FEATURES)
    for way in WAYS:
        joined = as_of_join(events, Features(features, ENTITY, ["delay"], **way), at="scheduled_at")
        assert [row["delay"] for row in joined.collect()] == [7, 7, 7]
        none = as_of_join(events, Features(features.limit(0), ENTITY, ["delay"], **way), at="scheduled_at")
        assert [row["delay"] for row in none.collect()] == [None, None, None]


def test_a_key_that_cannot_be_looked_up_is_named(spark):
    rows = spark.sql("SELECT array(1) AS k, timestamp_micros(1) AS event_at, timestamp_micros(1) AS known_at, 1 AS n")
    events = rows.select("k", F.col("event_at").alias("at"))
    assert as_of_join(events, Features(rows, ["k"], ["n"]), at="at").first()["n"] == 1
    with pytest.raises(ConfigurationError, match=r"the entity column 'k' is a array<int>, which broadcast=True cannot"):
        as_of_join(events, Features(rows, ["k"], ["n"], broadcast=True), at="at")


def test_several_tables_by_broadcast_are_one_pass_over_the_events(spark, capsys):
    events = spark.createDataFrame([(0, "a", 1, _at(5))], EVENTS)
    features = spark.createDataFrame([("a", 1, _at(1), _at(2), 7, "n")], FEATURES)
    tables = [Features(features, ["carrier"], [column], broadcast=True) for column in ("delay", "note")]
    joined = as_of_join(events, *tables, at="scheduled_at")
    joined.explain()
    plan = capsys.readouterr().out
    assert plan.count("MapInArrow") == 1
    assert "Exchange" not in plan
    assert joined.first()[4:] == (7, "n")


def test_tables_of_different_entities_ages_and_ways_are_joined_as_each_would_be_alone(spark):
    events, rows = _made(seed=11)
    asking, features = spark.createDataFrame(events, EVENTS), spark.createDataFrame(rows, FEATURES)
    by_route = features.groupBy("route", "event_at", "known_at").agg(F.max("delay").alias("worst"))
    by_carrier = features.groupBy("carrier", "event_at", "known_at").agg(F.min("delay").alias("best"))
    tables = [
        Features(by_carrier, ["carrier"], ["best"], broadcast=True),
        Features(features, ENTITY, ["delay"], max_age=timedelta(minutes=3)),
        Features(by_route, ["route"], ["worst"], max_age=timedelta(minutes=1), broadcast=True),
    ]
    joined = as_of_join(asking, *tables, at="scheduled_at")
    assert joined.columns[4:] == ["best", "delay", "worst"]
    together = {row["event_id"]: row[4:] for row in joined.collect()}
    alone = [{r["event_id"]: r[4] for r in as_of_join(asking, t, at="scheduled_at").collect()} for t in tables]
    assert together == {event_id: tuple(found[event_id] for found in alone) for event_id in alone[0]}
    assert len(together) == 300


def test_columns_that_are_not_there_or_there_twice_are_named(spark):
    events = spark.createDataFrame([(0, "a", 1, _at(5))], EVENTS)
    rows = spark.createDataFrame([], FEATURES)
    features = Features(rows, ENTITY, ["delay"])
    with pytest.raises(ConfigurationError, match=r"column of the features 'delays'. Did you mean 'delay'"):
        as_of_join(events, Features(rows, ENTITY, ["delays"]), at="scheduled_at")
    with pytest.raises(ConfigurationError, match=r"column of the events 'schedule_at'. Did you mean 'scheduled_at'"):
        as_of_join(events, features, at="schedule_at")
    with pytest.raises(ConfigurationError, match=r"\['delay'\] are columns of the events, or of a table before"):
        as_of_join(events.withColumn("delay", F.lit(1)), features, at="scheduled_at")
    with pytest.raises(ConfigurationError, match=r"\['delay'\] are columns of the events, or of a table before"):
        as_of_join(events, features, Features(rows, ["carrier"], ["delay"]), at="scheduled_at")
    with pytest.raises(ConfigurationError, match="name at least one feature table"):
        as_of_join(events, at="scheduled_at")


@pytest.mark.parametrize("way", WAYS, ids=["sort", "spans", "broadcast"])
def test_names_with_dots_spaces_and_quotes_are_names_as_any_other(spark, way: dict[str, Any]):
    entity, at, value, known = "a.b `c`", "event.at", "value.of x", "known at"
    rows = spark.createDataFrame([("x", _at(1), _at(1), 7)], "k string, event_at timestamp, known_at timestamp, v int")
    rows = rows.toDF(entity, at, known, value)
    events = spark.createDataFrame([("x", _at(2)), ("y", _at(2))], "k string, t timestamp").toDF(entity, "_at.asked")
    features = Features(rows, [entity], [value], event_at=at, known_at=known, max_age=timedelta(minutes=1), **way)
    joined = as_of_join(events, features, at="_at.asked")
    assert joined.columns == [entity, "_at.asked", value]
    assert sorted(row[0] + str(row[2]) for row in joined.collect()) == ["x7", "yNone"]


@pytest.mark.parametrize("way", WAYS, ids=["sort", "spans", "broadcast"])
def test_keys_of_two_types_are_refused_by_every_way_and_integers_of_two_sizes_are_one_type(spark, way: dict[str, Any]):
    def row(key: str) -> Any:
        return spark.sql(f"SELECT {key} AS k, timestamp_micros(1) AS event_at, timestamp_micros(1) AS known_at, 5 AS n")

    for asked, has in [
        ("1", "'1'"), ("'1'", "1"), ("1L", "1D"), ("1.0", "1D"), ("1.0", "1.00"), ("CAST(1 AS FLOAT)", "1D"),
        ("date'2024-01-01'", "timestamp'2024-01-01 00:00:00'"), ("true", "1"), ("binary('a')", "'a'"),
    ]:  # fmt: skip
        with pytest.raises(
            ConfigurationError, match=r"the entity column 'k' is a .* in the events and a .* in the feat"
        ):
            as_of_join(
                row(asked).select("k", F.col("event_at").alias("at")), Features(row(has), ["k"], ["n"], **way), at="at"
            )
    for asked, has in [("1", "1L"), ("CAST(1 AS TINYINT)", "1L"), ("date'-0044-03-15'", "date'-0044-03-15'"),
                       ("timestamp_micros(1L << 60)", "timestamp_micros(1L << 60)")]:  # fmt: skip
        events = row(asked).select("k", F.col("event_at").alias("at"))
        assert as_of_join(events, Features(row(has), ["k"], ["n"], **way), at="at").select("n").first()["n"] == 5


def test_columns_that_differ_in_case_only_are_there_twice(spark):
    events = spark.createDataFrame([(0, "a", 1, _at(5))], EVENTS)
    rows = spark.createDataFrame([], FEATURES).withColumn("Event_ID", F.lit(1))
    with pytest.raises(ConfigurationError, match=r"\['Event_ID'\] are columns of the events"):
        as_of_join(events, Features(rows, ENTITY, ["Event_ID"]), at="scheduled_at")
