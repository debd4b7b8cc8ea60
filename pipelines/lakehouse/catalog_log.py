"""The logs of a catalog's tables, read as seldom as possible: through Spark Connect each call is a round trip."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from functools import reduce
from threading import RLock
from typing import TYPE_CHECKING, Any

from pipelines.lakehouse.held_frames import rows_of
from pipelines.lakehouse.tables import Head

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

# So many of the newest commits are read first. A reader of an older one reads all that the log still has.
_NEWEST = 20
# What a commit says of itself. The instant is a number: as a text it would depend on the session's time zone.
_SAID = "unix_micros(timestamp), userId, operation, operationParameters, operationMetrics, engineInfo"
_EPOCH = datetime.fromtimestamp(0, timezone.utc)
_NO_TABLE = ("TABLE_OR_VIEW_NOT_FOUND", "SCHEMA_NOT_FOUND", "DELTA_MISSING_DELTA_TABLE")


@dataclass(frozen=True)
class Commit:
    """A commit of a table; `commit_id` tells it from another commit of the same version (see table_log.py),
    `note` is what its writer left (Delta's userMetadata), and `parameters` are those of the operation."""

    version: int
    at: datetime
    operation: str
    metrics: dict[str, str]
    commit_id: str
    note: str | None
    parameters: dict[str, str]


@dataclass(frozen=True)
class _Seen:
    """The identity that a table had at one of its commits."""

    table_id: str
    version: int
    commit_id: str


class CatalogLogs:
    """The commits and identities of named tables, as they were when they were first asked for, or since `forget`."""

    def __init__(self, spark: Callable[[], SparkSession]) -> None:
        self._spark = spark
        self._commits: dict[str, list[Commit] | None] = {}
        self._whole: set[str] = set()  # names of which all commits were read
        self._seen: dict[str, _Seen] = {}
        # A lease is renewed, and a stream calls back, in threads of their own.
        self._lock = RLock()

    def read(self, names: Iterable[str]) -> None:
        """Read the newest commits of several tables together: one call for each, and one more for all."""
        with self._lock:
            unread = [name for name in dict.fromkeys(names) if name not in self._commits]
            found = self._read(unread, f"LIMIT {_NEWEST}")
            self._commits.update({name: found.get(name) for name in unread})

    def commits(self, name: str, *, since: int) -> list[Commit] | None:
        """The commits from version `since` on that the log still has, newest first; None if there is no such table."""
        with self._lock:
            self.read([name])
            newest = self._commits[name]
            if newest and newest[-1].version > since and len(newest) >= _NEWEST and name not in self._whole:
                self._commits.update(self._read([name], ""))
                self._whole.add(name)
            found = self._commits[name]
            return None if found is None else [commit for commit in found if commit.version >= since]

    def newest(self, name: str) -> Commit | None:
        """The last commit; None if there is no such table."""
        with self._lock:
            self.read([name])
            return next(iter(self._commits[name] or ()), None)

    def head(self, name: str) -> Head | None:
        """The identity and version of a table. The identity is asked for only if the log has no commit of which it is
        known."""
        with self._lock:
            last, seen = self.newest(name), self._seen.get(name)
            if last is None:
                return None
            if seen is None or not self._has(name, seen):
                (detail,) = rows_of(self._spark().sql(f"DESCRIBE DETAIL {name}").select("id")).to_pylist()
                table_id = str(detail["id"])
            else:
                table_id = seen.table_id
            self._seen[name] = _Seen(table_id, last.version, last.commit_id)
            return Head(table_id, last.version)

    def _has(self, name: str, seen: _Seen) -> bool:
        commits = self.commits(name, since=seen.version) or []
        if any(commit.version > seen.version and "REPLACE TABLE" in commit.operation for commit in commits):
            return False  # the log goes on, and the identity is another one
        return any((commit.version, commit.commit_id) == (seen.version, seen.commit_id) for commit in commits)

    def recall(self, name: str, *, table_id: str, version: int, commit_id: str) -> None:
        """Note what an earlier process knew: the table had this identity at this commit."""
        with self._lock:
            if name not in self._seen or self._seen[name].version < version:
                self._seen[name] = _Seen(table_id, version, commit_id)

    def forget(self, name: str) -> None:
        """The next call reads the table's log again."""
        with self._lock:
            self._commits.pop(name, None)
            self._whole.discard(name)

    def forget_all(self) -> None:
        with self._lock:
            self._commits.clear()
            self._whole.clear()

    def _read(self, names: Sequence[str], limit: str) -> dict[str, list[Commit] | None]:
        found: dict[str, list[Commit] | None] = {}
        logs = []
        for name in names:
            if (log := self._log(name, limit)) is not None:
                logs.append(log)
                found[name] = []
        rows = rows_of(reduce(lambda one, other: one.unionAll(other), logs)).to_pylist() if logs else []
        for row in rows:
            commits = found[row["_table"]]
            assert commits is not None
            commits.append(_commit(row))
        for commits in found.values():
            (commits or []).sort(key=lambda commit: -commit.version)
        return found

    def _log(self, name: str, limit: str) -> DataFrame | None:
        from pyspark.sql import functions as F

        spark = self._spark()
        try:
            log = spark.sql(f"DESCRIBE HISTORY {name} {limit}")
        except Exception as error:
            if is_no_table(error) or not spark.catalog.tableExists(name):
                return None
            raise
        columns = ["version", "unix_micros(timestamp) AS at", "operation", "operationMetrics", "userMetadata"]
        columns += ["operationParameters"]
        return log.selectExpr(*columns, f"to_json(struct({_SAID})) AS said").withColumn("_table", F.lit(name))


def is_no_table(error: Exception) -> bool:
    """Whether an error surely says that there is no such table; other errors may say it too."""
    return any(condition in str(error) for condition in _NO_TABLE)


def is_no_column(error: Exception) -> bool:
    """Whether an error says that a table has no such column."""
    return "UNRESOLVED_COLUMN" in str(error)


def _commit(row: Mapping[str, Any]) -> Commit:
    return Commit(
        int(row["version"]),
        _EPOCH + timedelta(microseconds=row["at"]),
        row["operation"],
        dict(row["operationMetrics"] or {}),
        hashlib.sha256(row["said"].encode()).hexdigest()[:32],
        row["userMetadata"],
        dict(row["operationParameters"] or {}),
    )


def named_commit_id(spark: SparkSession, name: str, version: int) -> str | None:
    """`table_log.commit_id` of any table of a catalog, by its name in Spark SQL."""
    commits = CatalogLogs(lambda: spark).commits(name, since=version) or []
    return next((commit.commit_id for commit in commits if commit.version == version), None)


def named_head(spark: SparkSession, name: str) -> Head | None:
    """The identity and version of any table of a catalog, by its name in Spark SQL; None if it does not exist."""
    return CatalogLogs(lambda: spark).head(name)
