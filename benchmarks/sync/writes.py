"""A Lance table before and after in; how many rows were written and deleted in between, and in how many commits, out.

Counted from the table's own history, from outside: it holds for every system alike, and for one that was killed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Mark:
    """A table as it was: its newest version, when that was made, and the live rows of each fragment."""

    version: int
    made_at: object
    rows: dict[int, int]


@dataclass(frozen=True)
class Writes:
    """What was done to a table.

    Attributes:
        upserted: rows written, whether or not a row with that id was there.
        deleted: rows deleted and not written again.
        commits: versions that wrote or deleted, also those that found nothing to do.
    """

    upserted: int
    deleted: int
    commits: int


NOTHING = Mark(0, None, {})


def mark(table: Path) -> Mark:
    """The table as it is; `NOTHING` where there is none."""
    if count_versions(table) == 0:
        return NOTHING
    dataset = _open(table)
    return Mark(dataset.version, _made_at(dataset, dataset.version), _rows(dataset))


def writes_since(table: Path, before: Mark) -> Writes:
    """Everything since the mark; compaction is no write, and a table made anew is its rows deleted and written."""
    upserted = deleted = commits = 0
    rows = before.rows
    if count_versions(table) == 0:
        return Writes(0, sum(rows.values()), 0)
    dataset = _open(table)
    first = before.version + 1
    if before.version and _made_at(dataset, before.version) != before.made_at:
        deleted, rows, first = sum(rows.values()), {}, 1
    for version in sorted(v["version"] for v in dataset.versions() if v["version"] >= first):
        found = dataset.checkout_version(version)
        operation = type(found.read_transaction(version).operation).__name__
        now = _rows(found)
        if operation in ("Append", "Update", "Overwrite"):
            upserted += sum(count for fragment, count in now.items() if fragment not in rows)
        if operation in ("Delete", "Overwrite"):
            deleted += sum(rows.values()) - sum(count for fragment, count in now.items() if fragment in rows)
        commits += operation in ("Append", "Update", "Overwrite", "Delete")
        rows = now
    return Writes(upserted, deleted, commits)


def versions_since(table: Path, before: Mark) -> Iterator[int]:
    """The versions that a reader could have seen since the mark, the newest last."""
    dataset = _open(table)
    is_new = _made_at(dataset, before.version) != before.made_at
    yield from sorted(v["version"] for v in dataset.versions() if is_new or v["version"] > before.version)


def count_versions(table: Path) -> int:
    """How many versions the table has. Opens nothing: for a killer that has to be quick."""
    folder = table / "_versions"
    return sum(file.suffix == ".manifest" for file in folder.iterdir()) if folder.is_dir() else 0


def _open(table: Path) -> Any:
    import lance

    return lance.dataset(table)


def _made_at(dataset: Any, version: int) -> object:
    return next((v["timestamp"] for v in dataset.versions() if v["version"] == version), None)


def _rows(dataset: Any) -> dict[int, int]:
    return {f.fragment_id: f.physical_rows - f.num_deletions for f in dataset.get_fragments()}
