"""The base of stores whose library cannot change an index that it has built.

    base        the library's index over most rows, never changed
    tail        the rows written since, few enough to be compared one by one
    tombstones  the ids that the tail replaces or deletes, dropped from what the base finds

A search merges base and tail. Scores are computed from the stored vectors, so that only the base's choice of candidates
can be approximate. If tail and tombstones grow beyond a share of the base, a commit builds a new one.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field

from pipelines.stores import Hit, Manifest, check_query, check_succession, damaged_index
from pipelines.stores.capabilities import Capability, declare, never, yes
from pipelines.stores.place import Options, Place
from pipelines.stores.segment_folder import Base, Folder, State, States
from pipelines.stores.segment_view import IDS, Mask, Positions, View, file_schema, live_rows, norms
from transformations.errors import ConfigurationError
from transformations.index.vectors import ANYTHING, matrix_of
from transformations.tables.filters import Filter

_FILES_BEFORE_FOLDING = 32
# If less than this share of the base's rows passes a filter, comparing these one by one is as fast, and exact.
_LEAST_SHARE = 0.1
# The states that this process searches, by folder and options: a base stays loaded from search to search.
_SERVED: dict[tuple[object, ...], View] = {}
# Held while a state is opened: other threads wait for it instead of loading the same base again.
_OPENING = threading.Lock()


def declare_segments(approximate_search: Capability) -> Mapping[str, Capability]:
    """The capabilities that all of these stores share, with the one that differs."""
    local = never("a folder on one machine's disk; its files are mapped, locked and renamed")
    return declare(
        atomic_commit=yes("one rename moves readers from state to state"),
        compare_and_set=yes("under a lock of the folder that all writers of the machine take"),
        several_writers=local,
        other_processes=yes("each search looks for a newer state"),
        filters=yes("computed over the stored columns first"),
        approximate_search=approximate_search,
        object_storage=local,
        forgets_at_once=yes("files are rewritten, older ones removed; a reader holds its own until its next search"),
    )


class SegmentedOptions(Options):
    """The options of all these stores. A base that was built with other values of the `built_in` options is rebuilt."""

    built_in: ClassVar[tuple[str, ...]] = ()

    base_rows: int = Field(
        5000, ge=0, description="of how many rows on an index has a base; below, each search is exact"
    )
    compact_ratio: float = Field(
        0.2, ge=0, allow_inf_nan=False, description="which share of the base tail and tombstones may reach"
    )
    compact_rows: int = Field(1000, ge=0, description="how many rows of tail and tombstones are not worth a new base")
    candidates: int = Field(
        4,
        ge=1,
        description="how many are asked of the base for each hit: what its order lacks, the exact one makes good",
    )


class SegmentedStore(ABC):
    """One folder, `<name>.<library>` below `uri`. A subclass says how its library builds, loads and asks an index."""

    limits = ANYTHING
    library_name: ClassVar[str]
    options: ClassVar[type[SegmentedOptions]]
    # Raise it if `_build` makes a different index from the same options: older bases are then rebuilt.
    build_version: ClassVar[int] = 1

    def __init__(self, place: Place) -> None:
        if "://" in place.uri:
            raise ConfigurationError(
                f"{self.library_name} keeps its index in a folder of this machine, not at {place.uri}"
            )
        self._folder = Folder(Path(place.uri) / f"{place.name}.{self.library_name}")
        self._dimension = place.dimension
        self._segments = place.parsed(self.options)
        self._key = (self._folder.path, place.dimension, self._segments)
        version = [f"build_version={self.build_version}"] if self.build_version > 1 else []
        self._recipe = ", ".join(
            [*version, *(f"{option}={getattr(self._segments, option)}" for option in self.options.built_in)]
        )
        self._has_searched = False

    @abstractmethod
    def _import(self) -> Any:
        """The library. Raises MissingDependencyError."""

    @abstractmethod
    def _build(self, vectors: NDArray[np.float32], path: Path) -> None:
        """Write to `path` the index over `vectors` (each of norm one); it names them by their positions."""

    @abstractmethod
    def _load(self, path: Path) -> Any:
        """The index, loaded; several threads may ask it."""

    @abstractmethod
    def _ask(self, index: Any, query: NDArray[np.float32], *, count: int, among: Mask) -> Positions:
        """About the `count` nearest positions; only those that are true in `among`, if the library can restrict it."""

    def _least_rows(self) -> int:
        """The least number of rows over which the library can build an index."""
        return 0

    def manifest(self) -> Manifest | None:
        self._import()
        while True:
            state, last = self._folder.states().committed, _SERVED.get(self._key)
            is_loaded = last is not None and last.state == state  # searches go on without the files
            lost = None if state is None or is_loaded else self._folder.lost(state)
            if lost is None:
                return _manifest(state)
            if self._folder.states().committed == state:  # else a commit has removed it meanwhile
                raise damaged_index(self._folder.path, FileNotFoundError(f"{lost} is not there"))

    def upsert(self, rows: pa.Table, *, are_new: bool = False) -> Mapping[str, str]:
        if rows.num_rows:
            schema = file_schema(self._dimension)
            self._append(rows.select(schema.names).cast(schema), kind="rows")
        return {}

    def delete(self, ids: Sequence[str]) -> None:
        if ids and self._folder.states().written is not None:
            self._append(pa.table([pa.array(ids, pa.large_string())], schema=IDS), kind="deleted")

    def commit(self, manifest: Manifest, *, expected: Manifest | None) -> None:
        with self._folder.writing() as states:
            check_succession(_manifest(states.committed), expected=expected, new=manifest)
            state = self._tidied(states.written or State())
            self._folder.replace(
                States(committed=replace(state, manifest=manifest.to_json()), previous=states.committed)
            )

    def ids_with_hashes(self) -> Iterator[pa.RecordBatch]:
        view = self._open("written")
        if view is not None:
            yield from view.batches(["chunk_id", "row_hash"])

    def rows(self) -> Iterator[pa.RecordBatch]:
        view = self._open("committed")
        if view is not None:
            yield from view.batches()

    def search(self, vector: NDArray[np.float32], *, k: int, where: Filter | None = None) -> list[Hit]:
        check_query(vector, dimension=self._dimension, where=where)
        view = self._open("committed", with_index=True)
        if view is None:
            return []
        query = (vector / max(float(np.linalg.norm(vector)), np.finfo(np.float32).tiny)).astype(np.float32)
        return view.nearest(query, k=k, where=where, in_base=lambda among: self._candidates(view, query, k, among))

    def forget(self) -> str:
        if self._folder.states().written is None:
            return "nothing: there is no index"
        with self._folder.writing() as states:
            committed, pending = (state and self._compacted(state) for state in (states.committed, states.pending))
            self._folder.replace(States(committed=committed, pending=pending))
        if pending:
            return "the rows that were deleted since the last commit, for readers still see them: commit, then forget"
        return "nothing: files rewritten, older ones removed"

    def drop(self) -> None:
        _SERVED.pop(self._key, None)
        self._folder.remove()

    def close(self) -> None:
        if self._has_searched:  # otherwise another handle has loaded it, and still uses it
            _SERVED.pop(self._key, None)

    def _append(self, table: pa.Table, *, kind: str) -> None:
        with self._folder.writing() as states:
            written = states.written or State()
            name = self._folder.write(table, kind=kind)
            self._folder.replace(replace(states, pending=replace(written, tail=(*written.tail, name))))

    def _open(self, which: Literal["committed", "written"], *, with_index: bool = False) -> View | None:
        """The state that is there now. If a commit removes its files meanwhile, the newer state is opened."""
        while (state := getattr(self._folder.states(), which)) is not None:
            try:
                return self._served(state) if with_index else self._view(state)
            except (FileNotFoundError, pa.ArrowInvalid) as error:
                if getattr(self._folder.states(), which) == state:
                    raise damaged_index(self._folder.path, error) from None
        return None

    def _view(self, state: State) -> View:
        return View(self._folder, state, dimension=self._dimension)

    def _served(self, state: State) -> View:
        self._has_searched = True
        last = _SERVED.get(self._key)
        if last is not None and last.state == state:
            return last
        with _OPENING:
            last = _SERVED.get(self._key)
            if last is not None and last.state == state:
                return last
            view = self._view(state)
            if state.base is not None:
                if last is not None and last.state.base == state.base:
                    view.index = last.index
                else:
                    view.index = self._loaded(state.base)
            _SERVED[self._key] = view
            return view

    def _loaded(self, base: Base) -> Any:
        path = self._folder.path / base.index
        try:
            return self._load(path)
        except Exception:
            if not path.exists():  # each library raises another error for this
                raise FileNotFoundError(str(path)) from None
            raise

    def _candidates(self, view: View, query: NDArray[np.float32], k: int, among: Mask) -> Positions:
        """Positions in the base that `among` allows: at least k of them, or all."""
        passing, size = int(np.count_nonzero(among)), len(among)
        if passing >= max(size * _LEAST_SHARE, 1):
            count = max(k, self._segments.candidates * k * size // passing)
            while count < size:
                found = self._ask(view.index, query, count=count, among=among)
                found = found[among[found]]
                if len(found) >= min(k, passing):
                    return found
                count *= 4
        return np.flatnonzero(among)

    def _tidied(self, state: State) -> State:
        """The same state while the tail is small; else one with fewer files, or with a new base."""
        view = self._view(state)
        if view.base is None:
            due = sum(int(part.alive.sum()) for part in view.tail) >= self._rows_for_base()
        else:
            assert state.base is not None
            size = len(view.base.alive)
            edits = int((~view.base.alive).sum()) + sum(len(part.alive) for part in view.tail)
            due = state.base.recipe != self._recipe or edits > max(
                self._segments.compact_rows, self._segments.compact_ratio * size
            )
        if due:
            return self._compacted(state)
        if len(state.tail) <= _FILES_BEFORE_FOLDING:
            return state
        folded = [
            self._folder.write(table, kind=kind)
            for kind, table in (
                ("deleted", view.tombstones()),
                ("rows", live_rows(view.tail, dimension=self._dimension)),
            )
            if table.num_rows
        ]
        return replace(state, tail=tuple(folded))

    def _compacted(self, state: State) -> State:
        """The same rows in one file, with a base if they are enough for one."""
        table = live_rows(self._view(state).parts, dimension=self._dimension)
        if table.num_rows == 0:
            return replace(state, base=None, tail=())
        rows = self._folder.write(table, kind="rows")
        if table.num_rows < self._rows_for_base():
            return replace(state, base=None, tail=(rows,))
        del table  # the library needs the room, and the file is mapped
        vectors = matrix_of(self._folder.read(rows)["vector"], dimension=self._dimension)
        index = self._folder.new("index-", f".{self.library_name}")
        self._build(vectors / norms(vectors)[:, np.newaxis], index)
        self._folder.keep(index)
        return replace(state, base=Base(rows, index.name, self._recipe), tail=())

    def _rows_for_base(self) -> int:
        return max(self._segments.base_rows, self._least_rows())


def _manifest(state: State | None) -> Manifest | None:
    return None if state is None or state.manifest is None else Manifest.from_json(state.manifest)
