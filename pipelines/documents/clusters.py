"""Computes the clusters of near-duplicates for changed documents, and for others whose cluster changes with them.

A document's cluster depends on other documents: a new one can join two clusters, and a deleted one can split a cluster.
The columns that decide this (`_text_hash`, `_near_keys`, `cluster_id`) are in the row of silver.documents that has the
text, so that a crash cannot leave them different. Texts are read only of documents whose cluster may change.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.flow.changed_rows import held_if_few
from pipelines.flow.rows import Rows, as_frame, as_table, mapped, selected, to_pylist, where_in
from pipelines.flow.stage import Context, Versions
from pipelines.lakehouse.delta_folder import FEW_ROWS, HELD_ROWS
from transformations.text import few_near_duplicates
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
    if isinstance(current, pa.Table) and isinstance(desired, pa.Table):
        few = _with_few_clusters(context, current, desired, keys=keys, is_all=versions.since is None)
        if few is not None:
            return few
    from pyspark.sql import Window as Rows
    from pyspark.sql import functions as F
    from pyspark.sql.pandas.types import from_arrow_schema

    settings = context.settings.refine
    current, desired, keys = (as_frame(context, rows) for rows in (current, desired, keys))
    if settings.near_duplicates == "off":
        types = from_arrow_schema(context.lake.spec(TABLE).schema)
        return current, desired.withColumns({c: F.lit(None).cast(types[c].dataType) for c in COLUMNS})
    threshold = settings.near_duplicate_threshold
    signed = signatures(desired, threshold=threshold)
    if versions.since is None:
        now = context.frames.hold(signed)
        found = clusters(desired, now, threshold=threshold).join(now, "document_id")
    else:
        signed = held_if_few(context, signed)
        stored = context.lake.read(TABLE)
        keys = keys.select("document_id").distinct()
        others = stored.join(F.broadcast(keys), "document_id", "left_anti")
        few_found = _few_clusters_of_frames(context, desired, signed, keys=keys)
        if few_found is not None:
            concerned = context.lake.read_keys(TABLE, "document_id", few_found.others)
            found = context.lake.frame(few_found.found)
        else:
            now = context.frames.hold(_signatures(others).unionByName(signed))
            before = _signatures(stored.join(F.broadcast(keys), "document_id", "left_semi"))
            known = stored.select("document_id", "cluster_id")
            among = context.frames.hold(affected(now, known, changed=keys, before=before))
            texts = others.select("document_id", "text").unionByName(desired.select("document_id", "text"))
            found = clusters(texts, now, threshold=threshold, among=among).join(now, "document_id")
            concerned = others.join(F.broadcast(among), "document_id", "left_semi")
        current = current.select(*stored.columns).unionByName(concerned.select(*stored.columns))
        desired = desired.unionByName(concerned.select(*stored.columns).drop(*COLUMNS))
    found = found.select(
        "document_id", "cluster_id", F.col("text_hash").alias("_text_hash"), F.col("keys").alias("_near_keys")
    )
    # All documents of a cluster are here. The file modified last is the newest, then the last arrived; the id breaks
    # ties.
    newest = Rows.partitionBy("cluster_id").orderBy(F.desc("modified_at"), F.desc("_ingested_at"), "document_id")
    desired = desired.join(found, "document_id")
    return current, desired.withColumn("is_representative", F.row_number().over(newest) == 1)


@dataclass(frozen=True)
class FewClusters:
    """The clusters that a few changed documents belong to.

    Attributes:
        found: `SIGNATURE_SCHEMA` and `cluster_id`, one row a document: the changed ones that exist, and `others`.
        others: ids of unchanged documents whose cluster may have changed.
    """

    found: pa.Table
    others: tuple[str, ...]


def few_clusters(
    context: Context, documents: Rows, signed: pa.Table, *, changed: Collection[str], most: int | None = FEW_ROWS
) -> FewClusters | None:
    """Find the clusters of changed documents, and of the documents that they affect, in memory and without Spark.

    Args:
        documents: `document_id` and `text` of the new and changed documents.
        signed: their signatures.
        changed: ids of all new, changed and deleted documents.
        most: the largest number of affected documents that is worked in memory.

    Returns:
        None if more documents are affected, if they meet too many others, or if their texts are too large to hold:
        Spark has to do it.
    """
    stored = context.lake.read_arrow(TABLE, columns=["document_id", "cluster_id", "_text_hash", "_near_keys"])
    stored = stored.rename_columns(["document_id", "cluster_id", "text_hash", "keys"])
    is_changed = pc.is_in(stored["document_id"], pa.array(list(changed), pa.string()))
    before, held = stored.filter(is_changed), stored.filter(pc.invert(is_changed))
    now = pa.concat_tables([held.select(SIGNATURE_SCHEMA.names).cast(SIGNATURE_SCHEMA), signed.cast(SIGNATURE_SCHEMA)])
    among = few_near_duplicates.affected(now, stored, changed=changed, before=before)
    if most is not None and len(among) > most:
        return None
    pairs = few_near_duplicates.candidate_pairs(now, among=among)
    if pairs is None:
        return None
    measured = sorted({document for pair in pairs for document in pair})
    others = among.difference(changed)
    theirs = context.lake.few_keys(TABLE, "document_id", [document for document in measured if document in others])
    if theirs is None:
        return None
    own = where_in(selected(documents, ["document_id", "text"]), "document_id", measured)
    rows = [*to_pylist(selected(theirs, ["document_id", "text"])), *to_pylist(own)]
    texts = {row["document_id"]: row["text"] for row in rows}
    threshold = context.settings.refine.near_duplicate_threshold
    found = few_near_duplicates.clusters(now, among=among, pairs=pairs, texts=texts, threshold=threshold)
    return FewClusters(found, tuple(sorted(others)))


def _with_few_clusters(
    context: Context, current: pa.Table, desired: pa.Table, *, keys: Rows, is_all: bool
) -> tuple[pa.Table, pa.Table] | None:
    """`with_clusters` for few documents that affect few others; None if Spark has to do it.

    Args:
        is_all: whether `current` is the whole table, and `desired` all that it should hold.
    """
    refine, schema = context.settings.refine, context.lake.spec(TABLE).schema
    if refine.near_duplicates == "off":
        for name in COLUMNS:
            desired = desired.append_column(name, pa.nulls(desired.num_rows, schema.field(name).type))
        return current, desired
    sign = signature_batches(refine.near_duplicate_threshold)
    signed = as_table(mapped(context, desired.select(["document_id", "text"]), sign, SIGNATURE_SCHEMA))
    changed = as_table(keys)["document_id"].to_pylist()
    if is_all:
        changed += current["document_id"].to_pylist()
    few = few_clusters(context, desired, signed, changed=changed, most=HELD_ROWS if is_all else FEW_ROWS)
    concerned = None if few is None else context.lake.few_keys(TABLE, "document_id", few.others)
    if few is None or concerned is None:
        return None
    current = pa.concat_tables([current, concerned.select(current.column_names).cast(current.schema)])
    desired = pa.concat_tables([desired, concerned.select(desired.column_names).cast(desired.schema)])
    return current, clustered(desired, few.found, schema)


def clustered(documents: pa.Table, found: pa.Table, schema: pa.Schema) -> pa.Table:
    """Add `COLUMNS` to documents, from the clusters that `few_clusters` found for them.

    `documents` holds all documents of these clusters. The newest of a cluster is its representative: the file modified
    last, then the last arrived; the smallest id breaks ties.
    """
    found = found.take(pc.index_in(documents["document_id"], found["document_id"].combine_chunks()))
    rows = documents.select(["document_id", "modified_at", "_ingested_at"])
    order = pc.sort_indices(
        rows,
        sort_keys=[("modified_at", "descending"), ("_ingested_at", "descending"), ("document_id", "ascending")],
    )
    clusters = found["cluster_id"].to_pylist()
    newest = {clusters[place]: place for place in reversed(order.to_pylist())}
    is_newest = [newest[cluster] == place for place, cluster in enumerate(clusters)]
    columns = (found["cluster_id"], pa.array(is_newest, pa.bool_()), found["text_hash"], found["keys"])
    for name, column in zip(COLUMNS, columns, strict=True):
        documents = documents.append_column(name, column.cast(schema.field(name).type))
    return documents


def _few_clusters_of_frames(
    context: Context, documents: DataFrame, signed: DataFrame, *, keys: DataFrame
) -> FewClusters | None:
    """`few_clusters` for frames; None if they are not few, or if the tables are in a catalog."""
    if not context.lake.is_local:
        return None
    changed = keys.select("document_id").limit(FEW_ROWS + 1).toArrow()["document_id"].to_pylist()
    few = signed.limit(FEW_ROWS + 1).toArrow()
    if max(len(changed), len(few)) > FEW_ROWS:
        return None
    return few_clusters(context, documents, few, changed=changed)


def _signatures(documents: DataFrame) -> DataFrame:
    from pyspark.sql import functions as F

    return documents.select("document_id", F.col("_text_hash").alias("text_hash"), F.col("_near_keys").alias("keys"))
