"""Reads a table's log: which commit a version is, and whether a table only went on since. No JVM for folders.

A table that was put back from a copy, and then changed, comes to the numbers that it had by other commits. So whoever
remembers a version remembers its commit too.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.lakehouse.tables import Lakehouse

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

# What makes a table what it was at some time, or what is left of it: a change feed does not tell which rows went.
_TAKES_BACK = frozenset({"RESTORE", "FSCK"})
# What changes no row.
_UPKEEP = frozenset({"OPTIMIZE", "VACUUM START", "VACUUM END"})


def commit_id(lake: Lakehouse, table: str, version: int) -> str | None:
    """What tells this commit from another of the same number; None where the log has it no longer."""
    if (folder := lake.folder(table)) is not None:
        return folder_commit_id(folder, version)
    return named_commit_id(lake.spark, lake.identifier(table), version)


def folder_commit_id(folder: Path, version: int) -> str | None:
    """`commit_id` of a Delta table in a folder."""
    entry = _entry(folder, version)
    return None if entry is None else hashlib.sha256(entry).hexdigest()[:32]


def named_commit_id(spark: SparkSession, name: str, version: int) -> str | None:
    """`commit_id` of a Delta table of the catalog."""
    # As a number: an instant is shown in the zone of whoever asks.
    told = "unix_micros(timestamp), userId, operation, operationParameters, operationMetrics, engineInfo"
    rows = spark.sql(f"DESCRIBE HISTORY {name}").where(f"version = {int(version)}")
    row = rows.selectExpr(f"to_json(struct({told}))").first()
    return None if row is None else hashlib.sha256(row[0].encode()).hexdigest()[:32]


def news_since(lake: Lakehouse, table: str, version: int) -> list[dict[str, Any]]:
    """The commits after a version that the log still has, as `Lakehouse.history` gives them, without upkeep."""
    return [c for c in lake.history(table) if c["version"] > version and c["operation"] not in _UPKEEP]


def unread_from(lake: Lakehouse, table: str, *, version: int, commit: str | None, until: int) -> int | None:
    """From which version on whoever has read `version` is to read up to `until`.

    That is `version`, or `until` where all commits since were upkeep, which changes no row. None where the table did
    not only go on (see `is_same_history`): then nothing tells what changed.
    """
    if not is_same_history(lake, table, version=version, commit=commit, until=until):
        return None
    # By their number: a commit that the log has no longer may have been anything.
    done = operations(lake, table, after=version, until=until)
    return until if len(done) == until - version and _UPKEEP.issuperset(done) else version


def is_same_history(lake: Lakehouse, table: str, *, version: int, commit: str | None, until: int) -> bool:
    """Whether the table at version `until` came from its `version` by commits that only went on.

    Args:
        commit: the `commit_id` that `version` had; None where it was not noted.
    """
    if version > until:
        return False
    now = None if commit is None else commit_id(lake, table, version)
    is_same = now is None or now == commit
    return is_same and _TAKES_BACK.isdisjoint(operations(lake, table, after=version, until=until))


def operations(lake: Lakehouse, table: str, *, after: int, until: int) -> list[str]:
    """What the commits (after, until] did, such as MERGE or RESTORE, where the log still has them."""
    if after >= until:
        return []
    if (folder := lake.folder(table)) is None:
        commits = lake.spark.sql(f"DESCRIBE HISTORY {lake.identifier(table)}")
        rows = commits.where(f"version > {int(after)} AND version <= {int(until)}").select("operation").collect()
        return [row["operation"] for row in rows]
    found = []
    for version in range(after + 1, until + 1):
        for line in (_entry(folder, version) or b"").splitlines():
            if b'"commitInfo"' in line and "commitInfo" in (action := json.loads(line)):
                found.append(str(action["commitInfo"].get("operation", "")))
    return found


def _entry(folder: Path, version: int) -> bytes | None:
    try:
        return (folder / "_delta_log" / f"{version:020}.json").read_bytes()
    except FileNotFoundError:
        return None


# What Delta says where VACUUM, log retention or a re-created table took the versions away that a window names.
_LOST_HISTORY = (
    "DELTA_CHANGE_DATA_FILE_NOT_FOUND",
    "DELTA_FILE_NOT_FOUND",
    "DELTA_VERSION_NOT_FOUND",
    "DELTA_MISSING_CHANGE_DATA",
    "DELTA_TRUNCATED_TRANSACTION_LOG",
    "DELTA_LOG_FILE_NOT_FOUND",
    "DELTA_CHANGE_DATA_FEED_INCOMPATIBLE_SCHEMA_CHANGE",
    "VersionNotFoundException",
    "FAILED_READ_FILE.FILE_NOT_EXIST",
)


def is_lost_history(error: Exception) -> bool:
    """Whether Delta says that versions which were to be read are gone."""
    text = str(error)
    return any(sign in text for sign in _LOST_HISTORY)
