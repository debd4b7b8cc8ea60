"""`HeldFrames`: frames that are computed once and read several times, whatever the session allows."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import reduce
from operator import add
from typing import TYPE_CHECKING

import pyarrow as pa

from pipelines.lakehouse.delta_folder import FEW_BYTES, FEW_ROWS, HELD_ROWS, typed
from pipelines.lakehouse.predicates import quoted
from transformations.errors import ConfigurationError

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession

log = logging.getLogger(__name__)
# SQLSTATE of "feature not supported": serverless compute before environment version 5 has no cache.
_NOT_SUPPORTED = "0A000"


class HeldFrames:
    """Frames that a stage holds until it releases them.

    They are persisted. If the session has no cache, which its first refusal tells, the rows are held in this process
    instead. Frames that are no function of tables alone must not be computed anew for each reader: a parser that runs
    into its limit of time, or a model that fails, gives other rows the second time.
    """

    def __init__(self) -> None:
        self._held: list[DataFrame] = []
        self._is_allowed = True

    def __len__(self) -> int:
        return len(self._held)

    def hold(self, frame: DataFrame, *, is_repeatable: bool = False) -> DataFrame:
        """The same rows, computed once.

        Args:
            is_repeatable: computed again they are the same rows, so that this is done if there is no other way.

        Raises:
            ConfigurationError: the session has no cache, and the rows, which are not repeatable, are too large for this
                process.
        """
        held = self._persisted(frame)
        if held is not None:
            return held
        rows = _in_memory(frame)
        if rows is None and not is_repeatable:
            raise _too_large()
        return frame if rows is None else frame_of(frame.sparkSession, rows)

    def few(self, frame: DataFrame, schema: pa.Schema) -> DataFrame | pa.Table:
        """The same rows, computed once, and in memory if they are few.

        Args:
            schema: the columns of the frame.

        Raises:
            ConfigurationError: as in `hold`.
        """
        held = self._persisted(frame)
        if held is None:
            rows = _in_memory(frame)
            if rows is None:
                raise _too_large()
            return typed(rows, schema)
        few = few_in_memory(held, schema, rows=FEW_ROWS, size=FEW_BYTES)
        if few is None:
            return held
        self.release(held)
        return few

    def _persisted(self, frame: DataFrame) -> DataFrame | None:
        """The frame, persisted; None if the session has no cache."""
        if not self._is_allowed:
            return None
        try:
            frame = frame.persist()
        except Exception as error:
            if not _is_refusal(error):
                raise
            self._is_allowed = False
            log.info("this session has no cache (%s): rows are held in this process", _first_line(error))
            return None
        self._held.append(frame)
        return frame

    def release(self, frame: DataFrame) -> None:
        """Free what `hold` has kept of this frame."""
        if any(held is frame for held in self._held):
            self._held = [held for held in self._held if held is not frame]
            frame.unpersist()

    def release_all(self) -> None:
        while self._held:
            self._held.pop().unpersist()


def frame_of(spark: SparkSession, rows: pa.Table) -> DataFrame:
    """Rows in memory as a frame."""
    from pyspark.sql.pandas.types import from_arrow_schema

    if any(chunk.offset for column in rows.columns for chunk in column.chunks):
        rows = rows.take(pa.array(range(rows.num_rows)))  # pyarrow cannot cast, for Spark, a slice of a struct
    # Spark fails on an empty Arrow table that has a list among its columns.
    return spark.createDataFrame(rows if rows.num_rows else [], from_arrow_schema(rows.schema))


def rows_of(frame: DataFrame) -> pa.Table:
    """All rows of a frame in memory, by one call.

    `toArrow` of Spark Connect makes two: it asks for the schema first, though the rows come with theirs.
    """
    fetch = getattr(frame, "_to_table", None)  # Connect's frames alone have it
    return frame.toArrow() if fetch is None else fetch()[0]


def text_bytes(rows: DataFrame) -> Column:
    """The bytes of all texts and binary values of some rows: nearly all of their size, if they are large."""
    from pyspark.sql import functions as F

    return F.sum(_weight(_texts(rows)))


def few_in_memory(frame: DataFrame, schema: pa.Schema, *, rows: int, size: int) -> pa.Table | None:
    """All rows of a frame that has the columns of `schema`, by one call; None if they are more than `rows`, or if their
    texts have more than `size` bytes: then only their number comes here.
    """
    texts = [f.name for f in schema if pa.types.is_string(f.type) or pa.types.is_binary(f.type)]
    found = _first(frame, columns=schema.names, texts=texts, rows=rows, size=size)
    return None if found is None else typed(found, schema)


def _first(frame: DataFrame, *, columns: Sequence[str], texts: Sequence[str], rows: int, size: int) -> pa.Table | None:
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    first = frame.limit(rows + 1).select(
        F.struct(*(F.col(quoted(name)) for name in columns)).alias("row"),
        F.sum(_weight(texts)).over(Window.partitionBy(F.lit(0))).alias("size"),
    )
    found = rows_of(first.select(F.when(F.col("size") <= size, F.col("row")).alias("row")))
    if found.num_rows > rows or found["row"].null_count:
        return None
    # Not by `flatten` of the table: two columns may have one name but for its case.
    values = [
        pa.chunked_array([chunk.field(place) for chunk in found["row"].chunks], found["row"].type[place].type)
        for place in range(len(columns))
    ]
    return pa.Table.from_arrays(values, names=list(columns))


def _texts(rows: DataFrame) -> list[str]:
    from pyspark.sql import types as T

    return [f.name for f in rows.schema.fields if isinstance(f.dataType, T.StringType | T.BinaryType)]


def _weight(texts: Sequence[str]) -> Column:
    from pyspark.sql import functions as F

    sizes = [F.coalesce(F.octet_length(F.col(quoted(name))), F.lit(0)).cast("bigint") for name in texts]
    return reduce(add, sizes, F.lit(0).cast("bigint"))


def _in_memory(frame: DataFrame) -> pa.Table | None:
    """The rows in this process; None if they are too large."""
    return _first(frame, columns=frame.columns, texts=_texts(frame), rows=HELD_ROWS, size=FEW_BYTES)


def _too_large() -> ConfigurationError:
    return ConfigurationError(
        f"this Spark session has no cache, and a step has more rows than this process holds ({HELD_ROWS:,} rows, "
        f"{FEW_BYTES >> 20} MB). Use a session that has one: on Databricks serverless compute from environment "
        "version 5, or a cluster. Or deliver in smaller parts."
    )


def _is_refusal(error: Exception) -> bool:
    state = getattr(error, "getSqlState", lambda: None)()
    return state == _NOT_SUPPORTED or "NOT_SUPPORTED_WITH_SERVERLESS" in str(error)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]
