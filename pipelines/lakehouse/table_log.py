"""Reads a table's log: the identity of a commit, and whether only ordinary commits followed. No JVM for folders.

If a table is put back from a copy and then changed, the same version numbers are other commits. So a reader that
remembers a version must remember the id of its commit as well.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from pipelines.lakehouse.tables import Lakehouse
from pipelines.storage.object_path import AnyPath

# Operations that put a table back to an older state, or drop lost files: a change feed does not tell which rows went.
_TAKES_BACK = frozenset({"RESTORE", "FSCK"})
# Operations after which a table has no row, or those of another table.
_REPLACES = frozenset({"TRUNCATE", "CLONE"})
# Operations that change no row.
_UPKEEP = frozenset({"OPTIMIZE", "VACUUM START", "VACUUM END"})


@dataclass(frozen=True)
class Commit:
    """What a commit says of itself: its operation, such as MERGE, and the note that its writer left.

    Attributes:
        restores: the version to which it put the table back; None: it did not, or named a time instead.
        replaces: whether the rows that the table had before may be gone, all of them.
    """

    version: int
    operation: str
    note: str | None
    restores: int | None
    replaces: bool


def commit_id(lake: Lakehouse, table: str, version: int) -> str | None:
    """An id of this commit, which another commit of the same number does not have; None if the log has it no longer."""
    if (folder := lake.folder(table)) is not None:
        return folder_commit_id(folder, version)
    commits = lake.history(table, since=version)
    return next((str(commit["id"]) for commit in commits if commit["version"] == version), None)


def folder_commit_id(folder: AnyPath, version: int) -> str | None:
    """`commit_id` of a Delta table in a folder."""
    entry = _entry(folder, version)
    return None if entry is None else hashlib.sha256(entry).hexdigest()[:32]


def news_since(lake: Lakehouse, table: str, version: int) -> list[dict[str, Any]]:
    """The commits after `version` that the log still has, as in `Lakehouse.history`, without upkeep."""
    return [c for c in lake.history(table, since=version + 1) if c["operation"] not in _UPKEEP]


def unread_from(lake: Lakehouse, table: str, *, version: int, commit: str | None, until: int) -> int | None:
    """The version after which a reader that has read up to `version` must read on, to be at `until`.

    That is `version`; or `until` if all commits since were upkeep, which changes no row, so that nothing is to be read.
    None if the history is not the same (see `is_same_history`): then everything must be read.
    """
    if not is_same_history(lake, table, version=version, commit=commit, until=until):
        return None
    # Their number counts too: a commit that the log has no longer may have changed rows.
    done = operations(lake, table, after=version, until=until)
    return until if len(done) == until - version and _UPKEEP.issuperset(done) else version


def is_same_history(lake: Lakehouse, table: str, *, version: int, commit: str | None, until: int) -> bool:
    """Whether `version` is still the same commit, and no RESTORE or repair is among the commits from it to `until`.

    Args:
        commit: the `commit_id` that `version` had; None if it was not noted: then any commit counts as the same.
    """
    if version > until:
        return False
    now = None if commit is None else commit_id(lake, table, version)
    is_same = now is None or now == commit
    return is_same and _TAKES_BACK.isdisjoint(operations(lake, table, after=version, until=until))


def operations(lake: Lakehouse, table: str, *, after: int, until: int) -> list[str]:
    """The operations of the commits (after, until], such as MERGE or RESTORE, back to the first one that is lost."""
    found = takewhile(lambda commit: commit.version > after, commits(lake, table, until=until))
    return [commit.operation for commit in found]


def commits(lake: Lakehouse, table: str, *, until: int) -> Iterator[Commit]:
    """The commits from `until` back to the first one that the log no longer has, newest first; each is read when it
    is asked for."""
    folder = lake.folder(table)
    for version in range(until, -1, -1):
        found = _in_catalog(lake, table, version) if folder is None else _in_folder(folder, version)
        if found is None:
            return
        yield found


def _in_catalog(lake: Lakehouse, table: str, version: int) -> Commit | None:
    # More of the log is read only if the version is not among those that are known.
    found = next((c for c in lake.history(table, since=version) if c["version"] == version), None)
    return None if found is None else _commit(version, found["operation"], found["note"], found["parameters"])


def _in_folder(folder: AnyPath, version: int) -> Commit | None:
    entry = _entry(folder, version)
    if entry is None:
        return None
    said = (json.loads(line) for line in entry.splitlines() if b'"commitInfo"' in line)
    info: Mapping[str, Any] = next((action["commitInfo"] for action in said if "commitInfo" in action), {})
    return _commit(version, info.get("operation"), info.get("userMetadata"), info.get("operationParameters"))


def _commit(version: int, operation: str | None, note: str | None, parameters: Mapping[str, Any] | None) -> Commit:
    done, said = operation or "", parameters or {}
    restored = str(said.get("version")) if done == "RESTORE" else ""
    restores = int(restored) if restored.isdecimal() and int(restored) < version else None
    is_whole = str(said.get("mode")).lower() == "overwrite" or "REPLACE TABLE" in done
    return Commit(version, done, note, restores, is_whole or done in _TAKES_BACK | _REPLACES)


def _entry(folder: AnyPath, version: int) -> bytes | None:
    try:
        return (folder / "_delta_log" / f"{version:020}.json").read_bytes()
    except FileNotFoundError:
        return None


# Delta's errors if VACUUM, log retention or a re-created table removed the versions that were to be read.
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
    """Whether an error of Delta says that the versions to be read are gone."""
    text = str(error)
    return any(sign in text for sign in _LOST_HISTORY)
