"""Refused rows in; the quarantine table told of them, and of those that are refused no longer, out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pyarrow.compute as pc

from expectations.quarantine import quarantine_changes
from pipelines.flow.changed_rows import apply_changes, touched
from pipelines.flow.stage import Context, Versions

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


def set_aside(
    context: Context,
    table: str,
    refused: DataFrame,
    *,
    scope: DataFrame,
    versions: Versions,
    same: Sequence[str],
    count: int | None = None,
    scope_key: str = "document_id",
) -> int:
    """Bring the quarantine `table` up to date before the rows' own table is, so that a row is never in neither.

    Args:
        refused: rows with the quarantine's columns, `failed_rules` among them; persisted by the caller.
        scope: the values of `scope_key` that were judged: an open row of theirs that is not refused now is closed.
        same: the columns that tell whether it is the very row refused before.
        count: how many rows are refused, where that is known.

    Returns:
        How many rows are refused.
    """
    from pyspark.sql import functions as F

    lake = context.lake
    lake.ensure(table)
    count = refused.count() if count is None else count
    (key,) = lake.spec(table).key
    is_open = pc.is_null(lake.read_arrow(table, columns=["replayed_at"])["replayed_at"])
    if count == 0 and not pc.any(is_open).as_py():
        return 0
    refused = refused.withColumn("_run_id", F.lit(context.run_id))
    columns = [c for c in lake.spec(table).columns if c not in ("attempts", "replayed_at")]
    current = touched(context, table, scope, versions=versions, key=scope_key)
    changes = quarantine_changes(current, refused.select(*columns), key=key, same=same, now=context.now())
    apply_changes(context, table, changes)
    return count
