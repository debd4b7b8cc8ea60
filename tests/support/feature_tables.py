"""Feature tables as a user would define them, over the table silver.trips of the tests."""

from __future__ import annotations

from datetime import timedelta

from transformations.features.feature_table import Aggregate, FeatureTable

HOUR = timedelta(hours=1)

TRIPS = FeatureTable(
    name="trips",
    source="silver.trips",
    entity=("driver", "zone"),
    event_at="ended_at",
    known_at="reported_at",
    every=HOUR,
    aggregates=(
        Aggregate("trips_3h", "count", over=3 * HOUR),
        Aggregate("fares_1h", "sum", "fare", over=HOUR),
        Aggregate("fare_mean_3h", "mean", "fare", over=3 * HOUR),
        Aggregate("tips_3h", "count", "tip", over=3 * HOUR),
        Aggregate("tip_max_2h", "max", "tip", over=2 * HOUR),
    ),
)
SHORT_LIVED = FeatureTable(
    "short", "silver.short", ("e",), (Aggregate("n_1h", "count", over=HOUR),), "at", "known", HOUR, max_age=HOUR
)
MISSPELT = FeatureTable("misspelt", "silver.trips", ("drivers",), (Aggregate("n", "count"),), "ended_at", "reported_at")
NOT_A_TABLE = "trips"
ORDERS = FeatureTable(
    name="orders",
    source="silver.records_orders",
    entity=("customer",),
    event_at="updated_at",
    known_at="updated_at",
    every=24 * HOUR,
    aggregates=(
        Aggregate("orders_2d", "count", over=48 * HOUR),
        Aggregate("amount_2d", "sum", "amount", over=48 * HOUR),
    ),
)
