"""Refused rows and a quarantine table in, the changes of that table out."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import reduce
from operator import and_
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


def quarantine_changes(
    current: DataFrame, refused: DataFrame, *, key: str, same: Sequence[str], now: datetime
) -> DataFrame:
    """The changes that bring the quarantine up to date after a batch.

    Args:
        current: the quarantine's rows in the scope of the batch, one for each key.
        refused: the batch's refused rows, with the quarantine's columns except `attempts` and `replayed_at`.
        key: the key column.
        same: if an open row is equal in these columns, it is the same refusal, and nothing is written.
        now: UTC instant for `replayed_at`.

    Returns:
        The quarantine's columns and `_op`: an insert with `attempts` 1 for a new key; an update with `attempts` one
        higher for a key that was refused before, in another form or before it was repaired; an update with
        `replayed_at` for an open key in scope that is no longer refused (repaired, or gone).
    """
    from pyspark.sql import functions as F

    before = current.select(*[F.col(c).alias(f"_was_{c}") for c in current.columns])
    joined = refused.join(before, F.col(key) == F.col(f"_was_{key}"), "full_outer")
    is_open = F.col(f"_was_{key}").isNotNull() & F.col("_was_replayed_at").isNull()
    is_same = reduce(and_, (F.col(c).eqNullSafe(F.col(f"_was_{c}")) for c in same))
    op = (
        F.when(F.col(f"_was_{key}").isNull(), "insert")
        .when(F.col(key).isNull() & is_open, "update")
        .when(F.col(key).isNotNull() & ~(is_open & is_same), "update")
    )

    def value(column: str) -> object:
        if column == "attempts":
            before_attempts = F.coalesce(F.col("_was_attempts"), F.lit(0))
            return F.when(F.col(key).isNull(), before_attempts).otherwise(before_attempts + 1).cast("int")
        if column == "replayed_at":
            return F.when(F.col(key).isNull(), F.lit(now)).cast("timestamp")
        return F.when(F.col(key).isNull(), F.col(f"_was_{column}")).otherwise(F.col(column))

    columns = [value(c).alias(c) for c in current.columns]  # type: ignore[attr-defined]
    return joined.select(*columns, op.alias("_op")).where("_op IS NOT NULL")
