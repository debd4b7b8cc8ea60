"""Documents in; the pairs of them whose texts are nearly equal, and a cluster for each document, out.

Two texts are near each other where the Jaccard similarity of their sets of three-word shingles is at least a threshold.
Pairs are proposed by MinHash with banding and then *measured*, so that no pair below the threshold is ever reported;
of the pairs at the threshold at least 99.5 % are proposed, of nearer ones more (`transformations.text.shingles`). Equal
texts are always found. Near is not transitive, clusters are: the ends of a chain of small edits share one.

What is known of every document is its row of `signatures`, some 250 bytes. When documents come, change or go, the
clusters that this can touch are found from these rows (`affected`) and made anew (`clusters` with `among`): the result
is that of a computation from scratch, and the texts of all other documents are not read.

    signatures(documents) → rows to keep, one a document
    affected(...)         → the documents whose cluster may have changed
    clusters(...)         → document_id, cluster_id of all documents, or of those
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
# In a crowd (many texts that share a key), each text is measured against so many of it, those with the smallest ids:
# 50,000 pages from one template are a million pairs to measure, not a thousand million.
REACH = 20
SIGNATURE_SCHEMA = pa.schema([("document_id", pa.string()), ("text_hash", pa.string()), ("keys", pa.list_(pa.int64()))])
Batches = Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]


def signatures(documents: DataFrame, *, threshold: float = THRESHOLD) -> DataFrame:
    """What of each document decides whom it can be near to.

    Args:
        documents: `document_id` and `text`, one row a document; other columns are ignored.
        threshold: signatures of different thresholds cannot be compared: keep it in the stage's definition.

    Returns:
        Grain: as `documents`. `document_id`, `text_hash`, and `keys`: two texts share one where they are worth
        measuring; the last one is the text's own. A null text has a null hash and no keys: it is near to nothing.

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
    """The documents whose cluster may not be what it was.

    Args:
        signatures: of all documents as they are now.
        clusters: `document_id`, `cluster_id` of all documents as they were.
        changed: `document_id` of every document that came, whose text changed, or that is gone.
        before: the signatures that these documents had; none for new ones.

    Returns:
        `document_id`, each once: those of `changed` that are still there, whoever shares a key with one of them now or
        did before, and whoever was in a cluster with any of these.
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
    """The cluster of each document: all that are linked by near pairs.

    Args:
        documents: `document_id` and `text` of at least the documents that are asked for.
        signatures: of *all* documents; read several times, so a table or a persisted frame.
        among: `document_id` of those that are asked for, as `affected` gives them; none: all.

    Returns:
        One row a document that is asked for: `document_id`, `cluster_id`. The cluster's id is the smallest id in it.
        A document alone is its own.
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
    """Pairs of different texts that share a key, each text being stood for by its smallest document_id.

    Of the texts that share a key, each is paired with the `reach` smallest; up to `reach` + 1 of them, that is all
    pairs. Memory is bounded by Spark's sort, whatever the crowd.

    Args:
        among: keep pairs of these documents only; crowds are still made of all, so that they are the same ones.

    Returns:
        `left_id` < `right_id`, each pair once.
    """
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    texts = signatures.where("text_hash IS NOT NULL").groupBy("text_hash")
    keyed = _keyed(texts.agg(F.min("document_id").alias("document_id"), F.first("keys").alias("keys")))
    if among is not None:
        mine = _keyed(signatures.join(among.select("document_id"), "document_id", "left_semi")).select("key").distinct()
        keyed = keyed.join(mine, "key", "left_semi")
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

    It is exact for texts of up to 4,096 different shingles. Of a longer one the 4,096 smallest hashes are compared:
    the standard error is at most 0.008, and what a pair costs does not grow with its texts.
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
    """Each id of `pairs` with the smallest id that it is linked to. Memory: some 300 bytes an id, no pairs.

    >>> components([("b", "c"), ("a", "c"), ("x", "y")])
    {'c': 'a', 'b': 'a', 'a': 'a', 'y': 'x', 'x': 'x'}
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
