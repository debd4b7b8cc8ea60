"""Lists the landing folder: each file below it, and whether it is to be ingested.

The folder is one of this machine, or part of a bucket. `files_below` and `list_files` walk it in the same way, so that
ingest-documents and the commands that report on it see the same files.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Callable, Collection, Iterator
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from fnmatch import translate
from itertools import accumulate
from typing import BinaryIO, Literal

from pipelines.settings.sections import IngestSettings
from pipelines.storage.object_path import AnyPath, Entry, ObjectPath, ObjectStat
from transformations.errors import LakeloopError

log = logging.getLogger(__name__)
Kind = Literal["included", "other", "special"]


def files_below(
    folder: AnyPath, ingest: IngestSettings, *, own: Collection[str] = (), is_strict: bool = True
) -> Iterator[tuple[str, Kind]]:
    """(path below `folder`, kind) for each file there, in no order; nothing if the folder does not exist.

    "included": a pattern of `ingest.include` matches its name; "other": none does. "special" files are never read:
    links could loop or lead outside, and pipes and devices would block. Names that begin with a dot or `~$` are left
    out.

    Args:
        own: files and folders that lakeloop itself writes (`Settings.own_places`): they are left out.
        is_strict: raise an error if a folder cannot be listed; else leave that folder out.

    Raises:
        OSError: a folder cannot be listed, and `is_strict`.
        LakeloopError: object storage does not answer, and `is_strict`.
    """
    if isinstance(folder, ObjectPath):
        with nullcontext() if is_strict else suppress(LakeloopError):
            yield from ((entry.name, kind) for entry, kind in _objects_below(folder, ingest, own=own))
        return
    is_included = _matcher(ingest)
    below = len(os.path.join(folder, ""))
    own_names = {os.path.basename(place) for place in own}  # asked first: it is cheap
    folders = [str(folder)]
    while folders:
        try:
            entries = sorted(os.scandir(folders.pop()), key=lambda e: os.fsencode(e.name))
        except FileNotFoundError:
            continue  # it was deleted after it was found: its files are gone
        except OSError:
            if is_strict:
                raise
            continue
        for entry in entries:
            if entry.name.startswith((".", "~$")):  # ~$: the lock file of an Office program that has a file open
                continue
            if entry.name in own_names and os.path.abspath(entry.path) in own:
                continue
            if entry.is_dir(follow_symlinks=False):
                folders.append(entry.path)
            elif not entry.is_file(follow_symlinks=False):
                yield entry.path[below:], "special"
            else:
                yield entry.path[below:], "included" if is_included(entry.name.lower()) else "other"


def _objects_below(folder: ObjectPath, ingest: IngestSettings, *, own: Collection[str]) -> Iterator[tuple[Entry, Kind]]:
    """The objects below `folder`, by the rules of `files_below`."""
    is_included = _matcher(ingest)
    places = tuple(f"{place}/" for place in own)
    entries = folder.entries(is_deep=True)
    folders = {parent for entry in entries for parent in accumulate(entry.name.split("/")[:-1], "{}/{}".format)}
    for entry in entries:
        *_, name = parts = entry.name.split("/")
        if not entry.size and (not entry.name or entry.name in folders):
            continue  # an empty object stands for the folder: consoles make such
        if any(part.startswith((".", "~$")) for part in parts) or f"{folder / entry.name}/".startswith(places):
            continue
        yield entry, "included" if is_included(name.lower()) else "other"


def _matcher(ingest: IngestSettings) -> Callable[[str], object]:
    # "(?!)" matches nothing, if there are no patterns.
    return re.compile("|".join(translate(pattern.lower()) for pattern in ingest.include) or "(?!)").match


@dataclass(frozen=True)
class Found:
    """A file of the listing; `rescued` is the reason why its content cannot be taken, or None."""

    path: str
    file: str
    rescued: str | None = None

    def stat(self) -> os.stat_result | ObjectStat:
        """The size and the times of the file as it is now."""
        return os.stat(self.file)

    def read(self) -> bytes:
        with open(self.file, "rb") as stream:
            return stream.read()

    def content_hash(self) -> str:
        """SHA-256 of the file's bytes, read in pieces."""
        with open(self.file, "rb") as stream:
            return _hash_of(stream)


@dataclass(frozen=True, kw_only=True)
class FoundObject(Found):
    """An object of the listing, with what that said of it."""

    place: ObjectPath
    said: ObjectStat

    def stat(self) -> ObjectStat:
        return self.said

    def read(self) -> bytes:
        return self.place.read_bytes()

    def content_hash(self) -> str:
        with self.place.open() as stream:
            return _hash_of(stream)


def _hash_of(stream: BinaryIO) -> str:
    digest = hashlib.sha256()
    while block := stream.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def file_in(folder: AnyPath, path: str) -> Found:
    """The file of that path, which is there."""
    place = folder / path
    return _object(place, path, place.stat()) if isinstance(place, ObjectPath) else Found(path, str(place))


def list_files(folder: AnyPath, ingest: IngestSettings, *, own: Collection[str] = ()) -> list[Found]:
    """The "included" files below `folder` (see `files_below`), sorted by path. A warning counts the special ones."""
    if isinstance(folder, ObjectPath):
        return [
            _object(folder / entry.name, entry.name, entry.stat())
            for entry, kind in _objects_below(folder, ingest, own=own)
            if kind == "included"
        ]
    files = list(files_below(folder, ingest, own=own))
    special = sum(kind == "special" for _, kind in files)
    if special:
        log.warning("ingest-documents: %d links or other special files in %s were passed over", special, folder)
    root = os.path.join(folder, "")
    return sorted((_found(root, path) for path, kind in files if kind == "included"), key=lambda f: f.path)


def document_id(source: str, path: str) -> str:
    """The id of the document at a path of a source: 32 hexadecimal digits."""
    return hashlib.sha256(f"{source}\0{path}".encode()).hexdigest()[:32]


def _object(place: ObjectPath, path: str, said: ObjectStat) -> FoundObject:
    return FoundObject(path, str(place), place=place, said=said)


def _found(root: str, path: str) -> Found:
    file, path = root + path, path.replace(os.sep, "/")
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        shown = os.fsencode(path).decode("utf-8", "backslashreplace")
        return Found(shown, file, "invalid_path: the name is not UTF-8. Rename the file.")
    return Found(path, file)
