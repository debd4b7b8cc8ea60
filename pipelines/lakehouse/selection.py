"""Which rows of a table a process takes into memory: chosen where they are, by delta-rs (SQL) or Spark (a frame).

So only the chosen rows come into the process.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import pyarrow as pa

from pipelines.lakehouse.predicates import all_in, quoted

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

# The value that a column must have (None: null), or several, of which it must have one.
Wanted: TypeAlias = str | int | Collection[str | None] | Collection[int | None] | None
Where: TypeAlias = Mapping[str, Wanted]
# Up to so many values are named in a condition of Spark; more are joined.
_NAMED = 2_000
_PLACE = "_place"


@dataclass(frozen=True)
class Newest:
    """The `most` rows with the greatest values of `by`, the greatest first; nulls come last."""

    by: str
    most: int


@dataclass(frozen=True)
class LastOf:
    """Of the rows that have the same `key`, the one with the greatest value of `by`; any of them if several have it."""

    key: tuple[str, ...]
    by: str


@dataclass(frozen=True)
class Without:
    """The rows whose `key` is in no row of the table `other`; null is a value too. All, if `other` does not exist."""

    other: str
    key: str


Which: TypeAlias = Newest | LastOf | Without


@dataclass(frozen=True)
class Selection:
    """Rows that have the values of `where`; of these, those of `which`, if that is given."""

    where: Where = field(default_factory=dict)
    which: Which | None = None

    @property
    def is_empty(self) -> bool:
        """Whether no row can be meant: a column has to have one of no values."""
        return any(not _values(value) for value in self.where.values())

    @property
    def condition(self) -> str | None:
        """`where` as SQL for delta-rs; None without any."""
        parts = []
        for column, value in self.where.items():
            values = [v for v in _values(value) if v is not None]
            ways = [all_in({column: values})] if values else []
            ways += [f"{quoted(column)} IS NULL"] if len(values) < len(_values(value)) else []
            parts.append(f"({' OR '.join(ways)})")
        return " AND ".join(parts) or None

    def sql(self, columns: Sequence[str]) -> str:
        """The SQL query for these columns, for delta-rs. The table is `rows` in it, and that of `Without` `others`."""
        names = ", ".join(map(quoted, columns))
        rows = f"FROM rows WHERE {self.condition or 'true'}"
        match self.which:
            case None:
                return f"SELECT {names} {rows}"
            case Newest(by, most):
                return f"SELECT {names} {rows} ORDER BY {quoted(by)} DESC NULLS LAST LIMIT {most:d}"
            case LastOf(key, by):
                over = f"PARTITION BY {', '.join(map(quoted, key))} ORDER BY {quoted(by)} DESC NULLS LAST"
                ranked = f"SELECT {names}, row_number() OVER ({over}) AS {_PLACE} {rows}"
                return f"SELECT {names} FROM ({ranked}) WHERE {_PLACE} = 1"
            case Without(_, key):
                same = f"others.{quoted(key)} IS NOT DISTINCT FROM rows.{quoted(key)}"
                return f"SELECT {names} {rows} AND NOT EXISTS (SELECT 1 FROM others WHERE {same})"

    def of_frame(self, frame: DataFrame, columns: Sequence[str], *, others: DataFrame | None = None) -> DataFrame:
        """These columns of the rows of a frame; `others` is the table of `Without`."""
        from pyspark.sql import Window
        from pyspark.sql import functions as F

        for column, value in self.where.items():
            values = [v for v in _values(value) if v is not None]
            has_null = F.lit(len(values) < len(_values(value))) & F.col(quoted(column)).isNull()
            if len(values) <= _NAMED:
                frame = frame.where(F.col(quoted(column)).isin(values) | has_null)
            else:
                named = frame.sparkSession.createDataFrame(pa.table({"_value": sorted(set(values))}))
                frame = frame.join(named, (F.col(quoted(column)) == named["_value"]) | has_null, "left_semi")
        wanted = [F.col(quoted(name)) for name in columns]
        match self.which:
            case None:
                return frame.select(*wanted)
            case Newest(by, most):
                return frame.orderBy(F.col(quoted(by)).desc_nulls_last()).limit(most).select(*wanted)
            case LastOf(key, by):
                over = Window.partitionBy(*map(quoted, key)).orderBy(F.col(quoted(by)).desc_nulls_last())
                return frame.withColumn(_PLACE, F.row_number().over(over)).where(f"{_PLACE} = 1").select(*wanted)
            case Without(_, key):
                assert others is not None
                found = others.select(F.col(quoted(key)).alias(_PLACE))
                return frame.join(found, F.col(quoted(key)).eqNullSafe(found[_PLACE]), "left_anti").select(*wanted)


ALL_ROWS = Selection()


def _values(value: Wanted) -> list[Any]:
    return [value] if value is None or isinstance(value, str | int) else list(value)
