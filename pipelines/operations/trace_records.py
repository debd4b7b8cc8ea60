"""Finds the rows of a record in the tables of its source, from silver back to bronze."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.flow.stage import Context
from pipelines.records.source import ARRIVAL, declare, record_source


def record_steps(context: Context, name: str) -> Iterator[tuple[str, pa.Table]]:
    """(table, rows) for each table that has the record `name`, in all sources of the settings.

    Args:
        name: the key of a record (the values of several columns are joined by commas), or a record_id of a quarantine.
    """
    for source_name in context.settings.records:
        source = declare(context.lake, record_source(context.settings, source_name))
        keys = list(source.settings.key)
        specs = source.specs()
        now = [name for name in specs[source.silver].columns if name.startswith("_")]
        for table, columns in (
            (source.silver, now),
            (source.history, ["valid_from", "valid_to", "is_current", *now]),
            (source.bronze, [name for name, _ in ARRIVAL]),
        ):
            rows = context.lake.read_arrow(table, columns=list(dict.fromkeys([*keys, *columns])))
            rows = rows.filter(pc.equal(_joined(rows, keys), name))
            if rows.num_rows:
                yield table, rows
        columns = [column for column in specs[source.quarantine].columns if column != "content_hash"]
        refused = context.lake.read_arrow(source.quarantine, columns=columns, where={"record_id": name})
        if refused.num_rows:
            yield source.quarantine, refused


def _joined(rows: pa.Table, keys: list[str]) -> pa.ChunkedArray:
    texts = [pc.cast(rows[key], pa.string()) for key in keys]
    return texts[0] if len(texts) == 1 else pc.binary_join_element_wise(*texts, ",")
