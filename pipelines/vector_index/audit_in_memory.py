"""Compares few rows that an index, or its table, should have with those that it has: without Spark.

audit.py and verify.py compare many rows, with the same result.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipelines.stores import FILTER_COLUMNS
from transformations.index.fingerprint import ROW_FIELDS, fingerprint, row_hash_of

# A store may return a vector that differs in the last bits of a 32-bit float; no other vector is as near as this.
SAME_VECTOR = 1e-5
# Of the table, these columns are compared. A null in one of the first is left to Spark, whose hashes pass over nulls.
_KNOWN = ("chunk_id", *FILTER_COLUMNS, "vector")
COMPARED = (*_KNOWN, "text", "row_hash")


@dataclass(frozen=True)
class Comparison:
    """What differs, and what the manifest should say.

    Attributes:
        rows: how many rows the index has.
        differences: (kind, chunk_id) of each row that differs.
        fingerprint: that of the rows that should be in the index.
        expected: how many rows these are.
    """

    rows: int
    differences: Sequence[tuple[str, str]]
    fingerprint: str
    expected: int


def compare_in_memory(wanted: pa.Table, held: Iterable[pa.Table]) -> Comparison | None:
    """The differences, or None for rows that Spark must compare: see `_KNOWN`, or the table has an id twice.

    Args:
        wanted: the rows that the index should have, with `COMPARED`.
        held: the rows that it has; of these, one part at a time is in memory.
    """
    expected = {row["chunk_id"]: row for row in _rows(wanted)}
    if _has_nulls(wanted) or len(expected) < wanted.num_rows:
        return None
    copies = Counter[str]()
    kinds: dict[str, str | None] = dict.fromkeys(expected, "missing")
    for part in held:
        if _has_nulls(part):
            return None
        for found in _rows(part):
            chunk_id = found["chunk_id"]
            copies[chunk_id] += 1
            if chunk_id not in expected:
                kinds[chunk_id] = "ghost"
            else:
                kinds[chunk_id] = "duplicate" if copies[chunk_id] > 1 else _kind(expected[chunk_id], found)
    try:
        right = fingerprint(row["row_hash"] for row in expected.values() if row["row_hash"] is not None)
    except ValueError:  # what stands in the table is no hash: no manifest is right
        right = "?"
    differences = [(kind, chunk_id) for chunk_id, kind in kinds.items() if kind is not None]
    return Comparison(sum(copies.values()), differences, right, len(expected))


def served_differences(chunks: pa.Table, rows: pa.Table) -> list[tuple[str, str]]:
    """(kind, chunk_id) of what differs between chunks, with the column `model`, and the rows of gold.chunk_index that
    are made of them, each once: missing, ghost, duplicate or stale."""
    expected = {row["chunk_id"]: row_hash_of(row) for row in chunks.select(ROW_FIELDS).to_pylist()}
    copies = Counter(rows["chunk_id"].to_pylist())
    found = [("missing", chunk_id) for chunk_id in expected if chunk_id not in copies]
    for row in rows.select([*ROW_FIELDS, "row_hash"]).to_pylist():
        chunk_id = row["chunk_id"]
        if chunk_id not in expected:
            found.append(("ghost", chunk_id))
        elif copies[chunk_id] > 1:
            found.append(("duplicate", chunk_id))
        elif not expected[chunk_id] == row["row_hash"] == row_hash_of(row):
            found.append(("stale", chunk_id))
    return [*dict.fromkeys(found)]


def wrong_vectors(rows: pa.Table, cached: pa.Table) -> list[str]:
    """The chunk_ids whose vector is none of those that the cache has for their text; a text that the cache does not
    have is passed over, and one that two runs embedded is there twice."""
    vectors: dict[str, list[NDArray[np.float32]]] = {}
    for row in _rows(cached.select(["text_hash", "vector"])):
        vectors.setdefault(row["text_hash"], []).append(row["vector"])
    is_right: dict[str, bool] = {}
    for row in _rows(rows.select(["chunk_id", "text_hash", "vector"])):
        if row["text_hash"] in vectors:
            is_same = any(_are_same(row["vector"], vector) for vector in vectors[row["text_hash"]])
            is_right[row["chunk_id"]] = is_right.get(row["chunk_id"], False) or is_same
    return [chunk_id for chunk_id, right in is_right.items() if not right]


def _kind(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> str | None:
    """How a row differs; the order of the questions is that of audit.py."""
    if wanted["text"] != found["text"]:
        return "stale"
    if any(wanted[column] != found[column] for column in FILTER_COLUMNS):
        return "wrong_filter"
    if not wanted["row_hash"] == found["row_hash"] == row_hash_of(found):
        return "stale"
    return None if _are_same(wanted["vector"], found["vector"]) else "wrong_vector"


def _are_same(a: NDArray[np.float32], b: NDArray[np.float32]) -> bool:
    """Whether two vectors differ at most in their last bits. NaN equals NaN only if all else is equal, too."""
    if np.array_equal(a, b, equal_nan=True):
        return True
    with np.errstate(invalid="ignore", over="ignore"):
        return a.shape == b.shape and float(np.abs(a - b).max()) <= SAME_VECTOR


def _rows(rows: pa.Table) -> list[dict[str, Any]]:
    """The rows as dicts, with vectors as arrays."""
    vectors = rows["vector"]
    numbers = np.asarray(pc.list_flatten(vectors), dtype=np.float32)
    lengths = np.asarray(pc.fill_null(pc.list_value_length(vectors), 0), dtype=np.int64)
    ends = np.cumsum(lengths)
    plain = [name for name in dict.fromkeys((*COMPARED, *ROW_FIELDS)) if name in rows.column_names and name != "vector"]
    return [
        row | {"vector": numbers[end - length : end]}
        for row, length, end in zip(rows.select(plain).to_pylist(), lengths, ends, strict=True)
    ]


def _has_nulls(rows: pa.Table) -> bool:
    return any(rows[name].null_count for name in _KNOWN) or pc.list_flatten(rows["vector"]).null_count > 0
