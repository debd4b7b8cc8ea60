"""Computes the clusters of near-duplicates for changed documents, and for others whose cluster changes with them.

A document's cluster depends on other documents: a new one can join two clusters, and a deleted one can split a cluster.
The columns that decide this (`_text_hash`, `_near_keys`, `cluster_id`) are in the row of silver.documents that has the
text, so that a crash cannot leave them different. Texts are read only of documents whose cluster may change.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.flow.changed_rows import held_if_few
from pipelines.flow.rows import Rows, as_frame, as_table, mapped
from pipelines.flow.stage import Context, Versions
from pipelines.lakehouse.delta_folder import FEW_ROWS
from transformations.text.near_duplicates import SIGNATURE_SCHEMA, affected, clusters, signature_batches, signatures

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

TABLE = "silver.documents"
COLUMNS = ("cluster_id", "is_representative", "_text_hash", "_near_keys")


def with_clusters(
    context: Context, current: Rows, desired: Rows, *, keys: Rows, versions: Versions
) -> tuple[Rows, Rows]:
    """Add `COLUMNS` to `desired`, and add the other documents whose cluster may have changed.

    Args:
        current: the rows that the table has for `keys`; all its rows if `versions.since` is None.
        desired: the rows that it should have for them, without `COLUMNS`.
        keys: `document_id` of every new, changed or deleted document.

    Returns:
        `current` and `desired`, ready to be compared. The newest document of a cluster is its representative. If
        near-duplicates are off, `COLUMNS` are null.
    """
    settings = context.settings.refine
    if isinstance(desired, pa.Table) and (few := _of_few(context, desired, keys=keys)) is not None:
        return current, few
    from pyspark.sql import Window as Rows
    from pyspark.sql import functions as F
    from pyspark.sql.pandas.types import from_arrow_schema

    current, desired, keys = (as_frame(context, rows) for rows in (current, desired, keys))
    if settings.near_duplicates == "off":
        types = from_arrow_schema(context.lake.spec(TABLE).schema)
        return current, desired.withColumns({c: F.lit(None).cast(types[c].dataType) for c in COLUMNS})
    threshold = settings.near_duplicate_threshold
    signed = signatures(desired, threshold=threshold)
    are_alone = False
    if versions.since is None:
        now = _kept(context, signed)
        found = clusters(desired, now, threshold=threshold)
    elif _are_alone_on_spark(context, signed := held_if_few(context, signed), keys=keys):
        now, found = signed, signed.withColumn("cluster_id", F.col("document_id")).select("document_id", "cluster_id")
        are_alone = True
    else:
        stored = context.lake.read(TABLE)
        keys = keys.select("document_id").distinct()
        others = stored.join(F.broadcast(keys), "document_id", "left_anti")
        now = _kept(context, _signatures(others).unionByName(signed))
        before = _signatures(stored.join(F.broadcast(keys), "document_id", "left_semi"))
        among = _kept(context, affected(now, stored.select("document_id", "cluster_id"), changed=keys, before=before))
        texts = others.select("document_id", "text").unionByName(desired.select("document_id", "text"))
        found = clusters(texts, now, threshold=threshold, among=among)
        concerned = others.join(F.broadcast(among), "document_id", "left_semi").select(*stored.columns)
        current = current.select(*stored.columns).unionByName(concerned)
        desired = desired.unionByName(concerned.drop(*COLUMNS))
    found = found.join(now, "document_id").select(
        "document_id",
        "cluster_id",
        F.col("text_hash").alias("_text_hash"),
        F.col("keys").alias("_near_keys"),
    )
    desired = desired.join(found, "document_id")
    # All documents of a cluster are here. The file modified last is the newest, then the last arrived; the id breaks
    # ties.
    newest = Rows.partitionBy("cluster_id").orderBy(F.desc("modified_at"), F.desc("_ingested_at"), "document_id")
    is_newest = F.lit(True) if are_alone else F.row_number().over(newest) == 1
    return current, desired.withColumn("is_representative", is_newest)


def _of_few(context: Context, desired: pa.Table, *, keys: Rows) -> pa.Table | None:
    """`desired` with `COLUMNS`, if each document is a cluster of its own; None if others must be compared."""
    settings, schema = context.settings.refine, context.lake.spec(TABLE).schema
    if settings.near_duplicates == "off":
        for name in COLUMNS:
            desired = desired.append_column(name, pa.nulls(desired.num_rows, schema.field(name).type))
        return desired
    texts, sign = desired.select(["document_id", "text"]), signature_batches(settings.near_duplicate_threshold)
    signed = as_table(mapped(context, texts, sign, SIGNATURE_SCHEMA))
    if not _are_alone(context, signed, changed=as_table(keys)["document_id"]):
        return None
    signed = signed.take(pc.index_in(desired["document_id"], signed["document_id"].combine_chunks()))
    columns = (signed["document_id"], pa.array([True] * len(signed)), signed["text_hash"], signed["keys"])
    for name, column in zip(COLUMNS, columns, strict=True):
        desired = desired.append_column(name, column.cast(schema.field(name).type))
    return desired


def _are_alone_on_spark(context: Context, signed: DataFrame, *, keys: DataFrame) -> bool:
    """`_are_alone` for frames; False also, without a check, if they are not few or the tables are in a catalog."""
    changed = keys.select("document_id").limit(FEW_ROWS + 1).toArrow()["document_id"]
    if not context.lake.is_local or len(changed) > FEW_ROWS:
        return False
    return _are_alone(context, signed.limit(FEW_ROWS + 1).toArrow(), changed=changed)


def _are_alone(context: Context, found: pa.Table, *, changed: pa.ChunkedArray) -> bool:
    """Whether the changed documents share no key with each other or with another document, now and before the change.

    Most edits are of this kind. One pass over the keys of all documents shows it, without Spark if the table is a
    folder.
    """
    own = _flat(found["keys"])
    if len(np.unique(own)) < len(own):
        return False
    stored = context.lake.read_arrow(TABLE, columns=["document_id", "cluster_id", "_near_keys"])
    is_changed = pc.is_in(stored["document_id"], changed.combine_chunks())
    before, others = stored.filter(is_changed), stored.filter(pc.invert(is_changed))
    meet = np.isin(_flat(others["_near_keys"]), np.concatenate([own, _flat(before["_near_keys"])])).any()
    return not meet and not pc.any(pc.is_in(others["cluster_id"], before["cluster_id"])).as_py()


def _flat(lists: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    return np.asarray(pc.list_flatten(lists).to_numpy(), dtype=np.int64)


def _signatures(documents: DataFrame) -> DataFrame:
    from pyspark.sql import functions as F

    return documents.select("document_id", F.col("_text_hash").alias("text_hash"), F.col("_near_keys").alias("keys"))


def _kept(context: Context, rows: DataFrame) -> DataFrame:
    """The same rows, persisted until the stage ends."""
    rows = rows.persist()
    context.persisted.append(rows)
    return rows
