"""Lists the landing folder: each file below it, and whether it is to be read.

Ingest takes the files that are to be read, and what is told of the others is of the same walk.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import translate
from pathlib import Path
from typing import Literal

from pipelines.settings.sections import IngestSettings

log = logging.getLogger(__name__)
Kind = Literal["included", "other", "special"]


def files_below(folder: Path, ingest: IngestSettings, *, is_strict: bool = True) -> Iterator[tuple[str, Kind]]:
    """(file, kind) below `folder`, in no order. A folder that is not there has none.

    "included" is a file that a pattern of `ingest.include` names, "other" one that none does. "special" is never read:
    links are not followed (they loop, and they lead outside), and pipes and devices block. Names that begin with a dot
    or `~$` are left out.

    Args:
        is_strict: a folder that may not be listed is an error; else it is left out.

    Raises:
        OSError: a folder cannot be listed.
    """
    # "(?!)" matches nothing, as no pattern does.
    is_included = re.compile("|".join(translate(pattern.lower()) for pattern in ingest.include) or "(?!)").match
    folders = [str(folder)]
    while folders:
        try:
            entries = sorted(os.scandir(folders.pop()), key=lambda e: os.fsencode(e.name))
        except FileNotFoundError:
            continue  # it was there a moment ago: its files are gone
        except OSError:
            if is_strict:
                raise
            continue
        for entry in entries:
            if entry.name.startswith((".", "~$")):  # an Office program's mark that it holds a file open
                continue
            if entry.is_dir(follow_symlinks=False):
                folders.append(entry.path)
            elif not entry.is_file(follow_symlinks=False):
                yield entry.path, "special"
            else:
                yield entry.path, "included" if is_included(entry.name.lower()) else "other"


@dataclass(frozen=True)
class Found:
    """A file of the listing; `rescued` is why its content cannot be taken."""

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


def list_files(folder: Path, ingest: IngestSettings) -> list[Found]:
    """The documents below `folder`, sorted by path; see `files_below` for what is none."""
    files = list(files_below(folder, ingest))
    special = sum(kind == "special" for _, kind in files)
    if special:
        log.warning("ingest-documents: %d links or other special files in %s were passed over", special, folder)
    below = len(os.path.join(folder, ""))
    return sorted((_found(file, below=below) for file, kind in files if kind == "included"), key=lambda f: f.path)


def document_id(source: str, path: str) -> str:
    """32 hexadecimal digits for one path of one source."""
    return hashlib.sha256(f"{source}\0{path}".encode()).hexdigest()[:32]


def _found(file: str, *, below: int) -> Found:
    path = file[below:].replace(os.sep, "/")
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        shown = os.fsencode(path).decode("utf-8", "backslashreplace")
        return Found(shown, file, "invalid_path: the name is not UTF-8. Rename the file.")
    return Found(path, file)
