"""The feature table of the sample: how many repairs each customer had, and for how much, in the last 30 days."""

from __future__ import annotations

from datetime import timedelta

from transformations.features.feature_table import Aggregate, FeatureTable

_MONTH = timedelta(days=30)
# A repair may be entered days after it was done: done_at says when it happened, recorded_at since when it was known.
REPAIRS = FeatureTable(
    name="repairs",
    source="silver.records_repairs",
    entity=("customer",),
    event_at="done_at",
    known_at="recorded_at",
    every=timedelta(days=1),
    aggregates=(
        Aggregate("repairs_30d", "count", over=_MONTH),
        Aggregate("spent_30d", "sum", "amount", over=_MONTH),
    ),
)
