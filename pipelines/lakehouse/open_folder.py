"""Opens the Delta table of a folder, and lists its files: of this machine, or of object storage."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import pyarrow as pa

from pipelines.storage.object_path import AnyPath, ObjectPath, scan

if TYPE_CHECKING:
    from deltalake import DeltaTable


class OpenFolder:
    """The Delta table of a folder, opened again only after its log has changed: opening takes 5 ms and more."""

    def __init__(self, folder: AnyPath) -> None:
        self.folder = folder
        self._log = folder / "_delta_log"
        self._last: tuple[str, int | str, int, int] | None = None
        self._table: DeltaTable | None = None

    def now(self) -> DeltaTable | None:
        """The table as it is now, or None if there is none.

        Raises:
            OSError: the log is gone, or a version of it is empty.
        """
        from deltalake.exceptions import TableNotFoundError

        last = self._last_entry()
        table = self._table
        # A table object that has written is at another version than the log was when it was opened.
        if table is not None and last is not None and last == self._last and table.version() == int(last[0][:20]):
            return table
        self._last = self._table = None
        if last is not None or self._log.is_dir():
            with suppress(TableNotFoundError):
                self._table = open_at(self.folder)
                self._last = last
                return self._table
        if next(self.folder.glob("*.parquet"), None) is not None:
            raise OSError(f"the log in {self._log} is gone")
        return None

    def _last_entry(self) -> tuple[str, int | str, int, int] | None:
        """Identifies the newest commit file, also against another of the same number: name, inode (or an
        object's tag), time in ns, size."""
        try:
            entries = scan(self._log)
        except (FileNotFoundError, NotADirectoryError):
            return None
        read_from = max((entry.name[:20] for entry in entries if ".checkpoint." in entry.name), default="")
        commits = [
            e for e in entries if e.name.endswith(".json") and e.name[:20].isdigit() and e.name[:20] >= read_from
        ]
        if any(e.name[:20] > read_from and e.stat().st_size == 0 for e in commits):
            # delta-rs would skip the empty commit, and the files that it had added
            raise OSError(f"a version of the log in {self._log} is empty")
        if not commits:
            return None
        last = max(commits, key=lambda entry: entry.name)
        stat = last.stat()
        return last.name, stat.st_ino, stat.st_mtime_ns, stat.st_size


def open_folder(folder: AnyPath, *, version: int | None = None) -> DeltaTable | None:
    """The table in the folder, at `version` if given; None if there is none."""
    table = OpenFolder(folder).now()
    return table if table is None or version is None else open_at(folder, version=version)


def open_at(folder: AnyPath, *, version: int | None = None) -> DeltaTable:
    """The table in the folder. Raises errors of delta-rs if there is none, or if the log has no longer this version."""
    from deltalake import DeltaTable

    place, options = address(folder)
    return DeltaTable(place, version=version, storage_options=options)


def address(folder: AnyPath) -> tuple[str, dict[str, str] | None]:
    """Where a table is, and the options of the client that goes there, as delta-rs takes them."""
    return (folder.url, folder.client_options) if isinstance(folder, ObjectPath) else (str(folder), None)


def folder_of(delta: DeltaTable) -> AnyPath:
    """The folder of a table: delta-rs gives a URL, in which a space is %20."""
    url = urlsplit(delta.table_uri)
    if url.scheme in ("", "file"):
        return Path(unquote(url.path))
    return ObjectPath.of(unquote(delta.table_uri), delta._storage_options)


def added_files(delta: DeltaTable) -> pa.Table:
    """What the log says of each Parquet file of the table: `path`, `size_bytes`, `num_records` …"""
    return pa.RecordBatchReader.from_stream(delta.get_add_actions(flatten=True)).read_all()


def files(delta: DeltaTable) -> list[AnyPath]:
    """The Parquet files of the table."""
    folder = folder_of(delta)
    return [folder / unquote(path) for path in added_files(delta)["path"].to_pylist()]


def files_between(folder: AnyPath, *, after: int | None, until: int) -> list[AnyPath]:
    """The Parquet files of version `until` that version `after` did not have; all, if `after` is None or is gone."""
    from deltalake.exceptions import DeltaError

    known: set[AnyPath] = set()
    if after is not None:
        with suppress(DeltaError):  # the log has no longer this version: any file may be new
            known = set(files(open_at(folder, version=after)))
    return [file for file in files(open_at(folder, version=until)) if file not in known]
