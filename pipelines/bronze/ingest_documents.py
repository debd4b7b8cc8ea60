"""ingest-documents: appends a row to bronze.documents for each new, changed or deleted file of the folder.

Needs no JVM if tables are folders, so that a run with nothing new is cheap.
"""

from __future__ import annotations

import logging
from datetime import timedelta
from itertools import chain, repeat
from typing import Any

import pyarrow as pa

from pipelines.documents.delivery import LOOKS, TABLE, Delivery, arrivals, delivery_of, refuse_mass_delete
from pipelines.flow.stage import Context, Counts, Stage, Work

log = logging.getLogger(__name__)
_BATCH_BYTES = 32 * 1024 * 1024


def look(context: Context) -> Work | None:
    """Whether a file differs from its last arrival, or is gone; if none does, the looks are remembered.

    `found` of the work is the delivery, and an iterator with a row (or None, if unchanged) for each of its files. Files
    after the first difference are read only when `work` comes to them.
    """
    delivery = delivery_of(context)
    rows = arrivals(delivery, context.settings.ingest, now=context.now)
    same = 0
    for row in rows:
        if row is not None:
            return Work(found=(delivery, chain(repeat(None, same), [row], rows)))
        same += 1
    if delivery.gone:
        return Work(found=(delivery, repeat(None, same)))
    _remember(context, delivery)
    return None


def work(context: Context, due: Work) -> Counts:
    """Append a row for each new, changed or deleted file. Counts: documents new, changed, gone, unchanged, set_aside.

    Raises:
        RefusedError: too large a share of the documents is gone, as after a failed mount.
    """
    ingest = context.settings.ingest
    delivery: Delivery
    delivery, arriving = due.found
    refuse_mass_delete(context, delivery)
    if delivery.elsewhere:
        log.warning(
            "ingest-documents: ingest.source is %r; the %d documents of %s are gone with their source",
            ingest.source,
            len(delivery.elsewhere),
            ", ".join(sorted({repr(last.source) for last in delivery.elsewhere})),
        )
    technical = {
        "source": ingest.source,
        # Arrivals are ordered by this instant, so it never goes back, whatever the clock does.
        "_ingested_at": max(context.now(), delivery.last_at + timedelta(microseconds=1)),
        "_run_id": context.run_id,
    }
    counts = {"new": 0, "changed": 0, "gone": 0, "unchanged": 0, "set_aside": 0}
    rows: list[dict[str, Any]] = []
    size = 0
    with context.progress.step("ingest-documents", total=len(delivery.found)) as step:
        for found, row in zip(delivery.found, arriving, strict=True):
            step.advance()
            if row is None:
                counts["unchanged"] += 1
                continue
            before = delivery.known.get(found.path)
            counts["new" if before is None or before.op == "delete" else "changed"] += 1
            counts["set_aside"] += row["_rescued"] is not None
            rows.append({**row, **technical})
            size += len(row.get("content") or b"")
            if size >= _BATCH_BYTES:
                _append(context, rows)
                rows, size = [], 0
    for last in delivery.gone:
        counts["gone"] += 1
        what = {"document_id": last.document_id, "path": last.path, "op": "delete"}
        rows.append({**technical, **what, "source": last.source})
    _append(context, rows)
    _remember(context, delivery)
    return counts


def _append(context: Context, rows: list[dict[str, Any]]) -> None:
    if rows:
        schema = context.lake.spec(TABLE).schema
        context.lake.append_arrow(TABLE, pa.Table.from_pylist(rows, schema=schema))


def _remember(context: Context, delivery: Delivery) -> None:
    if delivery.looks:
        context.lake.append_arrow(LOOKS, delivery.looks)
        delivery.looks.clear()


STAGE = Stage(
    "ingest-documents",
    "Files that are new, changed or gone → bronze.documents.",
    look,
    work,
    targets=(TABLE,),
    records="it holds what arrived: the next lakeloop run compares it with the landing folder",
)
