"""Lists the landing folder: each file below it, and whether it is to be ingested.

`files_below` is the only walk of the folder, so that ingest-documents and the commands that report on it see the same
files.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from fnmatch import translate
from pathlib import Path
from typing import Literal

from pipelines.settings.sections import IngestSettings

log = logging.getLogger(__name__)
Kind = Literal["included", "other", "special"]


def files_below(
    folder: Path, ingest: IngestSettings, *, own: Collection[str] = (), is_strict: bool = True
) -> Iterator[tuple[str, Kind]]:
    """(file, kind) for each file below `folder`, in no order; nothing if the folder does not exist.

    "included": a pattern of `ingest.include` matches its name; "other": none does. "special" files are never read:
    links could loop or lead outside, and pipes and devices would block. Names that begin with a dot or `~$` are left
    out.

    Args:
        own: files and folders that lakeloop itself writes (`Settings.own_places`): they are left out.
        is_strict: raise an error if a folder cannot be listed; else leave that folder out.

    Raises:
        OSError: a folder cannot be listed, and `is_strict`.
    """
    # "(?!)" matches nothing, if there are no patterns.
    is_included = re.compile("|".join(translate(pattern.lower()) for pattern in ingest.include) or "(?!)").match
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
                yield entry.path, "special"
            else:
                yield entry.path, "included" if is_included(entry.name.lower()) else "other"


@dataclass(frozen=True)
class Found:
    """A file of the listing; `rescued` is the reason why its content cannot be taken, or None."""

    path: str
    file: str
    rescued: str | None = None

    def content_hash(self) -> str:
        """SHA-256 of the file's bytes, read in pieces."""
        with open(self.file, "rb") as stream:
            digest = hashlib.sha256()
            while block := stream.read(1 << 20):
                digest.update(block)
        return digest.hexdigest()


def list_files(folder: Path, ingest: IngestSettings, *, own: Collection[str] = ()) -> list[Found]:
    """The "included" files below `folder` (see `files_below`), sorted by path. A warning counts the special ones."""
    files = list(files_below(folder, ingest, own=own))
    special = sum(kind == "special" for _, kind in files)
    if special:
        log.warning("ingest-documents: %d links or other special files in %s were passed over", special, folder)
    below = len(os.path.join(folder, ""))
    return sorted((_found(file, below=below) for file, kind in files if kind == "included"), key=lambda f: f.path)


def document_id(source: str, path: str) -> str:
    """The id of the document at a path of a source: 32 hexadecimal digits."""
    return hashlib.sha256(f"{source}\0{path}".encode()).hexdigest()[:32]


def _found(file: str, *, below: int) -> Found:
    path = file[below:].replace(os.sep, "/")
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        shown = os.fsencode(path).decode("utf-8", "backslashreplace")
        return Found(shown, file, "invalid_path: the name is not UTF-8. Rename the file.")
    return Found(path, file)
