"""Documents in, the pairs of them whose texts are nearly equal, and a cluster for each document, out.

Two texts are near each other if the Jaccard similarity of their sets of three-word shingles is at least a threshold.
Pairs are proposed by MinHash with banding and then *measured*, so that no pair below the threshold is ever reported. At
least 99.5 % of the pairs at the threshold are proposed, and more of nearer ones (`transformations.text.shingles`).
Equal texts are always found. Nearness is not transitive, but clusters are: both ends of a chain of small edits are in
one cluster.

Each document has a row of `signatures`, some 250 bytes. When documents come, change or go, the clusters that this can
touch are found from these rows (`affected`) and computed again (`clusters` with `among`). The result is that of a
computation from scratch, and the texts of all other documents are not read.

    signatures(documents) → rows to keep, one for each document
    affected(...)         → the documents whose cluster may have changed
    clusters(...)         → document_id, cluster_id of all documents, or of the affected ones
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from transformations.text.canonical_text import words_hash
from transformations.text.shingles import SKETCH_SIZE, meeting_keys, sketch

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

THRESHOLD = 0.8
# In a crowd (many texts that share a key), each text is measured against this many others, those with the smallest
# ids: 50,000 pages from one template are a million pairs to measure, not a thousand million.
REACH = 20
SIGNATURE_SCHEMA = pa.schema([("document_id", pa.string()), ("text_hash", pa.string()), ("keys", pa.list_(pa.int64()))])
Batches = Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]


def signatures(documents: DataFrame, *, threshold: float = THRESHOLD) -> DataFrame:
    """The signature of each document: the keys by which documents that may be near each other are found.

    Args:
        documents: `document_id` and `text`, one row for each document; other columns are ignored.
        threshold: signatures of different thresholds cannot be compared, so it is a part of the stage's definition.

    Returns:
        Grain: as `documents`. `document_id`, `text_hash`, and `keys`: two texts that share one are worth measuring; the
        last key is of the text itself. A null text has a null hash and no keys: it is near to nothing.

    Raises:
        ConfigurationError: the threshold is not above 0 and at most 1.
    """
    from pyspark.sql.pandas.types import from_arrow_schema

    meeting_keys([], threshold=threshold)  # refuse a wrong threshold here, not in a worker
    sign, schema = signature_batches(threshold), from_arrow_schema(SIGNATURE_SCHEMA)
    return documents.select("document_id", "text").mapInArrow(sign, schema)


def signature_batches(threshold: float = THRESHOLD) -> Batches:
    """A function for `mapInArrow`: document_id and text → rows of `signatures`."""

    def sign(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            texts = batch.column("text").to_pylist()
            hashes = [None if text is None else words_hash(text) for text in texts]
            found = meeting_keys([text or "" for text in texts], threshold=threshold)
            keys = [
                [] if own is None else [*bands.view(np.int64).tolist(), _signed(own)]
                for own, bands in zip(hashes, found, strict=True)
            ]
            columns = [batch.column("document_id"), pa.array(hashes, pa.string()), pa.array(keys, pa.list_(pa.int64()))]
            yield pa.RecordBatch.from_arrays(columns, names=SIGNATURE_SCHEMA.names)

    return sign


def affected(signatures: DataFrame, clusters: DataFrame, *, changed: DataFrame, before: DataFrame) -> DataFrame:
    """The documents whose cluster may have changed.

    Args:
        signatures: the signatures of all documents as they are now.
        clusters: `document_id`, `cluster_id` of all documents as they were.
        changed: `document_id` of every document that is new, whose text changed, or that is gone.
        before: the signatures that these documents had; a new one has none.

    Returns:
        `document_id`, each once: those of `changed` that still exist, every document that shares a key with one of
        `changed` or did so before, and every document that was in a cluster with any of these.
    """
    from pyspark.sql import functions as F

    changed = changed.select("document_id").distinct()
    keyed = _keyed(signatures)
    now = keyed.join(F.broadcast(changed), "document_id", "left_semi")
    keys = now.select("key").union(_keyed(before).select("key")).distinct()
    met = keyed.join(F.broadcast(keys), "key", "left_semi").select("document_id").union(changed).distinct()
    of_clusters = clusters.join(F.broadcast(met), "document_id", "left_semi").select("cluster_id").distinct()
    with_them = clusters.join(F.broadcast(of_clusters), "cluster_id", "left_semi").select("document_id")
    return signatures.select("document_id").join(met.union(with_them).distinct(), "document_id", "left_semi")


def clusters(
    documents: DataFrame, signatures: DataFrame, *, threshold: float = THRESHOLD, among: DataFrame | None = None
) -> DataFrame:
    """The cluster of each document: all documents that are linked by near pairs.

    Args:
        documents: `document_id` and `text` of at least the documents that are asked for.
        signatures: those of *all* documents; they are read several times, so pass a table or a persisted frame.
        among: `document_id` of the documents that are asked for, as `affected` gives them; None: all.

    Returns:
        One row for each document that is asked for: `document_id`, `cluster_id`. The cluster's id is the smallest
        document_id in it. A document alone is a cluster of its own.
    """
    from pyspark.sql import functions as F

    asked = signatures if among is None else signatures.join(among.select("document_id"), "document_id", "left_semi")
    firsts = asked.groupBy("text_hash").agg(F.min("document_id").alias("first_id"))
    near = near_pairs(documents, candidate_pairs(signatures, among=among), threshold=threshold)
    linked = (
        near.select("left_id", "right_id")
        .repartition(1)
        .mapInArrow(_component_batches, "_id string, _cluster_id string")
    )
    return (
        asked.select("document_id", "text_hash")
        .join(firsts, "text_hash", "left")
        .join(linked, F.col("first_id") == F.col("_id"), "left")
        .select("document_id", F.coalesce("_cluster_id", "first_id", "document_id").alias("cluster_id"))
    )


def candidate_pairs(signatures: DataFrame, *, among: DataFrame | None = None, reach: int = REACH) -> DataFrame:
    """Pairs of different texts that share a key; the smallest document_id of a text stands for it.

    Of the texts that share a key, each is paired with the `reach` smallest; for up to `reach` + 1 texts, these are all
    pairs. Memory is bounded by Spark's sort, however many texts share a key.

    Args:
        among: keep only pairs of these documents. All documents still count for who is among the `reach` smallest, so
            that the pairs are the same as without `among`.

    Returns:
        `left_id` < `right_id`, each pair once.
    """
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    texts = signatures.where("text_hash IS NOT NULL").groupBy("text_hash")
    keyed = _keyed(texts.agg(F.min("document_id").alias("document_id"), F.first("keys").alias("keys")))
    if among is not None:
        asked_keys = (
            _keyed(signatures.join(among.select("document_id"), "document_id", "left_semi")).select("key").distinct()
        )
        keyed = keyed.join(asked_keys, "key", "left_semi")
    crowd = Window.partitionBy("key").orderBy("document_id")
    ranked = keyed.withColumn("rank", F.row_number().over(crowd))
    first = F.collect_list(F.when(F.col("rank") <= reach, F.col("document_id"))).over(
        crowd.rowsBetween(Window.unboundedPreceding, 0)
    )
    pairs = (
        ranked.withColumn("first", first)
        .where("rank > 1")
        .select(F.explode("first").alias("left_id"), F.col("document_id").alias("right_id"))
        .where("left_id < right_id")
        .distinct()
    )
    if among is None:
        return pairs
    for side in ("left_id", "right_id"):
        pairs = pairs.join(among.select(F.col("document_id").alias(side)), side, "left_semi")
    return pairs.select("left_id", "right_id")


def near_pairs(documents: DataFrame, pairs: DataFrame, *, threshold: float = THRESHOLD) -> DataFrame:
    """Those of `pairs` whose texts are near each other, with the `similarity` of their shingles.

    The similarity is exact for texts of up to 4,096 different shingles. For longer texts the 4,096 smallest hashes are
    compared: the standard error is at most 0.008, and the cost of a pair does not grow with its texts.
    """
    from pyspark.sql import functions as F

    wanted = pairs.select(F.explode(F.array("left_id", "right_id")).alias("document_id")).distinct()
    texts = documents.select("document_id", "text").join(wanted, "document_id", "left_semi")
    sketches = texts.mapInArrow(_sketch_batches, "document_id string, hashes array<bigint>")
    left, right = (
        sketches.select(F.col("document_id").alias(f"{side}_id"), F.col("hashes").alias(side))
        for side in ("left", "right")
    )
    union = F.array_union("left", "right")
    is_whole = (F.size("left") < SKETCH_SIZE) & (F.size("right") < SKETCH_SIZE)
    compared = F.when(is_whole, union).otherwise(F.slice(F.array_sort(union), 1, SKETCH_SIZE))
    shared = F.array_intersect(F.array_intersect("left", "right"), compared)
    measured = pairs.join(left, "left_id").join(right, "right_id")
    measured = measured.select("left_id", "right_id", (F.size(shared) / F.size(compared)).alias("similarity"))
    return measured.where(F.col("similarity") >= threshold)


def _keyed(signatures: DataFrame) -> DataFrame:
    from pyspark.sql import functions as F

    return signatures.select("document_id", F.explode("keys").alias("key"))


def _signed(sha256: str) -> int:
    return int.from_bytes(bytes.fromhex(sha256[:16]), "big", signed=True)


def _sketch_batches(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        hashes = [sketch(text) for text in batch.column("text").to_pylist()]
        columns = [batch.column("document_id"), pa.array(hashes, pa.list_(pa.int64()))]
        yield pa.RecordBatch.from_arrays(columns, names=["document_id", "hashes"])


def _component_batches(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    pairs = (batch.select(["left_id", "right_id"]).to_pydict().values() for batch in batches)
    found = components(pair for left, right in pairs for pair in zip(left, right, strict=True))
    ids = list(found)
    for start in range(0, len(ids), 10_000):
        some = ids[start : start + 10_000]
        columns = [pa.array(some, pa.string()), pa.array([found[i] for i in some], pa.string())]
        yield pa.RecordBatch.from_arrays(columns, names=["_id", "_cluster_id"])


def components(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Give each id of `pairs` the smallest id that it is linked to. Memory: some 300 bytes an id; pairs are not kept.

    >>> sorted(components([("b", "c"), ("a", "c"), ("x", "y")]).items())
    [('a', 'a'), ('b', 'a'), ('c', 'a'), ('x', 'x'), ('y', 'x')]
    """
    parent: dict[str, str] = {}

    def root(node: str) -> str:
        while parent.setdefault(node, node) != node:
            parent[node] = node = parent[parent[node]]
        return node

    for left, right in pairs:
        low, high = sorted((root(left), root(right)))
        parent[high] = low
    return {node: root(node) for node in parent}
