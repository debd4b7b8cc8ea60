"""Columns, a key and what a table is for in; the `TableSpec` that creates it out.

Instants are UTC, microseconds; technical columns start with `_`.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

STRING, LONG, INT, DOUBLE, BOOL = pa.string(), pa.int64(), pa.int32(), pa.float64(), pa.bool_()
TIMESTAMP = pa.timestamp("us", tz="UTC")
STRINGS = pa.list_(STRING)
# The run that wrote a row as it is, and the version of the stage's source of which it says so.
LINEAGE = (("_run_id", STRING), ("_source_version", LONG))
# Where personal data is in a text: characters [start, end).
SPANS = pa.list_(pa.struct([("kind", STRING), ("start", INT), ("end", INT), ("score", DOUBLE)]))
WINDOW = pa.struct([("start", TIMESTAMP), ("end", TIMESTAMP)])


@dataclass(frozen=True)
class TableSpec:
    """One table: its columns, its key (empty for a log) and whether its changes are read by a later stage."""

    schema: pa.Schema
    key: tuple[str, ...] = ()
    change_feed: bool = False
    partition_by: tuple[str, ...] = ()

    @property
    def columns(self) -> list[str]:
        return list(self.schema.names)

    @property
    def content(self) -> pa.Schema:
        """The columns without the technical ones: what a row says, not how it came to be."""
        return pa.schema([field for field in self.schema if not field.name.startswith("_")])


def table_spec(
    *columns: tuple[str, pa.DataType], key: str = "", change_feed: bool = False, partition_by: str = ""
) -> TableSpec:
    return TableSpec(pa.schema(list(columns)), tuple(key.split()), change_feed, tuple(partition_by.split()))
