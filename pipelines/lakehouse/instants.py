"""Finds instants in Parquet files that delta-rs would misread: it would return another instant than Spark."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.storage.object_path import AnyPath, readable

# The range of instants that fit into 64 bits as nanoseconds, in microseconds: 1677-09-21 to 2262-04-11.
_FIRST, _LAST = -(2**63) // 1000 + 1, (2**63 - 1) // 1000
# Files (with columns) whose instants were checked and are right; a file of a table never changes.
_sound: set[str] = set()


def misread(files: Iterable[AnyPath | str], schema: pa.Schema) -> bool:
    """Whether delta-rs would misread an instant in these columns of these files.

    Spark can write instants in an old form (INT96) that delta-rs reads as 64 bits of nanoseconds, which hold only the
    years 1677 to 2262: 9999-12-31 becomes a day of 1816, and a merge would store that. lakeloop makes Spark write
    microseconds, but older tables, and tables written by another session, may have such files.
    """
    instants = [field.name for field in schema if has_type(field.type, pa.types.is_timestamp)]
    for path in files if instants else ():
        place = f"{path} {instants}"
        if place in _sound:
            continue
        if _beyond_nanoseconds(path, instants):
            return True
        _sound.add(place)
    return False


def _beyond_nanoseconds(path: AnyPath | str, columns: Sequence[str]) -> bool:
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(readable(path), coerce_int96_timestamp_unit="us")
    except (OSError, pa.ArrowInvalid):
        return False  # the read that follows reports the missing or broken file
    with file:
        leaves = [file.metadata.schema.column(n) for n in range(file.metadata.num_columns)]
        old = {leaf.path.partition(".")[0] for leaf in leaves if leaf.physical_type == "INT96"}
        # A column's name may contain dots itself, so this may select a column too many, never one too few.
        wanted = [c for c in columns if c.partition(".")[0] in old]
        for batch in file.iter_batches(columns=wanted) if wanted else ():
            if any(_is_beyond(column) for column in batch.columns):
                return True
    return False


def _is_beyond(values: pa.Array) -> bool:
    if pa.types.is_timestamp(values.type):
        micros = values.cast(pa.timestamp("us", values.type.tz)).cast(pa.int64())
        ends = pc.min_max(micros).as_py()
        return ends["min"] is not None and (ends["min"] < _FIRST or ends["max"] > _LAST)
    if pa.types.is_struct(values.type):
        return any(_is_beyond(part) for part in values.flatten())
    if pa.types.is_map(values.type):
        return _is_beyond(values.keys) or _is_beyond(values.items)
    return (pa.types.is_list(values.type) or pa.types.is_large_list(values.type)) and _is_beyond(values.flatten())


def has_type(of: pa.DataType, kind: Any) -> bool:
    """Whether `kind`, such as `pa.types.is_timestamp`, is true of the type or of a type inside it."""
    if pa.types.is_map(of):
        return has_type(of.key_type, kind) or has_type(of.item_type, kind)
    if pa.types.is_struct(of):
        return any(has_type(field.type, kind) for field in of)
    if pa.types.is_list(of) or pa.types.is_large_list(of) or pa.types.is_fixed_size_list(of):
        return has_type(of.value_type, kind)
    return bool(kind(of))
