"""Operations on rows that work on a Spark frame and, if the rows are few, on an Arrow table in memory.

So a stage is written once, and a small change needs no Spark. A function that returns `Rows` returns a table for a
table and a frame for a frame.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, Union

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.flow.stage import Context
from pipelines.lakehouse.session import parallelism

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

Rows: TypeAlias = Union["DataFrame", pa.Table]
Batches = Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]
# This process is done with so many rows, or with rows of so many bytes, before Spark would have started its workers.
_HERE, _HERE_BYTES = 32, 2 * 1024 * 1024
_ARROW: dict[type, pa.DataType] = {str: pa.string(), int: pa.int64()}
_SPARK: dict[type, str] = {str: "string", int: "bigint"}


def as_frame(context: Context, rows: Rows) -> DataFrame:
    return context.lake.frame(rows) if isinstance(rows, pa.Table) else rows


def as_table(rows: Rows) -> pa.Table:
    """All rows in memory; only for rows that are known to be few."""
    return rows if isinstance(rows, pa.Table) else rows.toArrow()


def row_count(rows: Rows) -> int:
    """How many rows there are; a frame is computed for it."""
    return len(rows) if isinstance(rows, pa.Table) else rows.count()


def kept(context: Context, rows: Rows) -> Rows:
    """The same rows, computed only once: a frame is persisted until the stage ends."""
    if not isinstance(rows, pa.Table):
        context.persisted.append(rows.persist())
    return rows


def mapped(context: Context, rows: Rows, function: Batches, schema: pa.Schema) -> Rows:
    """The result of a function for `mapInArrow` on the rows, with the columns of `schema`.

    Light rows in memory go to the function in this process; all others go to Spark's Python workers, as many as may
    work at once.
    """
    if is_light(rows):
        batches = as_table(rows).to_batches()
        made = [pa.table(batch).select(schema.names).cast(schema) for batch in function(iter(batches))]
        return pa.concat_tables([schema.empty_table(), *made])
    from pyspark.sql.pandas.types import from_arrow_schema

    frame = partitions(as_frame(context, rows)).mapInArrow(function, from_arrow_schema(schema))
    return frame.toArrow().cast(schema) if isinstance(rows, pa.Table) else frame


def is_light(rows: Rows) -> bool:
    """Whether work that takes each row for itself is done soonest in this process.

    A row weighs what its column `size` says, which stands for bytes that are elsewhere; else its own bytes.
    """
    if not isinstance(rows, pa.Table):
        return False
    weight = pc.sum(rows["size"]).as_py() if "size" in rows.column_names else rows.nbytes
    return rows.num_rows <= _HERE or (weight or 0) <= _HERE_BYTES


def partitions(rows: DataFrame) -> DataFrame:
    """`rows` in as many partitions as may work at once: a small table is one file, and would be one partition."""
    return rows.repartition(parallelism(rows.sparkSession))


def selected(rows: Rows, columns: Sequence[str]) -> Rows:
    """The rows with these columns only."""
    return rows.select(list(columns))


def without(rows: Rows, columns: Collection[str]) -> Rows:
    """The rows without these columns; names that they do not have are ignored."""
    if isinstance(rows, pa.Table):
        return rows.select([name for name in rows.column_names if name not in columns])
    return rows.drop(*columns)


def with_values(rows: Rows, **values: str | int) -> Rows:
    """The rows with columns that have one value each, a string or a long; a column of the same name is replaced."""
    if isinstance(rows, pa.Table):
        table = as_table(without(rows, values))
        for name, value in values.items():
            table = table.append_column(name, pa.array([value] * len(table), _ARROW[type(value)]))
        return table
    from pyspark.sql import functions as F

    return rows.withColumns({name: F.lit(value).cast(_SPARK[type(value)]) for name, value in values.items()})


def where_in(rows: Rows, column: str, values: Collection[Any]) -> Rows:
    """The rows whose `column` has one of a few values."""
    if isinstance(rows, pa.Table):
        return rows.filter(pc.is_in(rows[column], pa.array(list(values), rows.schema.field(column).type)))
    return rows.where(rows[column].isin(list(values)))


def where_null(rows: Rows, column: str) -> Rows:
    """The rows whose `column` is null."""
    return rows.filter(pc.is_null(rows[column])) if isinstance(rows, pa.Table) else rows.where(f"{column} IS NULL")


def where_some(rows: Rows, column: str) -> Rows:
    """The rows whose `column` is not null."""
    return rows.filter(pc.is_valid(rows[column])) if isinstance(rows, pa.Table) else rows.where(f"{column} IS NOT NULL")


def to_pylist(rows: Rows) -> list[dict[str, Any]]:
    """The rows as dictionaries, all in memory; only for rows that are known to be few."""
    found: list[dict[str, Any]] = as_table(rows).to_pylist()
    return found
