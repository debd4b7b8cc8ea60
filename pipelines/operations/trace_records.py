"""Finds the rows of a source's tables that know of a record, newest place first."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.flow.stage import Context
from pipelines.records.source import ARRIVAL, declare, record_source


def record_steps(context: Context, name: str) -> Iterator[tuple[str, pa.Table]]:
    """Tables and rows of the record `name`: its key (values of a longer key joined by commas) or its record_id.

    Every source of the settings is asked, so one key may name records of several.
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
