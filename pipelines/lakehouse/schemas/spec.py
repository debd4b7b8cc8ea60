"""`TableSpec`: a table's columns, its key and what it is for.

Instants are UTC, microseconds; technical columns start with `_`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pyarrow as pa

STRING, LONG, INT, DOUBLE, BOOL = pa.string(), pa.int64(), pa.int32(), pa.float64(), pa.bool_()
TIMESTAMP = pa.timestamp("us", tz="UTC")
STRINGS = pa.list_(STRING)
# The run that wrote a row as it is, and the version of the stage's source of which it says so.
LINEAGE = (("_run_id", STRING), ("_source_version", LONG))
# Where personal data is in a text: characters [start, end).
SPANS = pa.list_(pa.struct([("kind", STRING), ("start", INT), ("end", INT), ("score", DOUBLE)]))
WINDOW = pa.struct([("start", TIMESTAMP), ("end", TIMESTAMP)])


# What the rows of a table are: what came in; what is true now, and what was; what was refused; what happened; how far
# something came. "own" is a table of the user's, which lakeloop only reads.
Role = Literal["arrivals", "current", "history", "quarantine", "log", "state", "own"]


@dataclass(frozen=True)
class TableSpec:
    """One table, as lakeloop knows it.

    Attributes:
        role: what its rows are.
        key: the columns that name a row; none for a table that is only appended to.
        change_feed: a later stage reads its changes.
        holds: the column by which the rows that tell of one document, text or call are found, where they are to go when
            that is forgotten; "" where no row does.
    """

    schema: pa.Schema
    key: tuple[str, ...] = ()
    change_feed: bool = False
    partition_by: tuple[str, ...] = ()
    role: Role = "own"
    holds: str = ""

    @property
    def columns(self) -> list[str]:
        return list(self.schema.names)

    @property
    def content(self) -> pa.Schema:
        """The columns without the technical ones: what a row says, not how it came to be."""
        return pa.schema([field for field in self.schema if not field.name.startswith("_")])


def table_spec(
    role: Role,
    *columns: tuple[str, pa.DataType],
    key: str = "",
    change_feed: bool = False,
    partition_by: str = "",
    holds: str = "",
) -> TableSpec:
    """A table of lakeloop's own; names of columns in `key` and `partition_by` are apart by spaces."""
    schema = pa.schema(list(columns))
    return TableSpec(schema, tuple(key.split()), change_feed, tuple(partition_by.split()), role, holds)
