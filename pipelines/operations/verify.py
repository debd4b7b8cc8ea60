"""Finds every difference between files, tables and indexes. Reads all of them, and corrects nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.documents.delivery import delivery_of
from pipelines.documents.landing import document_id
from pipelines.flow.stage import Context
from pipelines.models.embedders import model_named
from pipelines.quality.dead_letters import open_letters
from pipelines.silver.chunk_documents import COMPARE, cut
from pipelines.vector_index.audit import audit, belongs, distance
from pipelines.vector_index.audit_in_memory import SAME_VECTOR
from pipelines.vector_index.owner import is_foreign
from pipelines.vector_index.state import IndexState, served, states
from pipelines.vector_index.sync import lacking
from transformations.index.fingerprint import row_hash
from transformations.tables.changes import net_changes


@dataclass(frozen=True)
class Difference:
    """One thing that is not as it should be.

    Attributes:
        where: what was compared. "documents": the files with silver.documents; "silver.chunks": the documents, cut
            again, with silver.chunks; "chunks": silver.chunks with gold.chunk_index; the name of an index:
            gold.chunk_index with that index; "index": there is no index.
        kind: missing, ghost (it has no source), stale, duplicate, wrong_filter, wrong_vector, or manifest.
        key: a path or a chunk_id.
        detail: what was found.
    """

    where: str
    kind: str
    key: str
    detail: str = ""


@dataclass(frozen=True)
class Verification:
    """How much was compared, and the differences."""

    documents: int
    chunks: int
    index_rows: int
    fingerprint: str
    version: int | None
    differences: tuple[Difference, ...]

    @property
    def is_equal(self) -> bool:
        return not self.differences

    @property
    def remedies(self) -> list[str]:
        """The commands that correct the differences, in the order in which to run them."""
        tables = {"documents": "silver.documents", "silver.chunks": "silver.chunks", "chunks": "gold.chunk_index"}
        found = {difference.where for difference in self.differences}
        commands = ["lakeloop run"] if found & {"documents", "index"} else []
        commands += [f"lakeloop rebuild {table}" for where, table in tables.items() if where in found]
        commands += ["lakeloop rebuild sync-index"] if found - {*tables, "index"} else []
        return commands

    def to_json(self) -> dict[str, object]:
        found = [asdict(d) for d in self.differences]
        return {"verified": self.is_equal, **asdict(self), "differences": found, "remedies": self.remedies}


def verify(context: Context) -> Verification:
    """Compare files, documents, chunks, gold.chunk_index and its indexes, each with the one before (see `Difference`).

    Needs Spark.
    """
    lake = context.lake
    documents = lake.read_arrow("silver.documents", columns=["document_id", "path", "content_hash"])
    chunks = lake.read_arrow("silver.chunks", columns=["chunk_id"])
    alias = context.settings.index.name
    found = [*_documents(context, documents), *_cut(context)]
    for state in states(lake, alias):
        if state.role != "shadow":
            found += [*_served(context, state), *_vectors(context, state), *_index(context, state)]
    main = served(lake, alias)
    manifest = main.manifest(context.settings) if main else None
    if main is None and chunks.num_rows:
        found.append(Difference("index", "manifest", alias, "there is no index"))
    return Verification(
        documents=documents.num_rows,
        chunks=chunks.num_rows,
        index_rows=manifest.rows if manifest else 0,
        fingerprint=manifest.fingerprint if manifest else "",
        version=manifest.version if manifest else None,
        differences=tuple(found),
    )


def _cut(context: Context) -> Iterator[Difference]:
    """Check that silver.chunks has the chunks that the documents give when they are cut again, except refused ones."""
    from pyspark.sql import functions as F

    lake = context.lake
    if lake.head("silver.documents") is None or lake.head("silver.chunks") is None:
        return
    refused = lake.read_arrow("silver.chunks_quarantine", columns=["chunk_id", "replayed_at"])
    ids = refused.filter(pc.is_null(refused["replayed_at"]))["chunk_id"].to_pylist()
    desired = cut(context, lake.read("silver.documents"))
    desired = desired.where(~F.col("chunk_id").isin(ids)) if ids else desired
    changes = net_changes(lake.read("silver.chunks"), desired, key="chunk_id", compare=COMPARE)
    kinds = {"insert": "missing", "update": "stale", "delete": "ghost"}
    for row in changes.select("chunk_id", "_op").collect():
        yield Difference("silver.chunks", kinds[row["_op"]], row["chunk_id"])


def _served(context: Context, state: IndexState) -> Iterator[Difference]:
    """Check that gold.chunk_index has each chunk unchanged and once, except those with an open dead letter."""
    from pyspark.sql import functions as F

    lake = context.lake
    lake.create("gold.chunk_index")
    refused = [row["chunk_id"] for row in open_letters(lake, stage="embed-chunks", model=state.model)]
    chunks = lake.read("silver.chunks").withColumn("model", F.lit(state.model))
    chunks = chunks.where(~F.col("chunk_id").isin(refused)) if refused else chunks
    rows = lake.read("gold.chunk_index").where(F.col("model") == state.model)
    expected = chunks.select("chunk_id", row_hash().alias("expected"))
    found_row = F.struct(F.col("row_hash"), row_hash().alias("said"), F.col("text_hash"), F.col("vector"))
    found = rows.groupBy("chunk_id").agg(F.first(found_row).alias("found"), F.count("*").alias("copies"))
    kind = (
        F.when(F.col("found").isNull(), "missing")
        .when(F.col("expected").isNull(), "ghost")
        .when(F.col("copies") > 1, "duplicate")
        .when(F.col("found.row_hash") != F.col("expected"), "stale")
        .when(F.col("found.said") != F.col("expected"), "stale")
    )
    for row in expected.join(found, "chunk_id", "full_outer").select("chunk_id", kind.alias("kind")).collect():
        if row["kind"] is not None:
            yield Difference("chunks", row["kind"], row["chunk_id"])


def _vectors(context: Context, state: IndexState) -> Iterator[Difference]:
    """Check that each vector is that of the row's text in the cache; texts that the cache does not have are skipped."""
    from pyspark.sql import functions as F

    lake = context.lake
    if lake.head("gold.embeddings") is None:
        return
    model = model_named(state.model_name)
    cached = lake.read("gold.embeddings").where(
        (F.col("model") == model.name)
        & (F.col("revision") == model.revision)
        & (F.col("instruction") == model.instruction)
        & (F.col("dimension") == model.dimension)
    )
    rows = lake.read("gold.chunk_index").where(F.col("model") == state.model).select("chunk_id", "text_hash", "vector")
    pairs = rows.join(cached.select("text_hash", F.col("vector").alias("cached")), "text_hash")
    # A text that two runs embedded is in the cache twice; the vector must be one of the two.
    apart = pairs.groupBy("chunk_id").agg(F.min(distance("vector", "cached")).alias("apart"))
    for row in apart.where(F.col("apart") > SAME_VECTOR).select("chunk_id").collect():
        yield Difference("chunks", "wrong_vector", row["chunk_id"], "the cache has another vector for its text")


def _index(context: Context, state: IndexState) -> Iterator[Difference]:
    name = state.index_name
    manifest, head = state.manifest(context.settings), context.lake.head("gold.chunk_index")
    if manifest is not None and is_foreign(context.lake, manifest):
        yield Difference(name, "manifest", state.uri, f"of the workspace {manifest.workspace}, {manifest.place}")
        return
    if manifest is None or head is None or not belongs(context.lake, manifest, head=head):
        yield Difference(name, "manifest", state.uri, "no index that belongs to the table as it is")
        return
    lacks = lacking(context, manifest, head=head)
    if lacks.since != lacks.until:
        yield Difference(name, "manifest", "version", f"{manifest.version}, the table is at {head.version}")
    result = audit(context, state)
    for kind, chunk_id in result.differences:
        yield Difference(name, kind, chunk_id)
    if not result.is_fingerprint_right:
        yield Difference(name, "manifest", "fingerprint", f"{manifest.fingerprint} is not the table's")


def _documents(context: Context, documents: pa.Table) -> Iterator[Difference]:
    """Check that each file is a document with the same bytes, or in the quarantine, and each document has a file."""
    refused = context.lake.read_arrow("silver.documents_quarantine", columns=["document_id", "replayed_at"])
    refused_ids = set(refused.filter(pc.is_null(refused["replayed_at"]))["document_id"].to_pylist())
    held = {row["document_id"]: row for row in documents.to_pylist()}
    source = context.settings.ingest.source
    present = set()
    for found in delivery_of(context).found:
        key = document_id(source, found.path)
        present.add(key)
        row = held.get(key)
        if row is None:
            if key not in refused_ids:
                yield Difference("documents", "missing", found.path, "neither a document nor quarantined")
        elif row["content_hash"] != found.content_hash():
            yield Difference("documents", "stale", found.path, "the file's bytes are others")
    for key, row in held.items():
        if key not in present:
            yield Difference("documents", "ghost", row["path"], "no such file")
