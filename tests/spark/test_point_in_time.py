"""The point-in-time join against a search by hand and against pandas: nothing that was not yet known is ever used."""

from __future__ import annotations

import random
from datetime import datetime, timedelta, timezone
from typing import Any

import pandas as pd
import pytest
from pyspark.sql import functions as F

from transformations.errors import ConfigurationError
from transformations.point_in_time import as_of_join

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


@pytest.mark.parametrize("span", [None, timedelta(minutes=5)])
@pytest.mark.parametrize("max_age", [None, timedelta(minutes=2)])
def test_each_event_gets_what_a_search_by_hand_finds(spark, span: timedelta | None, max_age: timedelta | None):
    events, features = _made(seed=7)
    joined = as_of_join(
        spark.createDataFrame(events, EVENTS),
        spark.createDataFrame(features, FEATURES),
        entity=ENTITY,
        at="scheduled_at",
        columns=["delay", "note"],
        max_age=max_age,
        span=span,
    )
    assert joined.columns == ["event_id", "carrier", "route", "scheduled_at", "delay", "note"]
    rows = joined.collect()
    assert len(rows) == 300
    found = {row["event_id"]: (row["delay"], row["note"]) for row in rows}
    expected = _by_hand(events, features, max_age=max_age)
    assert found == expected
    assert 50 < sum(note is not None for _, note in expected.values()) < 290, "both outcomes are there"


def test_where_all_is_known_at_once_it_is_the_join_of_pandas(spark):
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
    joined = as_of_join(spark.createDataFrame(events), known, entity=["entity"], at="at", columns=["value"])
    found = joined.orderBy("at").toPandas()["value"]
    pd.testing.assert_series_equal(found.astype(float), expected["value"].astype(float))


def test_two_rows_known_at_the_same_moment_are_told_apart_by_their_values_not_by_their_place(spark):
    features = [("a", 1, _at(1), _at(2), value, "n") for value in range(20)]
    events = spark.createDataFrame([(0, "a", 1, _at(5))], EVENTS)
    taken = set()
    for seed in range(3):
        random.Random(seed).shuffle(features)
        rows = spark.createDataFrame(features, FEATURES).repartition(2)
        joined = as_of_join(events, rows, entity=ENTITY, at="scheduled_at", columns=["delay"])
        taken.add(joined.first()["delay"])
    assert len(taken) == 1


def test_columns_that_are_not_there_or_there_twice_are_named(spark):
    events = spark.createDataFrame([(0, "a", 1, _at(5))], EVENTS)
    features = spark.createDataFrame([], FEATURES)
    with pytest.raises(ConfigurationError, match=r"column of the features 'delays'. Did you mean 'delay'"):
        as_of_join(events, features, entity=ENTITY, at="scheduled_at", columns=["delays"])
    with pytest.raises(ConfigurationError, match=r"column of the events 'schedule_at'. Did you mean 'scheduled_at'"):
        as_of_join(events, features, entity=ENTITY, at="schedule_at", columns=["delay"])
    with pytest.raises(ConfigurationError, match=r"\['delay'\] are columns of the events already"):
        as_of_join(events.withColumn("delay", F.lit(1)), features, entity=ENTITY, at="scheduled_at", columns=["delay"])
