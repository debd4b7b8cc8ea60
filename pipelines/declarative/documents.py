"""Declared datasets of documents: every arrival parsed once, and the documents, quarantines and chunks of now.

This is the graph for Databricks' pipelines and for `spark-pipelines` of open-source Spark; docs/quality.md says how to
run it. documents_parsed, documents_valid, documents_refused and chunks_cut hold arrivals and only grow: each is parsed
and cut once. documents, chunks and their quarantines are views of them, made by a platform that can incrementally; they
hold what the tables of the stages hold. pipelines/settings/pipeline.py says what the configuration of the pipeline may
set.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa
from pyspark import pipelines as dp
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema
from pyspark.sql.types import ArrayType

from expectations.rules.rules import check_rules, failed_rules, is_refused
from expectations.targets.declared import expected, kept, refused
from pipelines.documents.describe import DESCRIBED_SCHEMA, PersonalData, describe_batches, rules_of_documents
from pipelines.documents.parse import Limits, parse_batches
from pipelines.lakehouse.schemas import TABLES
from pipelines.settings.pipeline import arrivals_of, pipeline_settings
from pipelines.silver.chunk_documents import CUT_SCHEMA, chunks_of, rules_of_chunks

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    spark: SparkSession  # the pipeline that executes this file defines it

PARSED, VALID, REFUSED, CUT = "documents_parsed", "documents_valid", "documents_refused", "chunks_cut"
_SETTINGS = pipeline_settings(spark.conf)
_RULES, _CHUNK_RULES = rules_of_documents(_SETTINGS.refine), rules_of_chunks(_SETTINGS)
_SOURCE = arrivals_of(spark.conf, "documents")
# Made outside of the definitions: inside, no call to Spark is allowed, and mapInArrow asks it for the columns.
# skipChangeCommits: the deletions of `lakeloop forget` are not arrivals.
_ARRIVALS = spark.readStream.option("skipChangeCommits", "true").table(_SOURCE).where("op <> 'delete'")
_DESCRIBE = describe_batches(parse_batches(Limits.of(_SETTINGS.parse)), personal_data=PersonalData.of(_SETTINGS.refine))
_MADE = _ARRIVALS.mapInArrow(_DESCRIBE, from_arrow_schema(DESCRIBED_SCHEMA))
# Spark Connect gives strings from Python the type "string collate UTF8_BINARY", which delta-rs cannot read in a table.
_PARSED = _MADE.selectExpr(*[f"CAST(`{name}` AS {of}) AS `{name}`" for name, of in _MADE.dtypes])
check_rules(_PARSED, rules=_RULES, table=VALID)
# The documents that were neither deleted since nor forgotten.
_THERE = (
    spark.read.table(_SOURCE)
    .groupBy("document_id")
    .agg(F.max_by("op", F.struct("_ingested_at", "content_hash", "_rescued", "path")).alias("_op"))
    .where("_op <> 'delete'")
    .select("document_id")
)
# An arrival: what the valid ones, the refused ones and their chunks carry of it.
_ARRIVAL = ["document_id", "_ingested_at", "content_hash"]
_CHUNKS_OF, _CHUNK = chunks_of(_SETTINGS), from_arrow_schema(CUT_SCHEMA)
_CUT_FROM = pa.schema([(name, pa.string()) for name in ("document_id", "path", "title", "text", "format", "source")])


def _now(rows: DataFrame) -> DataFrame:
    """The rows that were made of the last arrivals of documents that are still there."""
    rank = F.struct("_ingested_at", "content_hash", "reason", "path")
    last = spark.read.table(PARSED).groupBy("document_id").agg(F.max_by(F.struct(*_ARRIVAL), rank).alias("_last"))
    same = " AND ".join(f"made.`{name}` <=> last._last.`{name}`" for name in _ARRIVAL)
    rows = rows.alias("made").join(last.alias("last"), F.expr(same), "left_semi")
    return rows.join(_THERE, "document_id", "left_semi")


def _of_table(table: str, names: list[str]) -> list[str]:
    """The columns of a stage's table that are among these names, in its order."""
    return [name for name in TABLES[table].columns if name in names]


def _cut(document: Any) -> list[dict[str, Any]]:
    batch = pa.RecordBatch.from_pylist([document.asDict()], schema=_CUT_FROM)
    return [chunk for made in _CHUNKS_OF(iter([batch])) for chunk in made.to_pylist()]


_CHUNKS = F.udf(lambda document: _cut(document), ArrayType(_CHUNK))  # Spark warns of type hints that it does not know


@dp.table(name=PARSED, comment="One arrival of one file, parsed; `reason` where it could not be")
def documents_parsed() -> DataFrame:
    return _PARSED


@dp.table(name=VALID, comment="Arrivals that keep every rule of expectations/tables/documents.py")
@expected(dp, rules=_RULES)
def documents_valid() -> DataFrame:
    return kept(dp, spark.readStream.table(PARSED), rules=_RULES, table=VALID)


@dp.table(name=REFUSED, comment="Arrivals that break a rule, with the names of all that they break")
def documents_refused() -> DataFrame:
    return refused(spark.readStream.table(PARSED), rules=_RULES)


@dp.table(name=CUT, comment="The chunks of valid arrivals, with the names of the rules that each breaks")
def chunks_cut() -> DataFrame:
    rows = spark.readStream.table(VALID)
    rows = rows.select("_ingested_at", "content_hash", F.explode(_CHUNKS(F.struct(*_CUT_FROM.names))).alias("_chunk"))
    columns = [f"CAST(_chunk.`{c.name}` AS {c.dataType.simpleString()}) AS `{c.name}`" for c in _CHUNK.fields]
    rows = rows.selectExpr("_ingested_at", "content_hash", *columns)
    return rows.select("*", failed_rules(_CHUNK_RULES).alias("failed_rules"))


@dp.materialized_view(name="documents", comment="The documents as they are now, as in silver.documents")
def documents() -> DataFrame:
    return _now(spark.read.table(VALID)).select(*_of_table("silver.documents", DESCRIBED_SCHEMA.names))


@dp.materialized_view(name="documents_quarantine", comment="Documents whose last arrival was refused")
def documents_quarantine() -> DataFrame:
    names = [*DESCRIBED_SCHEMA.names, "failed_rules"]
    return _now(spark.read.table(REFUSED)).select(*_of_table("silver.documents_quarantine", names))


@dp.materialized_view(name="chunks", comment="The chunks of the documents as they are now, as in silver.chunks")
def chunks() -> DataFrame:
    rows = _now(spark.read.table(CUT)).where(~is_refused(_CHUNK_RULES))
    return rows.select(*_of_table("silver.chunks", CUT_SCHEMA.names))


@dp.materialized_view(name="chunks_quarantine", comment="Chunks that break a rule")
def chunks_quarantine() -> DataFrame:
    rows = _now(spark.read.table(CUT)).where(is_refused(_CHUNK_RULES))
    return rows.select(*_of_table("silver.chunks_quarantine", [*CUT_SCHEMA.names, "failed_rules"]))
