"""Checks whether a file has the sha256 that it should have; an unchanged file is read only once.

The result is remembered, in this process and in a file of the cache, by the file's size, times and inode: another file
of the same size in its place has other times or another inode.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from contextlib import suppress
from pathlib import Path

_known: dict[str, str] = {}


def sha256_of(path: Path) -> str:
    """The hash of the file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def has_content(path: Path, *, sha256: str, size: int, memory: Path) -> bool:
    """Whether the file is there with exactly that content.

    Args:
        memory: the file that remembers results; if it cannot be written, every process reads the file once.
    """
    try:
        stat = path.stat()
        if stat.st_size != size:
            return False
        mark = f"{sha256} {stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns} {stat.st_ino}"
        if mark in (_known.get(str(path)), _remembered(memory).get(str(path))):
            return True
        if sha256_of(path) != sha256:
            return False
    except OSError:
        return False
    _known[str(path)] = mark
    with suppress(OSError):
        _remember(memory, str(path), mark)
    return True


def _remembered(memory: Path) -> dict[str, str]:
    try:
        found = json.loads(memory.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _remember(memory: Path, path: str, mark: str) -> None:
    handle, temporary = tempfile.mkstemp(dir=memory.parent, prefix=".verified-")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        json.dump({**_remembered(memory), path: mark}, file, indent=1)
    Path(temporary).replace(memory)
