"""Documents that come, change or go in; they, and whoever their coming and going concerns, with their clusters, out.

A document's cluster depends on others: one that comes can join two, one that goes can part them. What decides is kept
in each row of silver.documents (`_text_hash`, `_near_keys`, `cluster_id`), written together with its text, so that no
crash can part them; the texts are read of those alone whose cluster may change.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.flow.changed_rows import held_if_few
from pipelines.flow.stage import Context, Versions
from pipelines.lakehouse.tables import FEW_ROWS
from transformations.text.near_duplicates import affected, clusters, signatures

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

TABLE = "silver.documents"
COLUMNS = ("cluster_id", "is_representative", "_text_hash", "_near_keys")


def with_clusters(
    context: Context, current: DataFrame, desired: DataFrame, *, keys: DataFrame, versions: Versions
) -> tuple[DataFrame, DataFrame]:
    """Give `desired` its clusters, and put beside it the other documents whose cluster may have changed.

    Args:
        current: the rows that the table has of `keys`; all its rows where the versions are everything.
        desired: the rows that it should have of them, without `COLUMNS`.
        keys: `document_id` of every document that came, changed or went.

    Returns:
        Both frames, ready to be compared. The newest document of a cluster represents it. Where near-duplicates are
        off nothing was looked for: `COLUMNS` are null.
    """
    from pyspark.sql import Window as Rows
    from pyspark.sql import functions as F
    from pyspark.sql.pandas.types import from_arrow_schema

    settings = context.settings.refine
    if settings.near_duplicates == "off":
        types = from_arrow_schema(context.lake.spec(TABLE).schema)
        return current, desired.withColumns({c: F.lit(None).cast(types[c].dataType) for c in COLUMNS})
    threshold = settings.near_duplicate_threshold
    signed = signatures(desired, threshold=threshold)
    are_alone = False
    if versions.since is None:
        now = _kept(context, signed)
        found = clusters(desired, now, threshold=threshold)
    elif _are_alone(context, signed := held_if_few(context, signed), keys=keys):
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
    # All of a cluster is here. What was written last is what holds; the id decides only where nothing else does.
    newest = Rows.partitionBy("cluster_id").orderBy(F.desc("modified_at"), F.desc("_ingested_at"), "document_id")
    is_newest = F.lit(True) if are_alone else F.row_number().over(newest) == 1
    return current, desired.withColumn("is_representative", is_newest)


def _are_alone(context: Context, signed: DataFrame, *, keys: DataFrame) -> bool:
    """Whether the changed documents share no key with each other or with any other, and did not before.

    Most edits are of such, and one pass over the keys of all documents tells, without Spark where the table is a
    folder. False where it would take more: nobody has looked.
    """
    found = signed.limit(FEW_ROWS + 1).toArrow()
    changed = keys.select("document_id").limit(FEW_ROWS + 1).toArrow()["document_id"]
    if not context.lake.is_local or len(changed) > FEW_ROWS:
        return False
    own = _flat(found["keys"])
    if len(np.unique(own)) < len(own):
        return False
    stored = context.lake.read_arrow(TABLE, columns=["document_id", "cluster_id", "_near_keys"])
    is_changed = pc.is_in(stored["document_id"], changed)
    before, others = stored.filter(is_changed), stored.filter(pc.invert(is_changed))
    meet = np.isin(_flat(others["_near_keys"]), np.concatenate([own, _flat(before["_near_keys"])])).any()
    return not meet and not pc.any(pc.is_in(others["cluster_id"], before["cluster_id"])).as_py()


def _flat(lists: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    return np.asarray(pc.list_flatten(lists).to_numpy(), dtype=np.int64)


def _signatures(documents: DataFrame) -> DataFrame:
    from pyspark.sql import functions as F

    return documents.select("document_id", F.col("_text_hash").alias("text_hash"), F.col("_near_keys").alias("keys"))


def _kept(context: Context, rows: DataFrame) -> DataFrame:
    """Computed once; it goes with the stage."""
    rows = rows.persist()
    context.persisted.append(rows)
    return rows
