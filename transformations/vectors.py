"""Rows of gold.chunk_index in; those that no index may hold, each with its reason, out."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

MAX_ID_LENGTH = 512


def refusals(rows: pa.Table, *, dimension: int) -> dict[str, str]:
    """Why rows are refused, by chunk_id: an id that is too long, a vector that has no direction.

    Cosine similarity is not defined for a vector of norm zero or with values that are no finite numbers.
    """
    reasons = {}
    ids, vectors = rows["chunk_id"], rows["vector"].combine_chunks()
    id_lengths = pc.fill_null(pc.utf8_length(ids), 0)
    lengths = pc.fill_null(pc.list_value_length(vectors), 0)
    for i in _places(pc.or_(pc.equal(id_lengths, 0), pc.greater(id_lengths, MAX_ID_LENGTH))):
        found = id_lengths[i].as_py()
        reasons[ids[i].as_py()] = f"the chunk_id has {found} characters, 1 to {MAX_ID_LENGTH} are allowed"
    wrong = _places(pc.not_equal(lengths, dimension))
    for i in wrong:
        reasons[ids[i].as_py()] = f"the vector has {lengths[i].as_py()} dimensions, the index holds {dimension}"
    right = np.setdiff1d(np.arange(rows.num_rows), wrong)
    if len(right):
        # Without wrong lengths no row is copied.
        matrix = matrix_of(vectors if not wrong else vectors.take(pa.array(right)), dimension=dimension)
        norms = np.einsum("ij,ij->i", matrix, matrix)
        for place in np.flatnonzero(~np.isfinite(norms) | (norms == 0)):
            is_zero = norms[place] == 0
            reasons[ids[right[place]].as_py()] = (
                "the vector has norm zero" if is_zero else "the vector holds NaN or infinity"
            )
    return reasons


def _places(mask: pa.Array | pa.ChunkedArray) -> list[int]:
    places: list[int] = pc.indices_nonzero(mask).to_pylist()
    return places


def matrix_of(vectors: pa.Array | pa.ChunkedArray, *, dimension: int) -> NDArray[np.float32]:
    """A column of vectors, all of `dimension`, as float32 [rows, dimension]; a view where Arrow allows one."""
    values = vectors.combine_chunks() if isinstance(vectors, pa.ChunkedArray) else vectors
    return np.asarray(values.flatten(), dtype=np.float32).reshape(-1, dimension)
