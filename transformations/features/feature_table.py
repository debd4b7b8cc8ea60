"""Rows of a source and the definition of a feature table in, one feature row for each entity and step of time out.

Time is cut into steps of `every`. A source row belongs to the step [start, start + every) that its `event_at` is in. At
the end of each step in which an entity has a row, the entity gets a feature row. Its `event_at` is that end, and an
aggregate over a length of time takes the source rows of [event_at - over, event_at): a row that happens at `event_at`
is not in it, and a row that happened exactly `over` before is. If an entity has no row in a step, it gets no feature
row at its end: its last one stays the newest, and `max_age` says how long that may be used.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import timedelta
from typing import TYPE_CHECKING, Literal, get_args

from transformations.errors import ConfigurationError
from transformations.tables.column_types import is_nested

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, WindowSpec

Function = Literal["count", "sum", "mean", "min", "max"]
_NAME = re.compile(r"[a-z][a-z0-9_]{0,60}")
_MICROSECOND = timedelta(microseconds=1)
_INTEGERS = ("tinyint", "smallint", "int", "bigint")
_FLOATING = ("float", "double")
_DECIMAL = re.compile(r"decimal\((\d+),(\d+)\)")
# A sum of decimals with at most this many digits is exact: 38 digits have room for 10,000,000,000 of them.
_EXACT_DIGITS = 28
# The instants that every engine and Python can hold, in microseconds: the years 1 to 9999.
_FIRST, _LAST = -62_135_596_800_000_000, 253_402_300_799_999_999


@dataclass(frozen=True)
class Aggregate:
    """A column of a feature table: a function of a column of the source over the last `over`.

    Attributes:
        function: null and NaN are no values. `sum`, `mean`, `min` and `max` leave them out, and are null if there is
            no value; `count` counts the values, or all rows if there is no `column`. `sum` and `mean` take numbers
            only; `min` and `max` take every type that has an order and is not nested.
        over: the length of time; a multiple of the table's `every`.
    """

    name: str
    function: Function
    column: str | None = None
    over: timedelta = timedelta(days=1)


@dataclass(frozen=True)
class FeatureTable:
    """What gold.features_<name> holds.

    Attributes:
        source: the table whose rows are aggregated. Its change feed is on.
        entity: the source's columns that name the entity; with `event_at` they are the key.
        event_at: the source's column that says when a row happened.
        known_at: the source's column that says since when the row could be known. A row does not count if it is null
            in one of these two columns or in `entity`, or if it is outside the years 1 to 9999: see `is_usable`.
        every: the step of time; see the module.
        max_age: how long a feature row may be used after its `event_at`; None: until there is a newer one. A join by
            the table's name or definition (`training_set.cut`, `Features.of`) applies it.
    """

    name: str
    source: str
    entity: tuple[str, ...]
    aggregates: tuple[Aggregate, ...]
    event_at: str = "event_at"
    known_at: str = "known_at"
    every: timedelta = timedelta(days=1)
    max_age: timedelta | None = None

    def __post_init__(self) -> None:
        names = [*self.entity, *(a.name for a in self.aggregates)]
        if not self.entity or not self.aggregates:
            raise self._wrong("it needs at least one entity column and one aggregate")
        if not _NAME.fullmatch(self.name):
            raise self._wrong("its name is part of a table's: lower-case letters, digits and _")
        if len({*names, "event_at", "known_at"}) < len(names) + 2 or any(n.startswith("_") for n in names):
            raise self._wrong(f"{names} must differ from each other, from event_at and known_at, and not begin with _")
        if self.every <= timedelta(0):
            raise self._wrong("every must be longer than nothing")
        for each in self.aggregates:
            if each.function not in get_args(Function):
                raise self._wrong(f"{each.name} has the function {each.function!r}; there are {get_args(Function)}")
            if each.column is None and each.function != "count":
                raise self._wrong(f"{each.name} needs a column; only count can do without")
            if each.over < self.every or each.over % self.every:
                raise self._wrong(f"{each.name} is over {each.over}, which is no multiple of every ({self.every})")

    def _wrong(self, what: str) -> ConfigurationError:
        return ConfigurationError(f"the feature table {self.name!r}: {what}.")

    @property
    def columns(self) -> list[str]:
        """The names of the aggregates."""
        return [a.name for a in self.aggregates]

    @property
    def key(self) -> list[str]:
        return [*self.entity, "event_at"]

    @property
    def longest(self) -> timedelta:
        return max(a.over for a in self.aggregates)

    @property
    def fingerprint(self) -> str:
        """Everything in the definition, which decides the table's rows, as text."""
        return ", ".join(f"{field.name}={getattr(self, field.name)!r}" for field in fields(self))


def result_type(of: Aggregate, column: str) -> str | None:
    """The canonical type of an aggregate over a column of a canonical type; None if there is no such aggregate."""
    if of.function == "count":
        return "bigint"
    if of.function in ("min", "max"):
        return None if is_nested(column) or column in ("variant", "void") else column
    digits = _DECIMAL.fullmatch(column)
    if column not in (*_INTEGERS, *_FLOATING) and digits is None:
        return None
    if of.function == "mean" or column in _FLOATING:
        return "double"
    if digits is not None:
        return f"decimal({min(38, int(digits[1]) + 10)},{digits[2]})"
    # 64 bits hold the sum of 4,000,000,000 integers of the smaller types.
    return "decimal(38,0)" if column == "bigint" else "bigint"


def check_columns(table: FeatureTable, types: Mapping[str, str]) -> None:
    """Check the definition against the source's columns, name → canonical type.

    Raises:
        ConfigurationError: a column is missing, or an aggregate's function cannot take its column's type.
    """
    for column in [*table.entity, table.event_at, table.known_at, *(a.column for a in table.aggregates if a.column)]:
        if column not in types:
            kind = f"column of {table.source} for the feature table {table.name!r}:"
            raise ConfigurationError.unknown_name(kind, column, types)
    for each in table.aggregates:
        if each.column is not None and result_type(each, types[each.column]) is None:
            raise ConfigurationError(
                f"the feature table {table.name!r}: {each.name} is the {each.function} of {each.column!r}, which is "
                f"{types[each.column]} in {table.source}: there is none. Use count, or a column of another type."
            )
    for column in (table.event_at, table.known_at):
        if types[column] not in ("timestamp", "timestamp_ntz", "date"):
            raise ConfigurationError(
                f"the feature table {table.name!r}: {column!r} says when, but is {types[column]} in {table.source}. "
                "Name a column of type timestamp or date."
            )
    for column in table.entity:
        if is_nested(types[column]):
            raise ConfigurationError(
                f"the feature table {table.name!r}: {column!r} says of whom, but is {types[column]} in {table.source}. "
                "Name a column of a plain type."
            )


def feature_rows(source: DataFrame, table: FeatureTable) -> DataFrame:
    """Aggregate source rows to feature rows. Grain: any → one row for each entity and step in which it has a row.

    Args:
        source: the rows of one or more entities: for each feature row that is wanted, all rows of its longest window.

    Returns:
        `entity`, event_at, known_at and the aggregates. known_at is the latest of event_at and the known_at of all
        rows in the longest window: after that only a correction changes the row. A sum of integers or decimals is
        exact, and a mean of them is the nearest double. For floating-point numbers, and for the mean of decimals of
        more than 28 digits, the last digit depends on the order of addition. A sum of over 38 digits is an error.

    Raises:
        ConfigurationError: the source lacks a column, or has one of a type that the aggregate cannot take.
    """
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    types = {f.name: f.dataType.simpleString() for f in source.schema}
    check_columns(table, types)
    rows = source.where(is_usable(source, table))
    measured = {
        a.column: F.nanvl(_of(a.column), F.lit(None))
        for a in table.aggregates
        if types.get(a.column or "") in _FLOATING
    }
    rows = rows.withColumns(measured) if measured else rows  # type: ignore[arg-type]
    parts = {name: part for a in table.aggregates for name, part in _parts(a, types.get(a.column or "", "")).items()}
    entity = [_of(c) for c in table.entity]
    steps = rows.groupBy(*entity, step_end(table.event_at, every=table.every).alias("_end")).agg(
        F.max(_micros_of(table.known_at)).alias("_known"),
        *(part.alias(name) for name, part in parts.items()),
    )

    def last(over: timedelta) -> WindowSpec:
        window = Window.partitionBy(*entity).orderBy("_end")
        return window.rangeBetween(-(over // _MICROSECOND - table.every // _MICROSECOND), Window.currentRow)

    known = F.greatest("_end", F.max("_known").over(last(table.longest)))
    return steps.select(
        *entity,
        F.timestamp_micros("_end").alias("event_at"),
        F.timestamp_micros(known).alias("known_at"),
        *(_over(a, last(a.over), table).alias(a.name) for a in table.aggregates),
    )


def is_usable(source: DataFrame, table: FeatureTable) -> Column:
    """Whether a row of the source counts: entity and times are not null, and its step ends in the years 1 to 9999."""
    from pyspark.sql import functions as F

    usable = F.lit(True)
    for column in table.entity:
        usable = usable & _of(column).isNotNull()
    end, known = step_end(table.event_at, every=table.every), _micros_of(table.known_at)
    # A comparison with null is null, which must count as false.
    return F.coalesce(usable & end.between(_FIRST, _LAST) & known.between(_FIRST, _LAST), F.lit(False))


def step_end(event_at: str, *, every: timedelta) -> Column:
    """The end of the step that holds an instant, in microseconds; steps are counted from 1970-01-01 (UTC) on."""
    from pyspark.sql import functions as F

    length = F.lit(every // _MICROSECOND)
    at = _micros_of(event_at)
    return at - F.pmod(at, length) + length


def touched_steps(changes: DataFrame, table: FeatureTable) -> DataFrame:
    """For each entity with changed source rows, the first and the last feature row that the changes can reach.

    Args:
        changes: the source's rows as they were and as they are, in any order, such as a change feed.

    Returns:
        Grain: one row for each entity. `entity`, `_first` and `_last`: the least and greatest `event_at` that can
        change, in microseconds.
    """
    from pyspark.sql import functions as F

    rows = changes.where(is_usable(changes, table))
    entity = [_of(c) for c in table.entity]
    ends = rows.select(*entity, step_end(table.event_at, every=table.every).alias("_end"))
    # A step cannot end later than that.
    last = F.least(F.max("_end") + F.lit((table.longest - table.every) // _MICROSECOND), F.lit(_LAST))
    return ends.groupBy(*entity).agg(F.min("_end").alias("_first"), last.alias("_last"))


def _of(column: str | None) -> Column:
    """The column of exactly this name, whatever characters it has."""
    from pyspark.sql import functions as F

    return F.col("`" + (column or "").replace("`", "``") + "`")


def _micros_of(column: str) -> Column:
    from pyspark.sql import functions as F

    return F.unix_micros(_of(column).cast("timestamp"))


def _parts(of: Aggregate, column: str) -> dict[str, Column]:
    """The partial aggregates of one step, from which the aggregate over several steps is made."""
    from pyspark.sql import functions as F

    if of.column is None:
        return {"_rows": F.count(F.lit(1))}
    value = _of(of.column)
    kept = {
        "_count": F.count(value),
        "_sum": F.try_sum(_summand(value, column)),
        "_total": F.try_sum(_summand(value, column, of_mean=True)),
        "_min": F.min(value),
        "_max": F.max(value),
    }
    needed = {"mean": ("_total", "_count"), "sum": ("_sum", "_count")}.get(of.function, (f"_{of.function}",))
    return {f"{part} {of.column}": kept[part] for part in needed}


def _summand(value: Column, column: str, *, of_mean: bool = False) -> Column:
    """`value` in a type in which the sum of many is exact, if there is such a type."""
    digits = _DECIMAL.fullmatch(column)
    if of_mean and digits is not None and int(digits[1]) > _EXACT_DIGITS:
        return value.cast("double")
    return value.cast("decimal(28,0)") if column == "bigint" else value


def _over(of: Aggregate, window: WindowSpec, table: FeatureTable) -> Column:
    from pyspark.sql import functions as F

    def part(name: str) -> Column:
        return _of(f"{name} {of.column}")

    if of.column is None:
        return F.sum("_rows").over(window)
    counted = F.sum(part("_count")).over(window) if of.function in ("count", "mean", "sum") else F.lit(0)
    if of.function == "count":
        return counted
    if of.function in ("min", "max"):
        function = F.min if of.function == "min" else F.max
        return function(part(f"_{of.function}")).over(window)
    if of.function == "mean":
        return F.when(counted > 0, F.try_sum(part("_total")).over(window).cast("double") / counted)
    # The sum of a step that overflowed is null, and the sum over steps would leave it out.
    lost = F.max((part("_sum").isNull() & (part("_count") > 0)).cast("int")).over(window) == 1
    total = F.try_sum(part("_sum")).over(window)
    too_large = f"the feature table {table.name!r}: a sum of {of.column!r} has over 38 digits. Use mean, or doubles"
    return F.when(lost | ((counted > 0) & total.isNull()), F.raise_error(F.lit(too_large))).otherwise(total)
