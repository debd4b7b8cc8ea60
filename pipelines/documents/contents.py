"""Reads the bytes of arrived files, one at a time, for rows that name them.

If tables are folders, the bytes of documents never go through the JVM: Spark passes on only the keys of rows, and the
Python worker that parses reads each document's bytes from the table's Parquet files when it comes to it. So the memory
of a run depends on the largest file and the number of workers, not on the number of files or on Spark's memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from pipelines.storage.object_path import AnyPath, readable
from transformations.errors import LakeloopError

# The columns that identify an arrival.
KEY = ("document_id", "_ingested_at", "content_hash")
_READ_BYTES = 1 << 20
Row = Mapping[str, Any]


def of_rows(batches: Iterable[pa.RecordBatch]) -> Iterator[tuple[Row, bytes | None]]:
    """Each row of the batches with its bytes, which the batches have in the column `content`; null: None."""
    for batch in batches:
        content = batch.column("content")
        named = batch.select([name for name in batch.schema.names if name != "content"])
        for place, row in enumerate(named.to_pylist()):
            yield row, content[place].as_py()


def of_files(batches: Iterable[pa.RecordBatch], files: Sequence[AnyPath]) -> Iterator[tuple[Row, bytes | None]]:
    """Each row of the batches with its bytes, which are read from Parquet files of bronze.documents.

    A row that was set aside on arrival (`_rescued`) has None. A row that none of the files has was forgotten since it
    arrived, and is left out. Rows come in the order of the files.

    Raises:
        LakeloopError: a file cannot be read.
    """
    wanted: dict[tuple[Any, ...], Row] = {}
    for batch in batches:
        for row in batch.to_pylist():
            if row["_rescued"] is not None:
                yield row, None
            else:
                wanted[_key(row)] = row
    for file in files:
        if wanted:
            yield from _found(file, wanted)


def _found(file: AnyPath, wanted: dict[tuple[Any, ...], Row]) -> Iterator[tuple[Row, bytes]]:
    """The wanted rows that one file has, with their bytes; they are removed from `wanted`."""
    import pyarrow.parquet as pq

    try:
        # Unbuffered, a whole column of a row group would be in memory.
        with pq.ParquetFile(readable(file), buffer_size=_READ_BYTES) as parquet:
            for group in range(parquet.num_row_groups):
                keys = parquet.read_row_group(group, columns=list(KEY)).to_pylist()
                places = {place: key for place, row in enumerate(keys) if (key := _key(row)) in wanted}
                if not places:
                    continue
                rows = parquet.iter_batches(batch_size=1, row_groups=[group], columns=["content"])
                for place, batch in zip(range(max(places) + 1), rows, strict=False):
                    if place in places and (row := wanted.pop(places[place], None)) is not None:
                        yield row, batch.column(0)[0].as_py()
    except (OSError, pa.ArrowException) as error:
        raise LakeloopError(
            f"refine-documents: {file.name}, a file of bronze.documents, cannot be read ({type(error).__name__}: "
            f"{error}). Put it back from a copy, or ask what the table lacks: lakeloop verify"
        ) from None


def _key(row: Row) -> tuple[Any, ...]:
    return tuple(row[name] for name in KEY)
