"""`TableSpec`: the columns of a table, its key, and what its rows are.

Instants are UTC, microseconds; technical columns start with `_`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pyarrow as pa

STRING, LONG, INT, DOUBLE, BOOL = pa.string(), pa.int64(), pa.int32(), pa.float64(), pa.bool_()
TIMESTAMP = pa.timestamp("us", tz="UTC")
STRINGS = pa.list_(STRING)
# The run that wrote the row, and the version of the stage's source from which the row was computed.
LINEAGE = (("_run_id", STRING), ("_source_version", LONG))
# Where personal data is in a text: characters [start, end).
SPANS = pa.list_(pa.struct([("kind", STRING), ("start", INT), ("end", INT), ("score", DOUBLE)]))
WINDOW = pa.struct([("start", TIMESTAMP), ("end", TIMESTAMP)])


# What the rows of a table are. "arrivals": what came in; "current": what is true now; "history": what was true when;
# "quarantine": what was refused; "log": what happened; "state": how far something has come; "own": a table of the
# user, which lakeloop only reads.
Role = Literal["arrivals", "current", "history", "quarantine", "log", "state", "own"]


@dataclass(frozen=True)
class TableSpec:
    """One table, as lakeloop knows it.

    Attributes:
        role: what its rows are.
        key: the columns that identify a row; none for a table that is only appended to.
        change_feed: whether the table keeps a change feed, for a stage that reads its changes.
        holds: the column that says which document, text or call a row is about, so that `forget` finds the rows to
            delete; "" if the table has no such rows.
        sorted_by: the column by which appended rows are sorted. Each file then has a narrow range of its values, so
            that a merge of a few values reads few files. In a catalog the table is clustered by it. "": not sorted.
    """

    schema: pa.Schema
    key: tuple[str, ...] = ()
    change_feed: bool = False
    partition_by: tuple[str, ...] = ()
    role: Role = "own"
    holds: str = ""
    sorted_by: str = ""

    @property
    def columns(self) -> list[str]:
        return list(self.schema.names)

    @property
    def content(self) -> pa.Schema:
        """The columns without the technical ones (whose names start with `_`)."""
        return pa.schema([field for field in self.schema if not field.name.startswith("_")])


def table_spec(
    role: Role,
    *columns: tuple[str, pa.DataType],
    key: str = "",
    change_feed: bool = False,
    partition_by: str = "",
    holds: str = "",
) -> TableSpec:
    """The spec of a table that lakeloop writes; `key` and `partition_by` are names of columns, separated by spaces.

    A table with the role current or history, whose key begins with a text, is sorted by the first column of its key.
    """
    schema, keys = pa.schema(list(columns)), tuple(key.split())
    is_merged = role in ("current", "history") and bool(keys) and schema.field(keys[0]).type == STRING
    sorted_by = keys[0] if is_merged else ""
    return TableSpec(schema, keys, change_feed, tuple(partition_by.split()), role, holds, sorted_by)
