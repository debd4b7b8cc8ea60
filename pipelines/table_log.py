"""A table's log in; which commit a version is, and whether a table only went on since, out. No JVM for folders.

A table that was put back from a copy, and then changed, comes to the numbers that it had by other commits. So whoever
remembers a version remembers its commit too.
"""

from __future__ import annotations

import hashlib
import json

from pipelines.lakehouse import Lakehouse

# What makes a table what it was at some time, or what is left of it: a change feed does not tell which rows went.
_TAKES_BACK = frozenset({"RESTORE", "FSCK"})


def commit_id(lake: Lakehouse, table: str, version: int) -> str | None:
    """What tells this commit from another of the same number; None where the log has it no longer."""
    if lake.is_local:
        entry = _entry(lake, table, version)
        return None if entry is None else hashlib.sha256(entry).hexdigest()[:32]
    commits = lake.spark.sql(f"DESCRIBE HISTORY {lake.identifier(table)}").where(f"version = {int(version)}")
    # As a number: an instant is shown in the zone of whoever asks.
    said = ("unix_micros(timestamp)", "operation", "operationParameters", "operationMetrics")
    row = commits.selectExpr(*said).first()
    return None if row is None else hashlib.sha256(repr(row).encode()).hexdigest()[:32]


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
    if not lake.is_local:
        commits = lake.spark.sql(f"DESCRIBE HISTORY {lake.identifier(table)}")
        rows = commits.where(f"version > {int(after)} AND version <= {int(until)}").select("operation").collect()
        return [row["operation"] for row in rows]
    found = []
    for version in range(after + 1, until + 1):
        for line in (_entry(lake, table, version) or b"").splitlines():
            if b'"commitInfo"' in line and "commitInfo" in (action := json.loads(line)):
                found.append(str(action["commitInfo"].get("operation", "")))
    return found


def _entry(lake: Lakehouse, table: str, version: int) -> bytes | None:
    try:
        return (lake.folder(table) / "_delta_log" / f"{version:020}.json").read_bytes()
    except FileNotFoundError:
        return None
