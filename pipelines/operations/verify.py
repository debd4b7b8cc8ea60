"""Finds every difference between files, tables and indexes. Reads all of them, and corrects nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from pipelines.documents.delivery import delivery_of
from pipelines.documents.landing import document_id
from pipelines.flow.changed_rows import differences
from pipelines.flow.rows import Rows, as_frame, selected, to_pylist, where_in, where_not_in, with_values
from pipelines.flow.stage import Context
from pipelines.models.embedders import model_named
from pipelines.quality.dead_letters import open_letters
from pipelines.silver.chunk_documents import COMPARE, cut
from pipelines.vector_index.audit import audit, belongs, distance
from pipelines.vector_index.audit_in_memory import SAME_VECTOR, served_differences, wrong_vectors
from pipelines.vector_index.owner import is_foreign
from pipelines.vector_index.state import IndexState, served, states
from pipelines.vector_index.sync import lacking
from transformations.index.fingerprint import row_hash

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


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

    Few rows are compared in this process, many on Spark.
    """
    lake = context.lake
    documents = lake.read_arrow("silver.documents", columns=["document_id", "path", "content_hash"])
    chunks = lake.count("silver.chunks")
    alias = context.settings.index.name
    found = [*_documents(context, documents), *_cut(context)]
    for state in states(lake, alias):
        if state.role != "shadow":
            found += [*_served(context, state), *_vectors(context, state), *_index(context, state)]
    main = served(lake, alias)
    manifest = main.manifest(context.settings) if main else None
    if main is None and chunks:
        found.append(Difference("index", "manifest", alias, "there is no index"))
    return Verification(
        documents=documents.num_rows,
        chunks=chunks,
        index_rows=manifest.rows if manifest else 0,
        fingerprint=manifest.fingerprint if manifest else "",
        version=manifest.version if manifest else None,
        differences=tuple(found),
    )


def _cut(context: Context) -> Iterator[Difference]:
    """Check that silver.chunks has the chunks that the documents give when they are cut again, except refused ones."""
    lake = context.lake
    if lake.head("silver.documents") is None or lake.head("silver.chunks") is None:
        return
    refused = lake.read_arrow("silver.chunks_quarantine", columns=["chunk_id"], where={"replayed_at": None})
    ids = refused["chunk_id"].to_pylist()
    desired = where_not_in(cut(context, _rows(context, "silver.documents")), "chunk_id", ids)
    changes = differences(context, _rows(context, "silver.chunks"), desired, key="chunk_id", compare=COMPARE)
    kinds = {"insert": "missing", "update": "stale", "delete": "ghost"}
    for row in to_pylist(selected(changes, ["chunk_id", "_op"])):
        yield Difference("silver.chunks", kinds[row["_op"]], row["chunk_id"])


def _rows(context: Context, table: str) -> Rows:
    few = context.lake.few_rows(table)
    return context.lake.read(table) if few is None else few


def _served(context: Context, state: IndexState) -> Iterator[Difference]:
    """Check that gold.chunk_index has each chunk unchanged and once, except those with an open dead letter."""
    lake = context.lake
    lake.create("gold.chunk_index")
    refused = [row["chunk_id"] for row in open_letters(lake, stage="embed-chunks", model=state.model)]
    chunks = where_not_in(with_values(_rows(context, "silver.chunks"), model=state.model), "chunk_id", refused)
    rows = where_in(_rows(context, "gold.chunk_index"), "model", [state.model])
    if isinstance(chunks, pa.Table) and isinstance(rows, pa.Table):
        found = served_differences(chunks, rows)
    else:
        found = _served_on_spark(as_frame(context, chunks), as_frame(context, rows))
    for kind, chunk_id in found:
        yield Difference("chunks", kind, chunk_id)


def _served_on_spark(chunks: DataFrame, rows: DataFrame) -> list[tuple[str, str]]:
    """`served_differences` of frames."""
    from pyspark.sql import functions as F

    expected = chunks.select("chunk_id", row_hash().alias("expected"))
    hashes = F.struct(F.col("row_hash"), row_hash().alias("computed"))
    found = rows.groupBy("chunk_id").agg(F.first(hashes).alias("found"), F.count("*").alias("copies"))
    kind = (
        F.when(F.col("found").isNull(), "missing")
        .when(F.col("expected").isNull(), "ghost")
        .when(F.col("copies") > 1, "duplicate")
        .when(~F.col("found.row_hash").eqNullSafe(F.col("expected")), "stale")
        .when(F.col("found.computed") != F.col("expected"), "stale")
    )
    both = expected.join(found, "chunk_id", "full_outer").select(kind.alias("kind"), "chunk_id")
    return [(row["kind"], row["chunk_id"]) for row in both.where("kind IS NOT NULL").collect()]


def _vectors(context: Context, state: IndexState) -> Iterator[Difference]:
    """Check that each vector is that of the row's text in the cache; texts that the cache does not have are skipped."""
    if context.lake.head("gold.embeddings") is None:
        return
    rows = where_in(_rows(context, "gold.chunk_index"), "model", [state.model])
    cached = _rows(context, "gold.embeddings")
    model = model_named(state.model_name)
    for column in ("name", "revision", "instruction", "dimension"):
        cached = where_in(cached, "model" if column == "name" else column, [getattr(model, column)])
    if isinstance(rows, pa.Table) and isinstance(cached, pa.Table):
        wrong = wrong_vectors(rows, cached)
    else:
        wrong = _wrong_on_spark(as_frame(context, rows), as_frame(context, cached))
    for chunk_id in wrong:
        yield Difference("chunks", "wrong_vector", chunk_id, "the cache has another vector for its text")


def _wrong_on_spark(rows: DataFrame, cached: DataFrame) -> list[str]:
    """`wrong_vectors` of frames."""
    from pyspark.sql import functions as F

    cached = cached.select("text_hash", F.col("vector").alias("cached"))
    pairs = rows.select("chunk_id", "text_hash", "vector").join(cached, "text_hash")
    apart = F.coalesce(distance("vector", "cached"), F.lit(float("inf")))
    nearest = pairs.groupBy("chunk_id").agg(F.min(apart).alias("apart"))
    return [row["chunk_id"] for row in nearest.where(F.col("apart") > SAME_VECTOR).select("chunk_id").collect()]


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
    where = {"replayed_at": None}
    refused = context.lake.read_arrow("silver.documents_quarantine", columns=["document_id"], where=where)
    refused_ids = set(refused["document_id"].to_pylist())
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
