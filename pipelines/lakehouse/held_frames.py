"""`HeldFrames`: frames that are computed once and read several times, whatever the session allows."""

from __future__ import annotations

import logging
from functools import reduce
from operator import add
from typing import TYPE_CHECKING

import pyarrow as pa

from pipelines.lakehouse.delta_folder import FEW_BYTES, HELD_ROWS
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
        if self._is_allowed:
            try:
                frame = frame.persist()
            except Exception as error:
                if not _is_refusal(error):
                    raise
                self._is_allowed = False
                log.info("this session has no cache (%s): rows are held in this process", _first_line(error))
            else:
                self._held.append(frame)
                return frame
        held = _in_memory(frame)
        if held is None and not is_repeatable:
            raise ConfigurationError(
                "this Spark session has no cache, and a step has more rows than this process holds "
                f"({HELD_ROWS:,} rows, {FEW_BYTES >> 20} MB). Use a session that has one: on Databricks serverless "
                "compute from environment version 5, or a cluster. Or deliver in smaller parts."
            )
        return frame if held is None else held

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


def text_bytes(rows: DataFrame) -> Column:
    """The bytes of all texts and binary values of some rows: nearly all of their size, if they are large."""
    from pyspark.sql import functions as F
    from pyspark.sql import types as T

    texts = [f.name for f in rows.schema.fields if isinstance(f.dataType, T.StringType | T.BinaryType)]
    weights = [F.coalesce(F.octet_length(F.col(f"`{name}`")), F.lit(0)).cast("bigint") for name in texts]
    return F.sum(reduce(add, weights, F.lit(0).cast("bigint")))


def _in_memory(frame: DataFrame) -> DataFrame | None:
    """The rows in this process, as a frame; None if they are too large."""
    from pyspark.sql import functions as F

    first = frame.limit(HELD_ROWS + 1)
    sized = first.agg(F.count("*"), text_bytes(frame)).first()
    assert sized is not None
    if sized[0] > HELD_ROWS or (sized[1] or 0) > FEW_BYTES:
        return None
    return frame_of(frame.sparkSession, first.toArrow())


def _is_refusal(error: Exception) -> bool:
    state = getattr(error, "getSqlState", lambda: None)()
    return state == _NOT_SUPPORTED or "NOT_SUPPORTED_WITH_SERVERLESS" in str(error)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]
