"""Events and feature tables in, the same events out, each with the feature values that could be used at its time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from transformations.errors import ConfigurationError
from transformations.features.as_of_index import AsOfIndex
from transformations.features.feature_table import FeatureTable

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import Column, DataFrame

# How many feature tables for the workers' memory are read at once.
_READERS = 4


@dataclass(frozen=True)
class Features:
    """The rows of a feature table, and which of its columns to join to events.

    Attributes:
        rows: one row for each entity, `event_at` and `known_at`; other columns are ignored. A row is never used if its
            entity, `event_at` or `known_at` is null (or NaN).
        entity: the key columns; the events have them too.
        columns: the columns to join; none may be a column of the events or of another table of the same join.
        event_at, known_at: the columns that say when a row happened, and since when it was known.
        max_age: if the newest row happened longer ago than this, the event gets nulls, and no older row either.
        span: against skew. An entity with very many rows is worked on in pieces of this length of time, in parallel;
            each piece begins with what was known at its start. The result is the same. `broadcast` does not need it,
            since skew does not slow it down.
        broadcast: whether to hold the rows in the memory of the driver and of each worker (up to some millions).
    """

    rows: DataFrame
    entity: Sequence[str]
    columns: Sequence[str]
    event_at: str = "event_at"
    known_at: str = "known_at"
    max_age: timedelta | None = None
    span: timedelta | None = None
    broadcast: bool = False

    @classmethod
    def of(cls, rows: DataFrame, table: FeatureTable, **more: Any) -> Features:
        """All aggregates of a feature table, with the entity and the `max_age` of its definition."""
        return cls(rows, **{"entity": table.entity, "columns": table.columns, "max_age": table.max_age, **more})


def as_of_join(events: DataFrame, *tables: Features, at: str) -> DataFrame:
    """Join each event with the newest row of each table that had happened *and* was known at the event's time.

    Among the rows of the same entity with `event_at` <= `at` and `known_at` <= `at`, the one with the greatest
    `event_at` is taken. If there are several, the one known last (a correction) is taken; among these the choice
    depends on the values only, so that a rerun takes the same row. Both bounds are closed. NaN is a value like any
    other. A null in a column of the row that is taken stays null: no older row fills it in.

    There are two ways to the same result. By default events and a table go through one shuffle and one sort together,
    at any size. Tables with `broadcast` are read once, during this call, and sent to every worker; events do not move,
    and one pass over them looks up all such tables.

    Args:
        events: any grain; all columns and rows are kept, equal rows too.
        tables: at least one.
        at: the column of the events' instant. An event whose `at` or entity is null gets nulls.

    Returns:
        Grain: as `events`; its columns, then those of each table.

    Raises:
        ConfigurationError: a column is missing, or is there twice; an entity column has different types in the events
            and the table (integers of any size count as one type); with `broadcast`, an entity column is nested.
    """
    _check(events, tables, at=at)
    joined = events
    for table in tables:
        if not table.broadcast:
            joined = _sorted_together(joined, table, at=at)
    in_memory = [table for table in tables if table.broadcast]
    if in_memory:
        joined = _looked_up(joined, in_memory, at=at)
    brought = [column for table in tables for column in table.columns]
    return joined.select(*map(_of, [*events.columns, *brought]))


def _usable(table: Features) -> DataFrame:
    """The rows that can be used at all: entity, columns, since when each is usable, and what ranks them."""
    from pyspark.sql import functions as F

    times = (table.event_at, table.known_at)
    types = {field.name: field.dataType.simpleString() for field in table.rows.schema}
    is_whole = F.lit(True)
    for column in (*table.entity, *times):
        is_whole = is_whole & _of(column).isNotNull()
        if types[column] in ("float", "double"):
            is_whole = is_whole & ~F.isnan(_of(column))
    # Spark cannot hash maps.
    tied = [F.to_json(F.struct(_of(c))) if "map<" in types[c] else _of(c) for c in table.columns]
    return table.rows.where(is_whole).select(
        *(_of(c).alias(f"_key {place}") for place, c in enumerate(table.entity)),
        F.struct(*(_of(c).alias(f"_value {place}") for place, c in enumerate(table.columns))).alias("_values"),
        # A row is usable as soon as it has happened and is known, so at the later of the two.
        F.greatest(*(_of(c).cast("timestamp") for c in times)).alias("_usable_at"),
        _of(table.event_at).cast("timestamp").alias("_happened_at"),
        _of(table.known_at).cast("timestamp").alias("_known_at"),
        F.xxhash64(*tied).alias("_tie"),
    )


def _looked_up(events: DataFrame, tables: Sequence[Features], *, at: str) -> DataFrame:
    import pyarrow as pa
    from pyspark.sql import functions as F
    from pyspark.sql.types import StructField, StructType

    with ThreadPoolExecutor(_READERS) as readers:
        indexes = list(readers.map(_index, tables))
    found = [StructField(c, table.rows.schema[c].dataType) for table in tables for c in table.columns]
    fields = [*events.schema, *found]
    # With plain names: here Spark would take a dot in a name for a field of a struct.
    schema = StructType([StructField(f"_{place}", field.dataType) for place, field in enumerate(fields)])
    keys = [[events.columns.index(key) for key in table.entity] for table in tables]

    def look_up(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            *kept, instants = batch.columns
            found = [
                values
                for index, places in zip(indexes, keys, strict=True)
                for values in index.find(instants, *(kept[place] for place in places))
            ]
            yield pa.RecordBatch.from_arrays([*kept, *found], names=schema.names)

    # Whole events go through Python: for a function of single columns Spark queues the rows beside it, which is slower.
    kept = [_of(column).alias(f"_{place}") for place, column in enumerate(events.columns)]
    asking = events.select(*kept, F.unix_micros(_of(at).cast("timestamp")).alias("_asked_at"))
    return asking.mapInArrow(look_up, schema).toDF(*(field.name for field in fields))


def _index(table: Features) -> AsOfIndex:
    from pyspark.sql import functions as F

    instants = ("_usable_at", "_happened_at", "_known_at")
    usable = _usable(table)
    keys, values = _keys(table), [f"_value {place}" for place in range(len(table.columns))]
    rows = usable.select(
        *map(_of, keys),
        *(F.col("_values").getField(c).alias(c) for c in values),
        *(F.unix_micros(c).alias(c) for c in instants),
        "_tie",
    ).toArrow()
    return AsOfIndex.build(rows, entity=keys, columns=values, max_age=table.max_age)


def _keys(table: Features) -> list[str]:
    """Our own names for the entity's columns, which may have any names."""
    return [f"_key {place}" for place in range(len(table.entity))]


def _sorted_together(events: DataFrame, table: Features, *, at: str) -> DataFrame:
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    keys, span, max_age = _keys(table), table.span, table.max_age
    rank = F.struct("_happened_at", "_known_at", "_tie").alias("rank")
    row = F.struct(rank, F.struct("_values", "_happened_at").alias("values")).alias("_row")
    known = _usable(table).select(*map(_of, keys), F.col("_usable_at").alias("_at"), row)
    asking = events.select(
        *(_of(c).alias(key) for c, key in zip(table.entity, keys, strict=True)),
        _of(at).cast("timestamp").alias("_at"),
        F.struct(*map(_of, events.columns)).alias("_event"),
    )
    parts = [_of(key) for key in keys]
    if span is not None:
        known, asking = (rows.withColumn("_span", _span_of("_at", span)) for rows in (known, asking))
        known = known.unionByName(_carried(known, asking, keys=keys, span=span))
        parts.append(F.col("_span"))
    both = asking.unionByName(known, allowMissingColumns=True)
    # At the same instant features come first, since a value that is known at that moment counts.
    order = Window.partitionBy(*parts).orderBy("_at", F.col("_event").isNotNull())
    newest = F.max_by("_row.values", "_row.rank").over(order.rowsBetween(Window.unboundedPreceding, 0))
    joined = both.withColumn("_newest", newest).where("_event IS NOT NULL")
    is_fresh = F.lit(True)
    if max_age is not None:
        age = F.unix_micros("_at") - F.unix_micros(F.col("_newest._happened_at"))
        is_fresh = age <= F.lit(_micros(max_age))
    found = F.col("_newest._values")
    return joined.select(
        *(F.col("_event").getField(c).alias(c) for c in events.columns),
        *(F.when(is_fresh, found.getField(f"_value {place}")).alias(c) for place, c in enumerate(table.columns)),
    )


def _carried(known: DataFrame, asking: DataFrame, *, keys: list[str], span: timedelta) -> DataFrame:
    """For each entity and span with events, the newest row of all earlier spans, usable from the span's start."""
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    grouped = [*map(_of, keys), F.col("_span")]
    newest = known.groupBy(*grouped).agg(F.max_by("_row", "_row.rank").alias("_row"))
    asked = asking.groupBy(*grouped).agg(F.lit(True).alias("_is_asked"))
    spans = newest.join(asked, [*keys, "_span"], "full_outer")
    before = Window.partitionBy(*map(_of, keys)).orderBy("_span").rowsBetween(Window.unboundedPreceding, -1)
    carried = spans.withColumn("_row", F.max_by("_row", "_row.rank").over(before))
    start = F.timestamp_micros((F.col("_span") * _micros(span)).cast("long"))
    return carried.where("_is_asked AND _row IS NOT NULL").select(*map(_of, keys), start.alias("_at"), "_row", "_span")


def _of(column: str) -> Column:
    """The column of exactly this name, whatever characters it has."""
    from pyspark.sql import functions as F

    return F.col("`" + column.replace("`", "``") + "`")


def _span_of(column: str, span: timedelta) -> Column:
    from pyspark.sql import functions as F

    return F.floor(F.unix_micros(column) / F.lit(_micros(span))).cast("long")


def _micros(length: timedelta) -> int:
    return length // timedelta(microseconds=1)


def _check(events: DataFrame, tables: Sequence[Features], *, at: str) -> None:
    from pyspark.sql.types import ArrayType, IntegralType, MapType, StructType, VariantType

    if not tables:
        raise ConfigurationError("as_of_join: name at least one feature table, as Features(rows, entity, columns).")
    taken = set(map(str.lower, events.columns))
    for table in tables:
        times = (table.event_at, table.known_at)
        for frame, name, needed in (
            (events, "events", [*table.entity, at]),
            (table.rows, "features", [*table.entity, *times, *table.columns]),
        ):
            for column in needed:
                if column not in frame.columns:
                    raise ConfigurationError.unknown_name(f"as_of_join: column of the {name}", column, frame.columns)
        # Spark ignores the case of names.
        lower = [c.lower() for c in table.columns]
        twice = [c for place, c in enumerate(table.columns) if c.lower() in {*taken, *lower[:place]}]
        if twice:
            raise ConfigurationError(
                f"as_of_join: {twice} are columns of the events, or of a table before, already. Rename those of the "
                "features."
            )
        taken.update(lower)
        for key in table.entity:
            asked, kind = events.schema[key].dataType, table.rows.schema[key].dataType
            if asked != kind and not (isinstance(asked, IntegralType) and isinstance(kind, IntegralType)):
                raise ConfigurationError(
                    f"as_of_join: the entity column {key!r} is a {asked.simpleString()} in the events and a "
                    f"{kind.simpleString()} in the features. Cast one to the type of the other."
                )
            if table.broadcast and isinstance(kind, ArrayType | MapType | StructType | VariantType):
                raise ConfigurationError(
                    f"as_of_join: the entity column {key!r} is a {kind.simpleString()}, which broadcast=True cannot "
                    "look up. Leave it out, or use a string or a number as the key."
                )
