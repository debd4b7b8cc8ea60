"""Compares an index with its table, row by row and vector by vector, and lists every difference.

Few rows are compared in this process (audit_in_memory.py), and many on Spark: with the same result.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.flow.stage import Context
from pipelines.lakehouse.table_log import commit_id
from pipelines.lakehouse.tables import Head, Lakehouse
from pipelines.quality.dead_letters import open_letters
from pipelines.stores import FILTER_COLUMNS, Manifest
from pipelines.vector_index.audit_in_memory import COMPARED, SAME_VECTOR, Comparison, compare_in_memory
from pipelines.vector_index.owner import identity
from pipelines.vector_index.spark_source import index_rows, read_index
from pipelines.vector_index.state import IndexState, check_owner
from transformations.errors import ConfigurationError
from transformations.index.fingerprint import fingerprint_lanes, fingerprint_of_lanes, row_hash

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

SOURCE = "gold.chunk_index"


@dataclass(frozen=True)
class Audit:
    """The result of comparing an index with its table, at the version that its manifest names.

    Attributes:
        rows: how many rows the index has.
        differences: (kind, chunk_id), sorted; kinds are missing, ghost, duplicate, stale, wrong_filter, wrong_vector.
        is_fingerprint_right: whether the manifest's fingerprint is that of the rows that should be in the index.
    """

    index_name: str
    manifest: Manifest
    rows: int
    differences: tuple[tuple[str, str], ...]
    is_fingerprint_right: bool

    @property
    def is_equal(self) -> bool:
        return not self.differences and self.is_fingerprint_right and self.rows == self.manifest.rows

    @property
    def counts(self) -> dict[str, int]:
        return dict(Counter(kind for kind, _ in self.differences))

    def ids(self, *kinds: str) -> list[str]:
        return [chunk_id for kind, chunk_id in self.differences if kind in kinds]

    def to_json(self, *, limit: int = 1000) -> dict[str, Any]:
        return {
            "index": self.index_name,
            "version": self.manifest.version,
            "fingerprint": self.manifest.fingerprint,
            "is_fingerprint_right": self.is_fingerprint_right,
            "rows": self.rows,
            "equal": self.is_equal,
            "counts": self.counts,
            "differences": [{"kind": kind, "chunk_id": chunk_id} for kind, chunk_id in self.differences[:limit]],
        }


def audit(context: Context, state: IndexState) -> Audit:
    """Compare what readers of the index see with the table, at the version that the manifest names.

    Raises:
        ConfigurationError: there is no index that belongs to the table as it is.
        RefusedError: the index belongs to another workspace.
    """
    manifest = state.manifest(context.settings)
    check_owner(context.lake, manifest, state=state)
    head = context.lake.head(SOURCE)
    if manifest is None or head is None or not belongs(context.lake, manifest, head=head):
        raise ConfigurationError(
            f"audit: there is no index {state.index_name} at {state.uri} that belongs to the table {SOURCE} as it is. "
            "Bring it up to date, which embeds nothing, with: lakeloop sync-index"
        )
    letters = [row["chunk_id"] for row in open_letters(context.lake, stage="sync-index", index_name=state.index_name)]
    version = manifest.version
    found = _compared_here(context, state, version, letters) or _compared_on_spark(context, state, version, letters)
    is_right = manifest.fingerprint == "" or (found.fingerprint, found.expected) == (
        manifest.fingerprint,
        manifest.rows,
    )
    return Audit(state.index_name, manifest, found.rows, tuple(sorted(found.differences)), is_right)


def _compared_here(context: Context, state: IndexState, version: int, letters: Sequence[str]) -> Comparison | None:
    lake = context.lake
    wanted = lake.few_rows(SOURCE, version=version, columns=[*COMPARED, "model"])
    if wanted is None:
        return None
    is_wanted = pc.and_not(
        pc.equal(wanted["model"], state.model), pc.is_in(wanted["chunk_id"], pa.array(letters, pa.string()))
    )
    return compare_in_memory(wanted.filter(is_wanted), index_rows(state, context.settings, own=identity(lake)))


def _compared_on_spark(context: Context, state: IndexState, version: int, letters: Sequence[str]) -> Comparison:
    from pyspark.sql import functions as F

    wanted = context.lake.read(SOURCE, version=version).where(F.col("model") == state.model)
    wanted = wanted.where(~F.col("chunk_id").isin(letters)) if letters else wanted
    held = read_index(context.lake.spark, context.settings, index=state.index_name)
    expected = wanted.select("chunk_id", _digests(hash_column=F.col("row_hash")).alias("expected"))
    found = held.select("chunk_id", "row_hash", _digests(hash_column=row_hash()).alias("found"))
    found = found.groupBy("chunk_id").agg(
        F.first("found").alias("found"), F.first("row_hash").alias("row_hash"), F.count("*").alias("copies")
    )
    both = context.frames.hold(expected.join(found, "chunk_id", "full_outer"))
    try:
        totals = both.agg(
            F.coalesce(F.sum("copies"), F.lit(0)).alias("rows"),
            F.count("expected").alias("expected"),
            *fingerprint_lanes(F.col("expected.row_hash")),
        ).first()
        assert totals is not None
        differing = both.select(_kind().alias("kind"), "chunk_id").where("kind IS NOT NULL").collect()
    finally:
        context.frames.release(both)
    unlike = [row["chunk_id"] for row in differing if row["kind"] == "wrong_vector"]
    near = _equal_enough(context, wanted, held, unlike) if unlike else set()
    differences = [(row["kind"], row["chunk_id"]) for row in differing if row["chunk_id"] not in near]
    right = fingerprint_of_lanes(totals["high"], totals["low"])
    return Comparison(totals["rows"], differences, right, totals["expected"])


def belongs(lake: Lakehouse, manifest: Manifest, *, head: Head) -> bool:
    """Whether the version that the manifest names is a version of this table, and the same commit.

    It is not if the table was re-created, or restored from a copy and then got another commit with that number.
    """
    if manifest.source_id not in ("", head.table_id) or manifest.version > head.version:
        return False
    now = commit_id(lake, SOURCE, manifest.version) if manifest.commit else None
    return now is None or now == manifest.commit


def _digests(*, hash_column: Column) -> Column:
    """The parts of a row that are compared, as hashes, which are cheap to shuffle."""
    from pyspark.sql import functions as F

    return F.struct(
        hash_column.alias("row_hash"),
        F.sha2("text", 256).alias("text"),
        F.xxhash64(*FILTER_COLUMNS).alias("filters"),
        F.xxhash64("vector").alias("vector"),
    )


def _kind() -> Column:
    from pyspark.sql import functions as F

    return (
        F.when(F.col("found").isNull(), "missing")
        .when(F.col("expected").isNull(), "ghost")
        .when(F.col("copies") > 1, "duplicate")
        .when(~F.col("expected.text").eqNullSafe(F.col("found.text")), "stale")
        .when(~F.col("expected.filters").eqNullSafe(F.col("found.filters")), "wrong_filter")
        # If a row's stored hash was altered, the next comparison of hashes would be wrong.
        .when(~F.col("expected.row_hash").eqNullSafe(F.col("found.row_hash")), "stale")
        .when(~F.col("expected.row_hash").eqNullSafe(F.col("row_hash")), "stale")
        .when(~F.col("expected.vector").eqNullSafe(F.col("found.vector")), "wrong_vector")
    )


def _equal_enough(context: Context, wanted: DataFrame, held: DataFrame, ids: Sequence[str]) -> set[str]:
    """Those of `ids` whose two vectors differ at most in their last bits."""
    from pyspark.sql import functions as F

    unlike = context.lake.frame(pa.table({"chunk_id": pa.array(ids, pa.string())}))
    pairs = unlike.join(wanted.select("chunk_id", F.col("vector").alias("a")), "chunk_id").join(
        held.select("chunk_id", F.col("vector").alias("b")), "chunk_id"
    )
    return {row["chunk_id"] for row in pairs.where(distance("a", "b") <= SAME_VECTOR).select("chunk_id").collect()}


def distance(first: str, second: str) -> Column:
    """The largest difference of two vectors in any dimension; infinite if they have different numbers of dimensions."""
    from pyspark.sql import functions as F

    apart = F.array_max(F.zip_with(first, second, lambda a, b: F.abs(F.coalesce(a - b, F.lit(float("inf"))))))
    return F.when(F.col(first).eqNullSafe(F.col(second)), F.lit(0.0)).otherwise(apart)
