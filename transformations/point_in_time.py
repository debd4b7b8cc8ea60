"""Events and a feature table in; the same events, each with the feature values that one could have used then, out."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

from transformations.as_of_index import AsOfIndex
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
    broadcast: bool = False,
) -> DataFrame:
    """Join each event with the newest feature row that had happened *and* was known at the event's time.

    Of the rows of the same entity with `event_at` <= `at` and `known_at` <= `at`, the one with the greatest `event_at`
    is taken; of several, the one known last (a correction); of several of these, one that depends on the values only,
    so that a rerun takes the same. Both bounds are closed. NaN is a value as any other, and a null among `columns` of
    the row that is taken stays null: no older row fills it in.

    There are two ways to the same rows. By default events and features go through one shuffle and one sort together,
    at any size. With `broadcast`, features are read once, at this call, and sent to every worker; events do not move.
    Several such joins one after the other are one pass over the events.

    Args:
        events: any grain; all columns and rows are kept, equal rows too.
        features: one row an entity, `event_at` and `known_at`; other columns are ignored. A row whose entity,
            `event_at` or `known_at` is null (or NaN) is never used: nobody could tell when it was known.
        entity: the key columns that both frames have.
        at: the events' instant. An event whose `at` or entity is null gets nulls.
        columns: what to bring over; none may be a column of `events`.
        max_age: a row that had happened longer ago than this is too old: nulls instead (no older row is taken).
        span: for skew. Entities with very many rows are worked upon in pieces of so much time, in parallel, each
            beginning with what was known at its start. The result is the same. Of no use with `broadcast`, to which
            skew makes no difference.
        broadcast: `features` fits into the memory of the driver and of each worker (some millions of rows).

    Returns:
        Grain: as `events`; its columns, then `columns`.

    Raises:
        ConfigurationError: a column is missing, or in both frames; with `broadcast`, an entity column is no plain
            value.
    """
    from pyspark.sql import functions as F

    _check(events, features, entity=entity, at=at, columns=columns, times=(event_at, known_at))
    features = features.dropna(subset=[*entity, event_at, known_at])
    # Spark hashes no maps.
    tied = [F.to_json(F.struct(c)) if "map<" in features.schema[c].dataType.simpleString() else c for c in columns]
    rows = features.select(
        *entity,
        *columns,
        # Happened and known by t: both at most t, so their greatest is.
        F.greatest(*(F.col(c).cast("timestamp") for c in (event_at, known_at))).alias("_usable_at"),
        F.col(event_at).cast("timestamp").alias("_happened_at"),
        F.col(known_at).cast("timestamp").alias("_known_at"),
        F.xxhash64(*tied).alias("_tie"),
    )
    if broadcast:
        return _looked_up(events, rows, entity=entity, at=at, columns=columns, max_age=max_age)
    return _sorted_together(events, rows, entity=entity, at=at, columns=columns, max_age=max_age, span=span)


def _looked_up(
    events: DataFrame,
    rows: DataFrame,
    *,
    entity: Sequence[str],
    at: str,
    columns: Sequence[str],
    max_age: timedelta | None,
) -> DataFrame:
    from pyspark.sql import functions as F
    from pyspark.sql.pandas.functions import arrow_udf
    from pyspark.sql.types import ArrayType, MapType, StructField, StructType, VariantType

    for key in entity:
        kind = rows.schema[key].dataType
        if isinstance(kind, ArrayType | MapType | StructType | VariantType):
            raise ConfigurationError(
                f"as_of_join: the entity column {key!r} is a {kind.simpleString()}, which broadcast=True cannot look "
                "up. Leave it out, or use a string or a number as the key."
            )
    instants = ("_usable_at", "_happened_at", "_known_at")
    found = rows.withColumns({c: F.unix_micros(c) for c in instants}).toArrow()
    index = AsOfIndex.build(found, entity=entity, columns=columns, max_age=max_age)
    found_type = StructType([StructField(c, rows.schema[c].dataType) for c in columns])
    # By its type hints Spark sees that it is a function of arrays to an array; the stubs of pyspark lack that form.
    look_up = arrow_udf(index.find, found_type)  # type: ignore[call-overload]
    joined = events.withColumn("_found", look_up(F.unix_micros(F.col(at).cast("timestamp")), *entity))
    return joined.select(*(F.col(f"`{c}`") for c in events.columns), *(F.col(f"_found.`{c}`") for c in columns))


def _sorted_together(
    events: DataFrame,
    rows: DataFrame,
    *,
    entity: Sequence[str],
    at: str,
    columns: Sequence[str],
    max_age: timedelta | None,
    span: timedelta | None,
) -> DataFrame:
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    keys = list(entity)
    rank = F.struct("_happened_at", "_known_at", "_tie").alias("rank")
    row = F.struct(rank, F.struct(*columns, "_happened_at").alias("values")).alias("_row")
    known = rows.select(*keys, F.col("_usable_at").alias("_at"), row)
    asking = events.select(*keys, F.col(at).cast("timestamp").alias("_at"), F.struct(*events.columns).alias("_event"))
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
    is_fresh = F.lit(True)
    if max_age is not None:
        age = F.unix_micros("_at") - F.unix_micros(F.col("_newest._happened_at"))
        is_fresh = age <= F.lit(_micros(max_age))
    return joined.select("_event.*", *(F.when(is_fresh, F.col(f"_newest.`{c}`")).alias(c) for c in columns))


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
