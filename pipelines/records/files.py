"""Finds the files of a folder that have arrived: rows of bronze.records_NAME_files. Needs no JVM.

A file arrives if its bytes differ from those last seen under its name. A file that was only touched or renamed is noted
with `is_arrival` false, and its records are not read again. A file counts as renamed if its name is new, a file with
the same bytes is gone, and it was not modified after that file was last seen. If it was modified later, it is another
delivery of the same content, and arrives.

Files are read in the order of their `Arrival`s, and the last one that was read is remembered; what is noted later is
always behind it, whatever the clocks say. A file that is gone when it is to be read is noted as gone, and its content
arrives if it is there under any name.
"""

from __future__ import annotations

import hashlib
import logging
import os
import stat
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from pipelines.flow.stage import Context
from pipelines.records.source import RecordSource
from transformations.errors import ConfigurationError

log = logging.getLogger(__name__)
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, order=True)
class Arrival:
    """A file to be read, ordered by when it was noted, then by when it was modified, then by name.

    Attributes:
        noted_at: in microseconds since 1970, as `modified_at`.
        path: relative to the folder of the source.
    """

    noted_at: int
    modified_at: int
    path: str


def new_files(context: Context, source: RecordSource, *, unread: Collection[Arrival] = ()) -> list[dict[str, Any]]:
    """The files that are new, or whose size or time has changed: rows of the files table, without technical columns.

    Args:
        unread: arrivals that were noted and not read yet. Where one of these files is gone, another one with its bytes
            is no renaming: it arrives.

    Raises:
        ConfigurationError: the folder does not exist.
    """
    folder = context.settings.path(source.settings.location)
    if not folder.is_dir():
        raise ConfigurationError(
            f"ingest-records: no folder at {folder} for the source {source.name!r}. Create it, or correct "
            f"records.{source.name}.location in lakeloop.yml."
        )
    known = _known(context, source)
    found = list(_listed(folder, source, own=context.settings.own_places))
    moved = [row for row in found if _state(row) != _state(known.get(row["path"]))]
    there = {row["path"] for row in found}
    waiting = {arrival.path for arrival in unread}
    # Content hash of each file that was read and is gone → when it was last seen. What was modified later is not a
    # renaming of it.
    gone: dict[str | None, datetime] = {}
    for path, row in known.items():
        if path not in there and path not in waiting:
            seen = gone.get(row["content_hash"], row["_ingested_at"])
            gone[row["content_hash"]] = max(seen, row["_ingested_at"])
    arrived = []
    for row in moved:
        try:
            row["content_hash"] = _content_hash(folder / row["path"])
        except OSError as error:
            log.warning("ingest-records %s: cannot read %s, which is tried again: %s", source.name, row["path"], error)
            continue
        before = known.get(row["path"])
        is_same = before is not None and before["content_hash"] == row["content_hash"]
        seen_at = gone.get(row["content_hash"])
        is_renamed = before is None and seen_at is not None and row["modified_at"] <= seen_at
        row["is_arrival"] = not is_same and not is_renamed
        arrived.append(row)
    return arrived


def note_files(
    context: Context, source: RecordSource, found: list[dict[str, Any]], *, after: Mapping[str, Any] | None = None
) -> None:
    """Append `found` to the source's files table in one commit, as later than everything that was noted before.

    Args:
        after: the last arrival that was read; the table may have lost it.
    """
    noted = context.lake.read_arrow(source.files, columns=["_ingested_at"])["_ingested_at"]
    read_at = _EPOCH + Arrival(**after).noted_at * _MICROSECOND if after else _EPOCH
    now = max(context.now(), max(pc.max(noted).as_py() or _EPOCH, read_at) + _MICROSECOND)
    technical = {"_ingested_at": now, "_run_id": context.run_id}
    context.lake.append_arrow(source.files, [row | technical for row in found])


def note_gone(context: Context, source: RecordSource, paths: Collection[str]) -> None:
    """Note that files were gone when they were to be read."""
    log.warning("ingest-records %s: gone before they were read: %s", source.name, ", ".join(sorted(paths)))
    row = {"size": None, "modified_at": None, "content_hash": None, "is_arrival": False}
    note_files(context, source, [row | {"path": path} for path in sorted(paths)])


def paths_now(
    context: Context, source: RecordSource, arrivals: Sequence[Arrival], *, unread: Collection[Arrival]
) -> dict[Arrival, str]:
    """Where the contents that arrived lie now: those of files that were renamed, under their new names.

    What is gone is noted, and left out, and so is what was written over: the next look notes what is there instead.

    Args:
        arrivals: some of `unread`.
        unread: all arrivals that are to be read, each for itself.
    """
    folder = context.settings.path(source.settings.location)
    if all(_modified_at(folder / arrival.path) == arrival.modified_at for arrival in arrivals):
        return {arrival: arrival.path for arrival in arrivals}
    known, waiting = _known(context, source), {arrival.path for arrival in unread}
    others = {path: row["content_hash"] for path, row in known.items() if path not in waiting}
    renamed = {content: path for path, content in others.items() if content and (folder / path).exists()}
    found: dict[Arrival, str] = {}
    gone = []
    for arrival in arrivals:
        file, content = folder / arrival.path, known[arrival.path]["content_hash"]
        if not file.exists():
            if content in renamed:
                found[arrival] = renamed[content]
            else:
                gone.append(arrival.path)
        elif _modified_at(file) == arrival.modified_at or _content_hash(file) == content:
            found[arrival] = arrival.path
    if gone:
        note_gone(context, source, gone)
    return found


def _modified_at(file: Path) -> int | None:
    """In microseconds since 1970; None if there is no such file."""
    try:
        return file.stat().st_mtime_ns // 1000
    except OSError:
        return None


def unread(context: Context, source: RecordSource, *, after: Mapping[str, Any] | None) -> list[Arrival]:
    """The arrivals that were noted and not read yet, in order; of a file that was noted twice the last one.

    Args:
        after: the last arrival that was read; None: none was.
    """
    columns = ["path", "modified_at", "content_hash", "is_arrival", "_ingested_at"]
    rows = context.lake.read_arrow(source.files, columns=columns)
    is_gone = pc.is_null(rows["content_hash"])
    gone: dict[str, datetime] = {}
    for row in rows.filter(is_gone).select(["path", "_ingested_at"]).to_pylist():
        gone[row["path"]] = max(row["_ingested_at"], gone.get(row["path"], _EPOCH))
    found = (
        Arrival(_micros(row["_ingested_at"]), _micros(row["modified_at"]), row["path"])
        for row in rows.filter(rows["is_arrival"]).to_pylist()
        if row["_ingested_at"] > gone.get(row["path"], _EPOCH)
    )
    last = Arrival(**after) if after is not None else None
    by_path = {arrival.path: arrival for arrival in sorted(found) if last is None or arrival > last}
    return sorted(by_path.values())


def _micros(at: datetime) -> int:
    return (at - _EPOCH) // _MICROSECOND


def _known(context: Context, source: RecordSource) -> dict[str, dict[str, Any]]:
    """The last row of each path in the files table."""
    columns = ["path", "size", "modified_at", "content_hash", "is_arrival", "_ingested_at"]
    rows = context.lake.read_arrow(source.files, columns=columns)
    rows = rows.take(pc.sort_indices(rows, sort_keys=[("_ingested_at", "ascending")]))
    return {row["path"]: row for row in rows.to_pylist()}


def _state(row: dict[str, Any] | None) -> tuple[Any, ...] | None:
    return None if row is None else (row["size"], row["modified_at"])


def _listed(folder: Path, source: RecordSource, *, own: Collection[str]) -> Iterator[dict[str, Any]]:
    """The files below `folder` that match a pattern of the source; no links, and no names that begin with . or _.

    Args:
        own: files and folders that lakeloop itself writes (`Settings.own_places`): they are left out.
    """
    patterns = [p.lower() for p in source.settings.file_patterns]
    for parent, folders, names in os.walk(folder):
        at = os.path.abspath(parent)
        folders[:] = sorted(n for n in folders if not n.startswith((".", "_")) and os.path.join(at, n) not in own)
        for name in sorted(names):
            file = Path(parent) / name
            path = file.relative_to(folder).as_posix()
            if name.startswith((".", "_")) or not any(fnmatchcase(name.lower(), pattern) for pattern in patterns):
                continue
            if os.path.join(at, name) in own:
                continue
            try:
                path.encode()
            except UnicodeEncodeError:
                log.warning("ingest-records %s: passed over %r, whose name is not UTF-8: rename it", source.name, path)
                continue
            try:
                status = file.lstat()
            except FileNotFoundError:
                continue  # it was deleted after it was listed
            except OSError as error:
                log.warning("ingest-records %s: cannot read %s, which is tried again: %s", source.name, path, error)
                continue
            if stat.S_ISREG(status.st_mode):
                modified_at = _EPOCH + timedelta(microseconds=status.st_mtime_ns // 1000)
                yield {"path": path, "size": status.st_size, "modified_at": modified_at}


def _content_hash(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _digest(stream)


def _digest(stream: Any) -> str:
    digest = hashlib.sha256()
    while block := stream.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()
