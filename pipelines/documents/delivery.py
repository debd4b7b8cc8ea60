"""Compares the landing folder with the last arrivals, and finds the files that are new, changed or gone.

A file is read only if its size or time has changed, or if its time is so close to the last look at it that a later edit
could have the same time. It arrives only if its bytes differ. If they do not, ops.file_looks remembers this look, so
that a file which was only touched is read once and not in each run. Needs no JVM if tables are folders.
"""

from __future__ import annotations

import hashlib
import logging
import os
import unicodedata
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from pipelines.documents.landing import Found, FoundObject, document_id, list_files
from pipelines.flow.stage import Context
from pipelines.lakehouse.selection import LastOf
from pipelines.settings.sections import IngestSettings
from pipelines.storage.object_path import ObjectPath, ObjectStat
from transformations.errors import ConfigurationError, RefusedError

log = logging.getLogger(__name__)
TABLE, LOOKS = "bronze.documents", "ops.file_looks"
# An edit within this time after the last look may not change the file's time. Some file systems keep times in steps of
# 2 s; one that keeps fractions of a second may be late by a tick of the kernel's clock.
_COARSEST_CLOCK, _FINE_CLOCK = timedelta(seconds=2), timedelta(milliseconds=50)
# Object storage keeps whole seconds, of its own clock, from which this machine's may be so far.
_OTHER_CLOCK = timedelta(minutes=1)
# So many objects are read at once: each is a request of some ten milliseconds.
_READ_AT_ONCE = 8
# Up to this many deleted documents are an ordinary edit, whatever their share is, unless the folder is empty.
_FEW_DOCUMENTS = 10
_NEVER = datetime.fromtimestamp(0, timezone.utc)


@dataclass(frozen=True)
class Known:
    """The last arrival of a path; `size` and `modified_at` are those of the last look that found the same bytes."""

    document_id: str
    path: str
    source: str
    op: str
    size: int | None
    modified_at: datetime | None
    content_hash: str | None
    rescued: str | None
    ingested_at: datetime
    looked_at: datetime


@dataclass(frozen=True)
class Delivery:
    """The files that the folder has now, and the last arrivals.

    Attributes:
        found: the files of the folder, sorted by path.
        known: path → last arrival, for the source that the settings name.
        elsewhere: documents of other sources: `ingest.source` was changed, so they count as gone.
        last_at: when the last row of all arrived.
        looks: collects rows for ops.file_looks: files that were read and have the same bytes.
    """

    found: list[Found]
    known: dict[str, Known]
    elsewhere: list[Known] = field(default_factory=list)
    last_at: datetime = _NEVER
    looks: list[dict[str, Any]] = field(default_factory=list)

    @property
    def alive(self) -> int:
        """How many documents there are by the last arrivals."""
        return sum(last.op != "delete" for last in self.known.values()) + len(self.elsewhere)

    @property
    def gone(self) -> list[Known]:
        """The documents whose file is no longer there, sorted by path."""
        present = {f.path for f in self.found}
        gone = [last for path, last in self.known.items() if last.op != "delete" and path not in present]
        return sorted([*gone, *self.elsewhere], key=lambda last: (last.path, last.source))

    def moved(self) -> int:
        """How many of the gone documents were only renamed (or have another source): a new file has the same bytes."""
        held = {path for path, last in self.known.items() if last.op != "delete"}
        new: Counter[str] = Counter()
        for found in self.found:
            if found.path not in held:
                with suppress(OSError):
                    new[found.content_hash()] += 1
        return (new & Counter(last.content_hash for last in self.gone if last.content_hash)).total()


def delivery_of(context: Context) -> Delivery:
    """List the landing folder and read the last arrivals.

    Raises:
        ConfigurationError: the folder does not exist or cannot be listed.
    """
    folder = context.settings.landing_path
    if isinstance(folder, Path) and not folder.is_dir():
        raise ConfigurationError(
            f"ingest-documents: no landing folder at {folder}. Create it, or name another with --from FOLDER "
            "(or `landing` in lakeloop.yml)."
        )
    delivery = _last_arrivals(context)
    files = list_files(folder, context.settings.ingest, own=context.settings.own_places)
    if isinstance(folder, ObjectPath) and not files and not delivery.alive:
        raise ConfigurationError(
            f"ingest-documents: no document lies at {folder}. Deliver some, or name another place with --from (or "
            "`landing` in lakeloop.yml)."
        )
    delivery.found.extend(_without_twins(files, delivery.known))
    return delivery


def as_read(context: Context, delivery: Delivery, *, version: int | None) -> Delivery:
    """The same files, compared with the last arrivals of an earlier version of the table; None: with no arrivals."""
    before = Delivery([], {}) if version is None else _last_arrivals(context, version=version)
    return replace(before, found=delivery.found)


def _without_twins(found: list[Found], known: Mapping[str, Known]) -> list[Found]:
    """Refuse all but one of the files whose names differ only in their Unicode form.

    The one that is already a document stays; else the one in the composed form (NFC); else the first.
    """

    def rank(file: Found) -> tuple[bool, bool, str]:
        last = known.get(file.path)
        is_document = last is not None and last.op != "delete" and last.rescued is None
        return not is_document, not unicodedata.is_normalized("NFC", file.path), file.path

    first: dict[str, Found] = {}
    for file in found:
        name = unicodedata.normalize("NFC", file.path)
        first[name] = min(first.get(name, file), file, key=rank)
    checked = []
    for file in found:
        twin = first[unicodedata.normalize("NFC", file.path)]
        if twin is not file and file.rescued is None:
            reason = f"duplicate_path: the same name as {twin.path!r} in another Unicode form"
            file = replace(file, rescued=reason)
        checked.append(file)
    return checked


def _last_arrivals(context: Context, *, version: int | None = None) -> Delivery:
    """A delivery with the last arrival of each path (at a version of the table), and without files yet."""
    columns = ["document_id", "path", "source", "op", "size", "modified_at", "content_hash", "_rescued", "_ingested_at"]
    last = LastOf(("source", "path"), by="_ingested_at")
    known, elsewhere, last_at = dict[str, Known](), list[Known](), _NEVER
    source = context.settings.ingest.source
    for rows in context.lake.read_batches(TABLE, columns=columns, which=last, version=version):
        # By column: a dictionary for each row would take longer than the listing.
        for values in zip(*(rows.column(name).to_pylist() for name in columns), strict=True):
            arrival = Known(*[*values, values[-1]])
            last_at = max(last_at, arrival.ingested_at or _NEVER)
            if arrival.source == source:
                known[arrival.path] = arrival
            elif arrival.op != "delete":
                elsewhere.append(arrival)
    last = LastOf(("path", "content_hash"), by="looked_at")
    for seen in context.lake.read_arrow(LOOKS, where={"source": source}, which=last).to_pylist():
        path = seen["path"]
        before = known.get(path)
        if before and before.content_hash == seen["content_hash"] and before.looked_at < seen["looked_at"]:
            known[path] = replace(
                before, size=seen["size"], modified_at=seen["modified_at"], looked_at=seen["looked_at"]
            )
    return Delivery([], known, elsewhere, last_at)


def arrivals(
    delivery: Delivery, ingest: IngestSettings, *, now: Callable[[], datetime]
) -> Iterator[dict[str, Any] | None]:
    """For each found file, in order: its row for bronze.documents, or None if it is unchanged."""

    def one(found: Found) -> dict[str, Any] | None:
        return _arrival(found, delivery, ingest, looked_at=now())

    if delivery.found and isinstance(delivery.found[0], FoundObject):
        yield from _some_ahead(one, delivery.found)
    else:
        yield from map(one, delivery.found)


def _some_ahead(
    read: Callable[[Found], dict[str, Any] | None], files: Sequence[Found]
) -> Iterator[dict[str, Any] | None]:
    """`read` of each file, in order; some are read while those before are taken."""
    with ThreadPoolExecutor(_READ_AT_ONCE) as pool:
        begun: deque[Future[dict[str, Any] | None]] = deque()
        for file in files:
            begun.append(pool.submit(read, file))
            if len(begun) >= _READ_AT_ONCE:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()


def _arrival(found: Found, delivery: Delivery, ingest: IngestSettings, *, looked_at: datetime) -> dict[str, Any] | None:
    row: dict[str, Any] = {"path": found.path, "op": "upsert", "_rescued": found.rescued}
    known = delivery.known.get(found.path)
    changed_at = looked_at
    try:
        stat = found.stat()
        row["size"] = stat.st_size
        row["modified_at"] = datetime.fromtimestamp(stat.st_mtime, timezone.utc)
        changed_at = _changed_at(stat, now=looked_at)
        is_too_large = stat.st_size > ingest.max_file_mb * 1024 * 1024
        if is_too_large:
            limit = f"{stat.st_size} bytes, ingest.max_file_mb is {ingest.max_file_mb}"
            row["_rescued"] = row["_rescued"] or f"too_large: {limit}"
        if known is not None and _is_untouched(row, known, changed_at=changed_at):
            return None
        if is_too_large:
            row["content_hash"] = found.content_hash()
        else:
            content = found.read()
            row["content_hash"] = hashlib.sha256(content).hexdigest()
            row["content"] = None if row["_rescued"] else content
    except FileNotFoundError:
        log.warning("ingest-documents: %r vanished since the listing; the next run takes it as gone", found.path)
        return None
    except OSError as error:
        row["_rescued"] = f"unreadable: {type(error).__name__}: {error.strerror}"
    if known is None or known.op == "delete":
        return row | {"document_id": document_id(ingest.source, found.path)}
    if (known.content_hash, known.rescued) == (row.get("content_hash"), row["_rescued"]):
        if "content_hash" in row and changed_at < looked_at:  # else a later look must read it again
            seen = {name: row[name] for name in ("path", "size", "modified_at", "content_hash")}
            delivery.looks.append({**seen, "source": ingest.source, "looked_at": looked_at})
        return None
    return row | {"document_id": document_id(ingest.source, found.path)}


def _is_untouched(row: dict[str, Any], known: Known, *, changed_at: datetime) -> bool:
    return (
        known.op != "delete"
        and known.rescued == row["_rescued"]
        and (known.size, known.modified_at) == (row["size"], row["modified_at"])
        and changed_at < known.looked_at
    )


def _changed_at(stat: os.stat_result | ObjectStat, *, now: datetime) -> datetime:
    """The last instant at which the file may have changed. A modification time in the future is ignored."""
    if isinstance(stat, ObjectStat):
        return stat.modified_at + _OTHER_CLOCK
    has_fractions = stat.st_mtime_ns % 1_000_000_000 and stat.st_ctime_ns % 1_000_000_000
    modified, changed = (datetime.fromtimestamp(at, timezone.utc) for at in (stat.st_mtime, stat.st_ctime))
    last = max(modified, changed) if modified <= now else changed
    return last + (_FINE_CLOCK if has_fractions else _COARSEST_CLOCK)


def refuse_mass_delete(context: Context, delivery: Delivery) -> None:
    """Refuse a delivery in which too large a share of the documents is gone; renamed ones do not count as gone.

    Raises:
        RefusedError: the share is larger than `ingest.max_delete_ratio`, and `force` is not set.
    """
    limit, alive, found = context.settings.ingest.max_delete_ratio, delivery.alive, len(delivery.found)

    def is_allowed(gone: int) -> bool:
        return gone <= limit * alive or bool(found and gone <= _FEW_DOCUMENTS)

    gone = len(delivery.gone)
    # To find renamed files, all new files are read; only if the limit would refuse the delivery otherwise.
    if context.force or is_allowed(gone) or is_allowed(gone := gone - delivery.moved()):
        return
    raise RefusedError(
        f"ingest-documents: {gone} of {alive} documents are gone from {context.settings.landing_path} "
        f"({found} files are there), more than ingest.max_delete_ratio {limit:g} allows. Nothing was changed. "
        "If the folder is right, run again with --force."
    )
