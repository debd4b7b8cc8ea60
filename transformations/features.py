"""Rows of a source and the definition of a feature table in; one row an entity and instant, with what was known, out.

Time is cut into steps of `every`. A source row belongs to the step [start, start + every) that its `event_at` is in. At
the end of each step in which an entity has a row, the entity gets a feature row: `event_at` is that end, and an
aggregate over a length of time takes the source rows of [event_at - over, event_at). So a row that happens at
`event_at` is not in it, and one that happened exactly `over` before is. An entity with no row in a step gets none at
its end: the last one before it goes on to be the newest, and `max_age` says for how long it may be used.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from datetime import timedelta
from typing import TYPE_CHECKING, Literal, get_args

from transformations.errors import ConfigurationError

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, WindowSpec

Function = Literal["count", "sum", "mean", "min", "max"]
_NAME = re.compile(r"[a-z][a-z0-9_]{0,60}")
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True)
class Aggregate:
    """A column of a feature table: a function of a column of the source over the last `over`.

    Attributes:
        function: null and NaN are no values: `sum`, `mean`, `min` and `max` pass over them, and are null where there
            is nothing else; `count` counts the others, and without a `column` all rows.
        over: a multiple of the table's `every`.
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
        entity: the source's columns that say of whom; with `event_at` they are the key.
        event_at: the source's column that says when a row happened, known_at: since when it could be known. A row in
            which one of these or of `entity` is null counts nowhere: nobody could say of whom or when.
        every: the step of time; see the module.
        max_age: so long a feature row may be used after its `event_at`; none: until there is a newer one.
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
        """All that decides its rows, as text."""
        return ", ".join(f"{field.name}={getattr(self, field.name)!r}" for field in fields(self))


def feature_rows(source: DataFrame, table: FeatureTable) -> DataFrame:
    """Grain: any → one row an entity and step in which it has a row.

    Args:
        source: the rows of one or more entities; all of those that a wanted row's longest window takes.

    Returns:
        `entity`, event_at, known_at and the aggregates. known_at is the latest of event_at and the known_at of all
        rows in the longest window: from then on nothing in the row changes but by a correction. A sum or mean of
        integers is exact; of floating-point numbers the last digit depends on the order of addition.

    Raises:
        ConfigurationError: the source lacks a column.
    """
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    wanted = [*table.entity, table.event_at, table.known_at, *(a.column for a in table.aggregates if a.column)]
    for column in wanted:
        if column not in source.columns:
            kind = f"column of {table.source} for the feature table {table.name!r}:"
            raise ConfigurationError.unknown_name(kind, column, source.columns)
    is_float = {f.name for f in source.schema if f.dataType.typeName() in ("double", "float")}
    rows = source.dropna(subset=[*table.entity, table.event_at, table.known_at])
    measured = {c: F.nanvl(c, F.lit(None)) for c in {a.column for a in table.aggregates if a.column} & is_float}
    rows = rows.withColumns(measured) if measured else rows
    parts = {name: part for a in table.aggregates for name, part in _parts(a).items()}
    steps = rows.groupBy(*table.entity, step_end(table.event_at, every=table.every).alias("_end")).agg(
        F.max(F.unix_micros(F.col(table.known_at).cast("timestamp"))).alias("_known"),
        *(part.alias(name) for name, part in parts.items()),
    )

    def last(over: timedelta) -> WindowSpec:
        window = Window.partitionBy(*table.entity).orderBy("_end")
        return window.rangeBetween(-(over // _MICROSECOND - table.every // _MICROSECOND), Window.currentRow)

    known = F.greatest("_end", F.max("_known").over(last(table.longest)))
    return steps.select(
        *table.entity,
        F.timestamp_micros("_end").alias("event_at"),
        F.timestamp_micros(known).alias("known_at"),
        *(_over(a, last(a.over)).alias(a.name) for a in table.aggregates),
    )


def step_end(event_at: str, *, every: timedelta) -> Column:
    """The end of the step that an instant is in, in microseconds; steps begin at 1970 and every `every` from there."""
    from pyspark.sql import functions as F

    length = F.lit(every // _MICROSECOND)
    at = F.unix_micros(F.col(event_at).cast("timestamp"))
    return at - F.pmod(at, length) + length


def touched_steps(changes: DataFrame, table: FeatureTable) -> DataFrame:
    """For each entity that a change of the source concerns: the first and the last feature row that it can reach.

    Args:
        changes: the source's rows as they were and as they are, in any order (a change feed is that).

    Returns:
        Grain: one row an entity. `entity`, `_first` and `_last`: the least and greatest `event_at`, in microseconds.
    """
    from pyspark.sql import functions as F

    rows = changes.dropna(subset=[*table.entity, table.event_at])
    ends = rows.select(*table.entity, step_end(table.event_at, every=table.every).alias("_end"))
    further = F.lit((table.longest - table.every) // _MICROSECOND)
    return ends.groupBy(*table.entity).agg(F.min("_end").alias("_first"), (F.max("_end") + further).alias("_last"))


def _parts(of: Aggregate) -> dict[str, Column]:
    """What a step keeps of its rows, such that the aggregate of several steps follows from it."""
    from pyspark.sql import functions as F

    if of.column is None:
        return {"_rows": F.count(F.lit(1))}
    parts = {
        f"_count {of.column}": F.count(of.column),
        f"_sum {of.column}": F.sum(of.column),
        f"_min {of.column}": F.min(of.column),
        f"_max {of.column}": F.max(of.column),
    }
    needed = {"mean": ("_sum", "_count")}.get(of.function, (f"_{of.function}",))
    return {name: part for name, part in parts.items() if name.split(" ", 1)[0] in needed}


def _over(of: Aggregate, window: WindowSpec) -> Column:
    from pyspark.sql import functions as F

    def total(part: str) -> Column:
        return F.sum(f"`{part} {of.column}`").over(window)

    if of.column is None:
        return F.sum("_rows").over(window)
    if of.function == "mean":
        counted = total("_count")
        return F.when(counted > 0, total("_sum") / counted)
    if of.function in ("min", "max"):
        function = F.min if of.function == "min" else F.max
        return function(f"`_{of.function} {of.column}`").over(window)
    return total(f"_{of.function}")
