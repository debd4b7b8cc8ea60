"""Rows of gold.chunk_index and the limits of a store in, the rows that the store cannot hold, with reasons, out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

MAX_ID_LENGTH = 512


@dataclass(frozen=True)
class Limits:
    """The largest row that a store can hold; None means that no row could meet a limit.

    Attributes:
        text_bytes: bytes of one text in UTF-8; each heading is a text of its own.
        id_bytes: bytes of the chunk_id in UTF-8.
        headings: number of headings in the heading path.
        row_bytes: bytes of all texts of a row together, and four for each number of its vector.
        nul: whether a text may hold U+0000.
        unit_vectors: whether vectors must have length 1: the store ranks by Euclidean distance, which gives the order
            of the cosine for such vectors only.
    """

    text_bytes: int | None = None
    id_bytes: int | None = None
    headings: int | None = None
    row_bytes: int | None = None
    nul: bool = True
    unit_vectors: bool = False


ANYTHING = Limits()


def refusals(rows: pa.Table, *, dimension: int, limits: Limits = ANYTHING) -> dict[str, str]:
    """chunk_id → reason for each refused row: it is above a limit, has a null, or its vector has no direction."""
    reasons = _bad_vectors(rows, dimension=dimension, limits=limits)
    reasons |= _bad_texts(rows, limits=limits)
    return reasons | _bad_ids(rows["chunk_id"], limits=limits)


def deletable(ids: Sequence[str], *, limits: Limits) -> list[str]:
    """Those of `ids` that the store can hold. The others are not in it, and it refuses to be asked about them."""
    bad = _bad_ids(pa.chunked_array([pa.array(ids, pa.string())]), limits=limits)
    return [chunk_id for chunk_id in ids if chunk_id not in bad]


def direction_problems(matrix: NDArray[np.float32]) -> Iterator[tuple[int, str]]:
    """The places of rows of `matrix` without a direction in 32-bit floats, and why: no cosine with them is defined."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        squares = np.einsum("ij,ij->i", matrix, matrix)
    for place in np.flatnonzero(~np.isfinite(squares) | (squares < np.finfo(np.float32).tiny)):
        vector = matrix[place].astype(np.float64)
        if not np.isfinite(vector).all():
            yield int(place), "holds NaN or infinity"
        elif not vector.any():
            yield int(place), "has norm zero"
        else:
            yield int(place), f"has norm {np.linalg.norm(vector):.3g}, which 32-bit floats cannot square"


def matrix_of(vectors: pa.Array | pa.ChunkedArray, *, dimension: int) -> NDArray[np.float32]:
    """A column of vectors, all of `dimension`, as float32 [rows, dimension]; a view if Arrow allows one."""
    values = vectors.combine_chunks() if isinstance(vectors, pa.ChunkedArray) else vectors
    return np.asarray(values.flatten(), dtype=np.float32).reshape(-1, dimension)


def _bad_ids(ids: pa.ChunkedArray, *, limits: Limits) -> dict[str, str]:
    lengths = pc.fill_null(pc.utf8_length(ids), 0)
    reasons = {}
    for place in _places(pc.or_(pc.equal(lengths, 0), pc.greater(lengths, MAX_ID_LENGTH))):
        found = lengths[place].as_py()
        reasons[ids[place].as_py()] = f"the chunk_id has {found} characters, 1 to {MAX_ID_LENGTH} are allowed"
    if limits.id_bytes is not None:
        sizes = pc.fill_null(pc.binary_length(ids), 0)
        for place in _places(pc.greater(sizes, limits.id_bytes)):
            reasons.setdefault(
                ids[place].as_py(),
                f"the chunk_id has {sizes[place].as_py()} bytes, the store takes {limits.id_bytes}",
            )
    if not limits.nul:
        for place in _places(_holds_nul(ids)):
            reasons.setdefault(ids[place].as_py(), "the chunk_id holds the character U+0000, which the store refuses")
    return reasons


def _bad_texts(rows: pa.Table, *, limits: Limits) -> dict[str, str]:
    ids, reasons = rows["chunk_id"], dict[str, str]()
    sizes = np.full(rows.num_rows, 4 * _width(rows["vector"]), dtype=np.int64)
    for name in rows.column_names:
        if name == "vector":
            continue
        column = rows[name]
        if name != "title":  # many documents have no title; the other columns are never null in rows of ours
            for place in _places(pc.is_null(column)):
                reasons.setdefault(ids[place].as_py(), f"{name} is null")
        texts, places = column, np.arange(rows.num_rows)
        if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
            counts = pc.fill_null(pc.list_value_length(column), 0)
            if limits.headings is not None:
                for place in _places(pc.greater(counts, limits.headings)):
                    found = counts[place].as_py()
                    reasons.setdefault(
                        ids[place].as_py(), f"{name} has {found} entries, the store takes {limits.headings}"
                    )
            texts, places = pc.list_flatten(column), np.repeat(places, np.asarray(counts))
            for place in _places(pc.is_null(texts)):
                reasons.setdefault(ids[int(places[place])].as_py(), f"{name} has an entry that is null")
        bytes_of = np.asarray(pc.fill_null(pc.binary_length(texts), 0), dtype=np.int64)
        np.add.at(sizes, places, bytes_of)
        if limits.text_bytes is not None:
            for place in np.flatnonzero(bytes_of > limits.text_bytes).tolist():
                reasons.setdefault(
                    ids[int(places[place])].as_py(),
                    f"{name} has {bytes_of[place]} bytes, the store takes {limits.text_bytes} in one text",
                )
        if not limits.nul:
            for place in _places(_holds_nul(texts)):
                reasons.setdefault(
                    ids[int(places[place])].as_py(), f"{name} holds the character U+0000, which the store refuses"
                )
    if limits.row_bytes is not None:
        for place in np.flatnonzero(sizes > limits.row_bytes).tolist():
            reasons.setdefault(
                ids[place].as_py(), f"the row has {sizes[place]} bytes, the store takes {limits.row_bytes}"
            )
    return reasons


def _bad_vectors(rows: pa.Table, *, dimension: int, limits: Limits) -> dict[str, str]:
    reasons = {}
    ids, vectors = rows["chunk_id"], rows["vector"].combine_chunks()
    lengths = pc.fill_null(pc.list_value_length(vectors), 0)
    wrong = _places(pc.not_equal(lengths, dimension))
    for i in wrong:
        reasons[ids[i].as_py()] = f"the vector has {lengths[i].as_py()} dimensions, the index holds {dimension}"
    right = np.setdiff1d(np.arange(rows.num_rows), wrong)
    if len(right):
        # If no length is wrong, no row is copied.
        matrix = matrix_of(vectors if not wrong else vectors.take(pa.array(right)), dimension=dimension)
        for place, problem in direction_problems(matrix):
            reasons[ids[int(right[place])].as_py()] = f"the vector {problem}"
        if limits.unit_vectors:
            with np.errstate(over="ignore", invalid="ignore"):
                norms = np.linalg.norm(matrix, axis=1)
                far: list[int] = np.flatnonzero(np.abs(norms - 1) > 1e-3).tolist()
            for place in far:
                reasons.setdefault(
                    ids[int(right[place])].as_py(),
                    f"the vector's length is {norms[place]:.3g}: the store ranks by Euclidean distance, the same order "
                    "as the cosine for vectors of length 1 only",
                )
    return reasons


def _width(vectors: pa.ChunkedArray) -> int:
    return int(pc.max(pc.fill_null(pc.list_value_length(vectors), 0)).as_py() or 0)


def _holds_nul(texts: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    return pc.fill_null(pc.match_substring(texts, "\0"), False)


def _places(mask: pa.Array | pa.ChunkedArray) -> list[int]:
    # Not Arrow's indices_nonzero, which crashes on a column without chunks (the texts of empty lists are one).
    places: list[int] = np.flatnonzero(np.asarray(mask, dtype=np.bool_)).tolist()
    return places
