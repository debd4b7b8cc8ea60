"""Writes and deletes exactly those rows of an index that an audit found. Embeds nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from pipelines.flow.stage import Context, Versions
from pipelines.models.embedders import model_named
from pipelines.stores import Manifest
from pipelines.vector_index.audit import Audit, audit
from pipelines.vector_index.changes import Changes, rows_of
from pipelines.vector_index.state import IndexState
from pipelines.vector_index.sync import IndexSync
from transformations.errors import RefusedError


def repair(context: Context, state: IndexState) -> dict[str, Any]:
    """Audit the index and correct what differs, at the version that its manifest names.

    Returns:
        The audit's counts of differences, and the counts of the sync, such as its upserts and deletes.
    """
    found = audit(context, state)
    if found.is_equal:
        return {"index": state.index_name, "differences": {}, "upserts": 0, "deletes": 0}
    version = found.manifest.version
    versions = Versions(version, version, found.manifest.source_id)
    sync = IndexSync(context, model_named(state.model_name), versions, command="repair")
    counts = sync.run(lambda sync, manifest, is_clean: _changes(sync, found, manifest))
    return {"index": state.index_name, "differences": found.counts, **counts}


def _changes(sync: IndexSync, found: Audit, manifest: Manifest | None) -> Changes:
    if manifest != found.manifest:
        raise RefusedError(
            f"repair: another run wrote to the index {found.index_name} after it was audited, so that what differs may "
            "be something else by now. Nothing was changed. Run again."
        )
    ghosts, doubled = found.ids("ghost"), found.ids("duplicate")
    wanted = [chunk_id for kind, chunk_id in found.differences if kind != "ghost"]

    def batches() -> Iterator[pa.RecordBatch]:
        ids = pa.array(wanted, pa.string())
        yield from rows_of(sync.context, ids, model=sync.model.label, version=sync.versions.until)

    return Changes(
        mode="repair",
        upserts=len(wanted),
        inserts=found.counts.get("missing", 0),
        deletes=len(ghosts),
        skipped=0,
        vanished=len(ghosts),
        held=found.rows,
        batches=batches,
        gone=ghosts,
        doubled=doubled,
    )
