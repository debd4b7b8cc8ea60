"""The folder of an index's files, which holds only whole states at every moment.

state.json              the states; it is replaced by a rename, and no other file is ever written twice
rows-….arrow            rows with every column: those of the base, in the order of its index, or those of one upsert
index-….<library>       the library's index over a base's vectors
deleted-….arrow         the ids of one delete
lock                    held while one of these is written
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from transformations.errors import ConfigurationError

_FORMAT = 1
_STATE, _LOCK = "state.json", "lock"


@dataclass(frozen=True)
class Base:
    """The files of the rows and of the library's index over them; `recipe` says how the index was built."""

    rows: str
    index: str
    recipe: str


@dataclass(frozen=True)
class State:
    """What an index holds: the base, then each upsert and delete since, in order; for each id the last one counts."""

    base: Base | None = None
    tail: tuple[str, ...] = ()
    manifest: str | None = None

    @property
    def files(self) -> set[str]:
        return {*self.tail, *((self.base.rows, self.base.index) if self.base else ())}


@dataclass(frozen=True)
class States:
    """What readers see (`committed`), what they saw before and may still be opening (`previous`), and what the next
    commit will show (`pending`)."""

    committed: State | None = None
    previous: State | None = None
    pending: State | None = None
    format: int = field(default=_FORMAT, kw_only=True)

    @property
    def written(self) -> State | None:
        """The last state that was written, committed or not."""
        return self.pending or self.committed


class Folder:
    """The files of one index."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def states(self) -> States:
        """The states; empty if there is no index. Raises ConfigurationError if something else wrote the file."""
        try:
            text = (self.path / _STATE).read_text(encoding="utf-8")
        except (FileNotFoundError, NotADirectoryError):
            return States()
        try:
            values = json.loads(text)
            if values["format"] == _FORMAT:
                return States(*(_state(values[name]) for name in ("committed", "previous", "pending")))
            problem = f"it has format {values['format']}, this lakeloop reads {_FORMAT}"
        except (ValueError, TypeError, KeyError) as error:
            problem = str(error)
        raise ConfigurationError(
            f"{self.path / _STATE} cannot be read ({problem}). Upgrade lakeloop, or remove the folder and sync anew."
        )

    def lost(self, state: State) -> str | None:
        """A file of the state that is not there; None: all are."""
        return next((name for name in sorted(state.files) if not (self.path / name).exists()), None)

    @contextmanager
    def writing(self) -> Iterator[States]:
        """The states; no other process writes until the block ends. The kernel frees the lock if the process dies."""
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / _LOCK).open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield self.states()

    def replace(self, states: States) -> None:
        """Move to `states` in one step that survives a power failure, then remove the files that no state names."""
        draft = self.path / f"{_STATE}.new"
        draft.write_text(json.dumps(asdict(states)), encoding="utf-8")
        _sync(draft)
        os.replace(draft, self.path / _STATE)
        _sync(self.path)
        kept = {_STATE, _LOCK}.union(*(s.files for s in (states.committed, states.previous, states.pending) if s))
        for file in self.path.iterdir():
            if file.name not in kept:
                shutil.rmtree(file) if file.is_dir() else file.unlink()

    def write(self, table: pa.Table, *, kind: str) -> str:
        """Write a new file, and return its name. It is one record batch, so that each column is one piece of the mapped
        file when it is read."""
        path = self.new(f"{kind}-", ".arrow")
        with path.open("wb") as file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table.combine_chunks())
        self.keep(path)
        return path.name

    def read(self, name: str) -> pa.Table:
        """The table, mapped and not loaded; a reader can still use it after the file is removed."""
        with pa.memory_map(str(self.path / name)) as file:
            return pa.ipc.open_file(file).read_all()

    def new(self, prefix: str, suffix: str) -> Path:
        """A path that was never used, so that a cache by name is never stale."""
        return self.path / f"{prefix}{secrets.token_hex(8)}{suffix}"

    def keep(self, path: Path) -> None:
        """Make a new file (or folder of files) survive a power failure."""
        for file in (*path.iterdir(), path) if path.is_dir() else (path,):
            _sync(file)

    def remove(self) -> None:
        """Remove the folder, the states first: after a kill in between, the rest is no index any more."""
        (self.path / _STATE).unlink(missing_ok=True)
        shutil.rmtree(self.path, ignore_errors=True)


def _state(values: dict[str, Any] | None) -> State | None:
    if values is None:
        return None
    base = values["base"]
    return State(base=Base(**base) if base else None, tail=tuple(values["tail"]), manifest=values["manifest"])


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
