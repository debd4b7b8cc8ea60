"""The landing folder in; each file below it, and whether it is to be read, out.

Ingest takes the files that are to be read, and what is told of the others is of the same walk.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from fnmatch import translate
from pathlib import Path
from typing import Literal

from pipelines.settings.sections import IngestSettings

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
