"""Reads the live rows of one state of an index, and finds the nearest of them by exact cosine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache, cached_property, reduce
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipelines.lakehouse.schemas import INDEX_SCHEMA
from pipelines.stores import Hit
from pipelines.stores.segment_folder import Folder, State
from transformations.errors import ConfigurationError
from transformations.index.vectors import matrix_of
from transformations.tables.filters import And, Filter, In, Not

IDS = pa.schema([("chunk_id", pa.large_string())])
_ROWS = INDEX_SCHEMA
_HIT_COLUMNS = ["chunk_id", "document_id", "path", "title", "heading_path", "text"]
_ROWS_PER_BATCH = 10_000

Mask = NDArray[np.bool_]
Positions = NDArray[np.intp]


@cache
def file_schema(dimension: int) -> pa.Schema:
    """gold.chunk_index's columns with 64-bit offsets, so that one record batch takes any number of rows."""
    types = {
        pa.string(): pa.large_string(),
        pa.list_(pa.string()): pa.large_list(pa.large_string()),
        pa.list_(pa.float32()): pa.list_(pa.float32(), dimension),
    }
    return pa.schema([(field.name, types[field.type]) for field in _ROWS])


class Part:
    """The rows of one file; `alive` is false for those that a later file replaces or deletes."""

    def __init__(self, table: pa.Table, alive: Mask, *, dimension: int) -> None:
        self.table = table
        self.alive = alive
        self.vectors = matrix_of(table["vector"], dimension=dimension)

    @cached_property
    def norms(self) -> NDArray[np.float32]:
        return norms(self.vectors)

    def passing(self, where: Filter | None) -> Mask:
        return self.alive if where is None else self.alive & np.asarray(_mask(self.table, where))

    def cosines(self, query: NDArray[np.float32], rows: Positions) -> NDArray[np.float32]:
        """The cosines of `rows` with a query of norm one."""
        if 2 * len(rows) > len(self.vectors):  # cheaper than to copy most of the vectors
            return np.asarray((self.vectors @ query / self.norms)[rows])
        some = self.vectors[rows]
        return np.asarray(some @ query / norms(some))


class View:
    """One open state. `index` is the library's index over the base, once it is loaded."""

    def __init__(self, folder: Folder, state: State, *, dimension: int) -> None:
        self.state = state
        self.index: Any = None
        tables = [_read(folder, name, dimension=dimension) for name in state.tail]
        ids = [table["chunk_id"].to_pylist() for table in tables]
        last = {key: number for number, keys in enumerate(ids) for key in keys}
        self.tail = [
            Part(table, np.array([last[key] == number for key in keys], dtype=np.bool_), dimension=dimension)
            for number, (table, keys) in enumerate(zip(tables, ids, strict=True))
            if table.schema != IDS
        ]
        self.base: Part | None = None
        if state.base is not None:
            table = _read(folder, state.base.rows, dimension=dimension)
            replaced = pc.is_in(table["chunk_id"], value_set=pa.array(last, pa.large_string()))
            self.base = Part(table, ~np.asarray(replaced), dimension=dimension)

    @property
    def parts(self) -> list[Part]:
        return ([self.base] if self.base else []) + self.tail

    def tombstones(self) -> pa.Table:
        """The ids of the base's rows that the tail replaces or deletes."""
        return self.base.table.select(["chunk_id"]).filter(~self.base.alive) if self.base else IDS.empty_table()

    def batches(self, columns: Sequence[str] = _ROWS.names) -> Iterator[pa.RecordBatch]:
        """The live rows in the types of gold.chunk_index."""
        schema = pa.schema([_ROWS.field(name) for name in columns])
        for part in self.parts:
            for start in range(0, part.table.num_rows, _ROWS_PER_BATCH):
                rows = part.table.select(columns).slice(start, _ROWS_PER_BATCH)
                yield from rows.filter(part.alive[start : start + _ROWS_PER_BATCH]).cast(schema).to_batches()

    def nearest(
        self,
        query: NDArray[np.float32],
        *,
        k: int,
        where: Filter | None,
        in_base: Callable[[Mask], Positions],
    ) -> list[Hit]:
        """The k nearest rows, best first: among all rows of the tail, and those of the base that `in_base` proposes."""
        found: list[tuple[float, Part, int]] = []
        for part in self.parts:
            mask = part.passing(where)
            rows = in_base(mask) if part is self.base else np.flatnonzero(mask)
            scores = part.cosines(query, rows)
            best = np.argpartition(-scores, k)[:k] if len(rows) > k else range(len(rows))
            found += [(float(scores[i]), part, int(rows[i])) for i in best]
        found.sort(key=lambda one: -one[0])
        return [_hit(part.table, row, score=score) for score, part, row in found[:k]]


def live_rows(parts: Sequence[Part], *, dimension: int) -> pa.Table:
    """The live rows of all parts, in the types of files."""
    return pa.concat_tables([file_schema(dimension).empty_table(), *(p.table.filter(p.alive) for p in parts)])


def norms(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(np.maximum(np.sqrt(np.einsum("ij,ij->i", vectors, vectors)), np.finfo(np.float32).tiny))


def _mask(table: pa.Table, where: Filter) -> pa.ChunkedArray:
    if isinstance(where, In):
        return pc.is_in(table[where.column], value_set=pa.array(where.values, pa.large_string()))
    if isinstance(where, Not):
        return pc.invert(_mask(table, where.part))
    join = pc.and_ if isinstance(where, And) else pc.or_
    return reduce(join, (_mask(table, part) for part in where.parts))


def _hit(table: pa.Table, row: int, *, score: float) -> Hit:
    values = table.select(_HIT_COLUMNS).slice(row, 1).to_pylist()[0]
    return Hit(**{**values, "heading_path": tuple(values["heading_path"] or ())}, score=score)


def _read(folder: Folder, name: str, *, dimension: int) -> pa.Table:
    table = folder.read(name)
    if table.schema not in (IDS, file_schema(dimension)):
        raise ConfigurationError(
            f"{folder.path / name} is not of this index, whose vectors have dimension {dimension}: its columns are "
            f"{', '.join(f'{field.name} ({field.type})' for field in table.schema)}. Another model or "
            "lakeloop wrote it. Name another index with index.name, or drop this one and sync anew."
        )
    return table
