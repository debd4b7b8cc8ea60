"""Measures how far an index is behind its table, in versions, seconds and rows."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from pipelines.lakehouse.table_log import news_since
from pipelines.lakehouse.tables import Lakehouse

# Delta's defaults, for a table that sets nothing.
_LOG_RETENTION, _FILE_RETENTION = timedelta(days=30), timedelta(days=7)
_WARN_BELOW = timedelta(hours=24)
_UNITS = {"second": 1, "minute": 60, "hour": 3600, "day": 86400, "week": 604800}
# The names that engines give to the number of rows that a commit changed.
_ROW_METRICS = re.compile(
    r"^(num_?output_?rows|num_?added_?rows|num_?inserted_?rows|num_?deleted_?rows|num_?updated_?rows|"
    r"num_?target_?rows_?(inserted|updated|deleted))$",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Lag:
    """How far an index is behind its table.

    Attributes:
        versions: the number of commits that it lacks.
        rows: the number of rows that these commits changed, as the engine counted them.
        seconds: since the oldest of these commits.
        history_hours: hours until the feed that the next sync needs may be gone; None if the index lacks nothing. After
            that, ids and hashes are compared instead: this is slower, and nothing is embedded again.
    """

    versions: int
    rows: int
    seconds: float
    history_hours: float | None

    @property
    def is_at_risk(self) -> bool:
        return self.history_hours is not None and self.history_hours < _WARN_BELOW.total_seconds() / 3600


def lag_of(lake: Lakehouse, table: str, *, version: int, now: datetime) -> Lag:
    """The lag of an index that equals `version` of `table`."""
    lacking = news_since(lake, table, version)
    if not lacking:
        return Lag(0, 0, 0.0, None)
    oldest = min(commit["at"] for commit in lacking)
    settings = lake.properties(table)
    log = duration(settings.get("delta.logRetentionDuration"), default=_LOG_RETENTION)
    files = duration(settings.get("delta.deletedFileRetentionDuration"), default=_FILE_RETENTION)
    left = oldest + min(log, files) - now
    return Lag(
        versions=len(lacking),
        rows=sum(changed_rows(commit["metrics"]) for commit in lacking),
        seconds=(now - oldest).total_seconds(),
        history_hours=left.total_seconds() / 3600,
    )


def changed_rows(metrics: dict[str, Any]) -> int:
    """How many rows a commit inserted, updated or deleted, according to its metrics.

    >>> changed_rows({"numTargetRowsInserted": "2", "numTargetRowsUpdated": "1", "numOutputRows": "9"})
    3
    >>> changed_rows({"num_added_rows": 5})
    5
    """
    found = {key: int(value) for key, value in metrics.items() if _ROW_METRICS.match(key)}
    of_merge = {key: value for key, value in found.items() if "target" in key.lower()}
    return sum((of_merge or found).values())


def duration(text: str | None, *, default: timedelta) -> timedelta:
    """A duration as Delta writes it (`interval 7 days`); `default` if it is missing or cannot be read.

    >>> duration("interval 36 hours", default=timedelta(0))
    datetime.timedelta(days=1, seconds=43200)
    """
    parts = re.findall(r"(\d+)\s+([a-z]+?)s?\b", (text or "").lower())
    seconds = sum(int(number) * _UNITS.get(unit, 0) for number, unit in parts)
    return timedelta(seconds=seconds) if seconds else default
