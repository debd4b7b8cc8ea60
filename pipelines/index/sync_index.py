"""Changes of gold.chunk_index in; the vector index equal to it, and its manifest saying so, out.

How far the index has come is read from the index itself, so that a lost or restored index is noticed. Where its
manifest does not fit the table, or the history it would need is gone, ids and hashes are compared instead and only the
difference is written.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil
from typing import TYPE_CHECKING

import pyarrow as pa

from pipelines.models.embedders import embedding_model
from pipelines.stage import Context, Counts, Window
from pipelines.stores import Manifest, Store, open_store
from transformations.changes import fold_changes, net_changes
from transformations.errors import ConfigurationError
from transformations.fingerprint import fingerprint

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

SOURCE = "gold.chunk_index"
_ROWS_PER_CALL = 10_000


def due(context: Context) -> Window | None:
    """The versions of the table that the index lacks; None where it has all of them. Needs no JVM."""
    head = context.lake.head(SOURCE)
    if head is None:
        return None
    manifest = _store(context).manifest()
    if manifest is None or manifest.source_id != head.table_id or manifest.version > head.version:
        return Window(None, head.version, head.table_id)
    _check_model(context, manifest)
    if manifest.version == head.version:
        return None
    return Window(manifest.version, head.version, head.table_id)


def run(context: Context, window: Window) -> Counts:
    """Counts: index upserts, deletes and the rows that it then has."""
    store, model = _store(context), embedding_model(context.settings)
    with context.progress.step("sync-index") as step:
        changes = _since(context, window) if window.since is not None else _difference(context, store, window)
        changes = changes.persist()
        try:
            counts = {row["_op"]: row["count"] for row in changes.groupBy("_op").count().collect()}
            upserts, deletes = counts.get("upsert", 0), counts.get("delete", 0)
            # New before old: a reader without atomic commits meets a document twice rather than not at all.
            for rows in _slices(changes.where("_op = 'upsert'").drop("_op"), count=upserts):
                store.upsert(rows)
                step.advance(rows.num_rows)
            if deletes:
                store.delete(changes.where("_op = 'delete'").select("chunk_id").toArrow()["chunk_id"].to_pylist())
        finally:
            changes.unpersist()
        hashes = context.lake.read_arrow(SOURCE, columns=["row_hash"])["row_hash"].to_pylist()
        store.commit(
            Manifest(
                source_table=SOURCE,
                source_id=window.source_id,
                version=window.until,
                fingerprint=fingerprint(hashes),
                model=model.name,
                revision=model.revision,
                dimension=model.dimension,
                instruction=model.instruction,
                rows=len(hashes),
            )
        )
    return {"upserts": upserts, "deletes": deletes, "rows": len(hashes)}


def _since(context: Context, window: Window) -> DataFrame:
    assert window.since is not None
    return fold_changes(context.lake.read_changes(SOURCE, after=window.since, until=window.until), key="chunk_id")


def _difference(context: Context, store: Store, window: Window) -> DataFrame:
    from pyspark.sql import functions as F

    ids = pa.schema([("chunk_id", pa.string()), ("row_hash", pa.string())])
    held = context.lake.spark.createDataFrame(pa.Table.from_batches(store.ids_with_hashes(), schema=ids))
    wanted = context.lake.read(SOURCE, version=window.until)
    changes = net_changes(held, wanted, key="chunk_id", compare=["row_hash"])
    return changes.withColumn("_op", F.when(F.col("_op") == "delete", "delete").otherwise("upsert"))


def _slices(rows: DataFrame, *, count: int) -> Iterator[pa.Table]:
    from pyspark.sql import functions as F

    slices = ceil(count / _ROWS_PER_CALL)
    for number in range(slices):
        yield rows.where(F.pmod(F.xxhash64("chunk_id"), F.lit(slices)) == number).toArrow()


def _store(context: Context) -> Store:
    return open_store(context.settings, dimension=embedding_model(context.settings).dimension)


def _check_model(context: Context, manifest: Manifest) -> None:
    model = embedding_model(context.settings)
    held = (manifest.model, manifest.revision, manifest.dimension, manifest.instruction)
    if held != (model.name, model.revision, model.dimension, model.instruction):
        raise ConfigurationError(
            f"sync-index: the index at {context.settings.index_uri} holds vectors of {held}, the settings name "
            f"{model.label}. An index never holds two models: name another index with index.name."
        )
