"""Operations on rows that work on a Spark frame and, if the rows are few, on an Arrow table in memory.

So a stage is written once, and what fits into memory needs no Spark. A function that returns `Rows` returns a frame for
a frame and a table for a table; `mapped` returns a frame for a table too, if Spark had to do the work.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any, TypeAlias, Union

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.flow.stage import Context
from pipelines.flow.workers import map_in_workers, weight_of
from pipelines.lakehouse.delta_folder import FEW_BYTES
from pipelines.lakehouse.session import local_cores, parallelism

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

Rows: TypeAlias = Union["DataFrame", pa.Table]
Batches = Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]
# This process is done with rows of so many bytes before a worker would have started.
_HERE_BYTES = 2 * 1024 * 1024
# So few rows are never worth the start of Spark, whatever they weigh: only what comes of them is held.
_FEW = 32
# Each worker has memory of its own, for a model or a parser.
_MOST_WORKERS = 8
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
        return context.frames.hold(rows)
    return rows


def mapped(context: Context, rows: Rows, function: Batches, schema: pa.Schema, *, growth: float = 1) -> Rows:
    """The result of a function for `mapInArrow` on the rows, with the columns of `schema`.

    The smallest work is done in this process, what is still held in memory by workers of this machine, and all else by
    those of Spark: a frame is returned also for a table if it is too heavy, or if what comes of it is (a small file may
    unfold to a large text).

    Args:
        growth: how many times as heavy as the rows the result is expected to be.
    """
    if isinstance(rows, pa.Table) and (is_light(rows) or _weight(rows) * growth <= FEW_BYTES or rows.num_rows <= _FEW):
        found = _mapped_here(rows, function, schema, most=min(local_cores(context.settings), _MOST_WORKERS))
        if found is not None:
            return found
    from pyspark.sql.pandas.types import from_arrow_schema

    return partitions(as_frame(context, rows)).mapInArrow(function, from_arrow_schema(schema))


def _mapped_here(rows: pa.Table, function: Batches, schema: pa.Schema, *, most: int) -> pa.Table | None:
    """The result of `mapped` by this process, or by up to `most` workers; None if it is for Spark."""
    if not is_light(rows):
        if most == 0 and rows.num_rows > _FEW:
            return None
        if most > 1 and rows.num_rows > 1:
            return map_in_workers(function, _parts(rows, most), schema, most_bytes=FEW_BYTES)
    made, size = [schema.empty_table()], 0
    for batch in function(iter(rows.to_batches())):
        made.append(pa.table(batch).select(schema.names).cast(schema))
        size += weight_of(batch)
        if size > FEW_BYTES:
            return None
    return pa.concat_tables(made)


def is_light(rows: Rows) -> bool:
    """Whether work that takes each row for itself is done before a worker would have started."""
    return isinstance(rows, pa.Table) and _weight(rows) <= _HERE_BYTES


def _weight(rows: pa.Table) -> int:
    """What the rows weigh: the sum of the column `size`, which stands for bytes that are elsewhere; else their own."""
    return (pc.sum(rows["size"]).as_py() or 0) if "size" in rows.column_names else rows.nbytes


def _parts(rows: pa.Table, most: int) -> list[pa.Table]:
    """The rows in up to `most` parts, which follow each other and weigh about the same, none of them light."""
    by = next(name for name in ("size", "text", "embed_text") if name in rows.column_names)
    weights = rows[by] if by == "size" else pc.binary_length(rows[by])
    up_to = list(accumulate(of or 0 for of in weights.to_pylist()))
    count = min(most, max(2, _weight(rows) // _HERE_BYTES))
    cuts = [bisect(up_to, up_to[-1] * part // count) for part in range(1, count)]
    return [rows.slice(start, stop - start) for start, stop in pairwise([0, *cuts, rows.num_rows]) if start < stop]


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


def where_not_in(rows: Rows, column: str, values: Collection[Any]) -> Rows:
    """The rows whose `column`, which is never null, has none of a few values."""
    if isinstance(rows, pa.Table):
        return rows.filter(pc.invert(pc.is_in(rows[column], pa.array(list(values), rows.schema.field(column).type))))
    return rows.where(~rows[column].isin(list(values))) if values else rows


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
