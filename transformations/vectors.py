"""Rows of gold.chunk_index in; those that no index may hold, each with its reason, out."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

MAX_ID_LENGTH = 512


def refusals(rows: pa.Table, *, dimension: int) -> dict[str, str]:
    """Why rows are refused, by chunk_id: an id that is too long, a vector that has no direction.

    Cosine similarity is not defined for a vector of norm zero or with values that are no finite numbers.
    """
    reasons = {}
    ids = rows["chunk_id"].to_pylist()
    for key in ids:
        if not key or len(key) > MAX_ID_LENGTH:
            reasons[key] = f"the chunk_id has {len(key)} characters, 1 to {MAX_ID_LENGTH} are allowed"
    lengths = rows["vector"].combine_chunks().value_lengths().to_pylist()
    right = [i for i, length in enumerate(lengths) if length == dimension]
    for i, length in enumerate(lengths):
        if length != dimension:
            reasons[ids[i]] = f"the vector has {length or 0} dimensions, the index holds {dimension}"
    if right:
        # Without wrong lengths no row is copied.
        matrix = matrix_of((rows if len(right) == len(ids) else rows.take(right))["vector"], dimension=dimension)
        norms = np.einsum("ij,ij->i", matrix, matrix)
        for i, norm in zip(right, norms, strict=True):
            if not np.isfinite(norm):
                reasons[ids[i]] = "the vector holds NaN or infinity"
            elif norm == 0:
                reasons[ids[i]] = "the vector has norm zero"
    return reasons


def matrix_of(vectors: pa.ChunkedArray, *, dimension: int) -> NDArray[np.float32]:
    """A column of vectors, all of `dimension`, as float32 [rows, dimension]; a view where Arrow allows one."""
    values = vectors.combine_chunks()
    if isinstance(values, pa.ChunkedArray):  # older pyarrow gives one chunk or more
        values = pa.concat_arrays(values.chunks)
    return np.asarray(values.flatten(), dtype=np.float32).reshape(-1, dimension)
