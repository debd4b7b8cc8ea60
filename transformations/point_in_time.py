"""Events and a feature table in; the same events, each with the feature values that one could have used then, out."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

from transformations.errors import ConfigurationError

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame


def as_of_join(
    events: DataFrame,
    features: DataFrame,
    *,
    entity: Sequence[str],
    at: str,
    columns: Sequence[str],
    event_at: str = "event_at",
    known_at: str = "known_at",
    max_age: timedelta | None = None,
    span: timedelta | None = None,
) -> DataFrame:
    """Join each event with the newest feature row that had happened *and* was known at the event's time.

    Of the rows of the same entity with `event_at` <= `at` and `known_at` <= `at`, the one with the greatest `event_at`
    is taken; of several, the one known last (a correction); of several of these, one that depends on the values only,
    so that a rerun takes the same. Both bounds are closed. One shuffle and one sort of events and features together:
    no row is compared with any other.

    Args:
        events: any grain; all columns and rows are kept, equal rows too.
        features: one row an entity, `event_at` and `known_at`; other columns are ignored. A row whose entity,
            `event_at` or `known_at` is null is never used: nobody could tell when it was known.
        entity: the key columns that both frames have.
        at: the events' instant. An event whose `at` or entity is null gets nulls.
        columns: what to bring over; none may be a column of `events`.
        max_age: a row that had happened longer ago than this is too old: nulls instead (no older row is taken).
        span: for skew. Entities with very many rows are worked upon in pieces of so much time, in parallel, each
            beginning with what was known at its start. The result is the same.

    Returns:
        Grain: as `events`; its columns, then `columns`.

    Raises:
        ConfigurationError: a column is missing, or in both frames.
    """
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    _check(events, features, entity=entity, at=at, columns=columns, times=(event_at, known_at))
    keys = list(entity)
    # Happened and known by t: both at most t, so their greatest is.
    usable_at = F.greatest(event_at, known_at)
    values = F.struct(*columns, F.col(event_at).alias("_happened_at"))
    rank = F.struct(event_at, known_at, F.xxhash64(*columns).alias("_tie"))
    known = features.where(F.col(event_at).isNotNull() & F.col(known_at).isNotNull()).dropna(subset=keys)
    known = known.select(
        *keys, usable_at.alias("_at"), F.struct(rank.alias("rank"), values.alias("values")).alias("_row")
    )
    asking = events.select(*keys, F.col(at).alias("_at"), F.struct(*events.columns).alias("_event"))
    parts = list(keys)
    if span is not None:
        known, asking = (rows.withColumn("_span", _span_of("_at", span)) for rows in (known, asking))
        known = known.unionByName(_carried(known, asking, keys=keys, span=span))
        parts.append("_span")
    both = asking.unionByName(known, allowMissingColumns=True)
    # Of one instant, features come first: a value known at that very moment counts.
    order = Window.partitionBy(*parts).orderBy("_at", F.col("_event").isNotNull())
    newest = F.max_by("_row.values", "_row.rank").over(order.rowsBetween(Window.unboundedPreceding, 0))
    joined = both.withColumn("_newest", newest).where("_event IS NOT NULL")

    def value(column: str) -> Column:
        found = F.col(f"_newest.`{column}`")
        if max_age is None:
            return found.alias(column)
        is_fresh = F.col("_newest._happened_at") >= F.col("_at") - _interval(max_age)
        return F.when(is_fresh, found).alias(column)

    return joined.select("_event.*", *map(value, columns))


def _carried(known: DataFrame, asking: DataFrame, *, keys: list[str], span: timedelta) -> DataFrame:
    """For each entity and span that has events, the newest row of all spans before, usable from the span's start."""
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    newest = known.groupBy(*keys, "_span").agg(F.max_by("_row", "_row.rank").alias("_row"))
    asked = asking.groupBy(*keys, "_span").agg(F.lit(True).alias("_is_asked"))
    spans = newest.join(asked, [*keys, "_span"], "full_outer")
    before = Window.partitionBy(*keys).orderBy("_span").rowsBetween(Window.unboundedPreceding, -1)
    carried = spans.withColumn("_row", F.max_by("_row", "_row.rank").over(before))
    start = F.timestamp_micros((F.col("_span") * _micros(span)).cast("long"))
    return carried.where("_is_asked AND _row IS NOT NULL").select(*keys, start.alias("_at"), "_row", "_span")


def _span_of(column: str, span: timedelta) -> Column:
    from pyspark.sql import functions as F

    return F.floor(F.unix_micros(column) / F.lit(_micros(span))).cast("long")


def _micros(length: timedelta) -> int:
    return length // timedelta(microseconds=1)


def _interval(length: timedelta) -> Column:
    from pyspark.sql import functions as F

    return F.make_dt_interval(F.lit(length.days), F.lit(0), F.lit(0), F.lit(length.seconds + length.microseconds / 1e6))


def _check(
    events: DataFrame,
    features: DataFrame,
    *,
    entity: Sequence[str],
    at: str,
    columns: Sequence[str],
    times: Sequence[str],
) -> None:
    for frame, name, needed in ((events, "events", [*entity, at]), (features, "features", [*entity, *times, *columns])):
        for column in needed:
            if column not in frame.columns:
                raise ConfigurationError.unknown_name(f"as_of_join: column of the {name}", column, frame.columns)
    taken = [column for column in columns if column in events.columns]
    if taken:
        raise ConfigurationError(
            f"as_of_join: {taken} are columns of the events already. Rename those of the features."
        )
